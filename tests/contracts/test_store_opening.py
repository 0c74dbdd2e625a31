"""From an address to a store: what is taken, what is refused, and that no address shows a secret."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.stores import open_store
from pipeline.domain.errors import OutputError, UserError


def test_open_store_forms(tmp_path: Path) -> None:
    """Plain paths and file addresses, with escapes, meet in one directory."""
    place = tmp_path / "with space"
    open_store(str(place)).put("a", b"x")
    assert open_store(place.as_uri()).get("a") == b"x"
    assert open_store(open_store(str(place)).uri).get("a") == b"x"


def test_named_memory_stores_are_shared() -> None:
    """One name is one store in this process; another name is another."""
    open_store("memory://shared-by-name").put("a", b"x")
    assert open_store("memory://shared-by-name").get("a") == b"x"
    assert open_store("memory://another-name").list("") == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/x",
        "s3://SECRET@bucket/x",
        "s3://bucket/x?aws_secret_access_key=SECRET",
        "gs://bucket/x#SECRET",
        "sftp://somebody:SECRET@host/x",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    """An address with credentials is refused, since addresses are printed and kept; the message shows none of it."""
    with pytest.raises(UserError, match="set credentials in the environment") as caught:
        open_store(uri)
    assert "SECRET" not in str(caught.value)
    assert "KEY:" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://host/x", "http://host/x", "local://tmp/x", "simplecache::s3://bucket/x"])
def test_what_is_no_store(uri: str) -> None:
    """What fsspec can read and what keeps no promise of a store is refused with what to name instead."""
    with pytest.raises(UserError, match="s3://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize(
    "uri", ["", "  ", "file://host/x", "file://", "s3://", "s3:///x", "s3://bucket/a//b", "gs://bucket/../x"]
)
def test_addresses_that_name_no_place(uri: str) -> None:
    """An empty place, a missing bucket, a climbing prefix and a file address with a host are the user's mistake."""
    with pytest.raises(UserError):
        open_store(uri)


def test_unknown_schemes() -> None:
    """A mistyped scheme is said to be unknown, with the known ones."""
    with pytest.raises(UserError, match="storage scheme 's33': unknown; a place is a path, file:///path, s3://"):
        open_store("s33://bucket/x")


def test_settings_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that cannot even begin for want of settings is the user's to mend, and its words are not repeated."""
    import fsspec

    class Wanting(fsspec.AbstractFileSystem):
        def __init__(self, **settings: Any) -> None:
            raise ValueError("account SECRET wants a key")

    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "wanting", Wanting)
    with pytest.raises(OutputError, match=r"wanting://x: cannot be opened \(ValueError\); the credentials") as caught:
        open_store("wanting://x")
    assert "SECRET" not in str(caught.value)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme whose package is not installed names what to install."""
    registry: Any = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"pip install 'facemint\[s3\]'"):
        open_store("s3://bucket/x")
    about = {"class": "absent_package.FileSystem", "err": "please install absent_package"}
    monkeypatch.setitem(registry.known_implementations, "absent", about)
    with pytest.raises(UserError, match=r"absent addresses need a package .* please install absent_package"):
        open_store("absent://bucket/x")


def test_stores_are_light_to_import() -> None:
    """Nothing of fsspec or of S3 is imported before a remote address is opened."""
    code = (
        "import sys\n"
        "from pipeline.adapters.stores import open_store\n"
        "open_store('memory://')\n"
        "print(*sorted({'fsspec', 's3fs', 'botocore', 'aiohttp'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
