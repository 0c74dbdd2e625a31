"""The cache of weights: fetched once, known by digest, re-checked cheaply; every mishap is one line."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from pipeline.adapters.models import ModelWeights
from pipeline.adapters.models.places import hub_file, local_path, shown
from pipeline.domain.errors import ModelError
from pipeline.domain.weights import Weights, WeightsRef

STATE = {"a.weight": torch.arange(12.0)}
COMMIT = "0123456789abcdef" * 2 + "01234567"


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def bucket(tmp_path: Path) -> tuple[str, str]:
    """Return the address of weights in a bucket, and their digest."""
    save_file(STATE, tmp_path / "made")
    data = (tmp_path / "made").read_bytes()
    uri = f"memory://{uuid.uuid4().hex}/weights.safetensors"
    with fsspec.open(uri, "wb") as file:
        file.write(data)
    return uri, hashlib.sha256(data).hexdigest()


def change(uri: str) -> None:
    with fsspec.open(uri, "wb") as file:
        file.write(b"others")


def test_a_local_file_is_used_where_it_lies(tmp_path: Path) -> None:
    """A path, with `~` or `file://` too, is not copied; its digest is computed, and a stated one is compared."""
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    weights: Weights = ModelWeights(tmp_path / "cache")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for uri in (str(path), f"file://{path}"):
        assert weights.path(WeightsRef(uri=uri, sha256=digest)) == path
        assert weights.sha256(WeightsRef(uri=uri)) == digest
        assert torch.equal(weights.tensors(WeightsRef(uri=uri))["a.weight"], STATE["a.weight"])
    with pytest.raises(ModelError, match=r"has SHA-256 .* states bbbbbbbbbbbb") as caught:
        weights.path(WeightsRef(uri=str(path), sha256="b" * 64))
    one_line(caught)
    with pytest.raises(ModelError, match="no such file"):
        weights.tensors(WeightsRef(uri=str(tmp_path / "none")))


def test_a_changed_file_is_hashed_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    """Size, time and inode stand for the bytes: while they stay, no byte is read again, in this process or the next."""
    path, ref = tmp_path / "w", WeightsRef(uri=str(tmp_path / "w"))
    path.write_bytes(b"one")
    first = ModelWeights(tmp_path / "cache").sha256(ref)
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ModelWeights(tmp_path / "cache").sha256(ref) == first, "nothing that is compared has changed"
    assert ModelWeights(tmp_path / "cache").cache.digest(path, afresh=True) == hashlib.sha256(b"two").hexdigest()
    path.write_bytes(b"three")
    assert ModelWeights(tmp_path / "cache").sha256(ref) == hashlib.sha256(b"three").hexdigest()


def test_runs_fetch_nothing_and_say_how_to(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """Offline is the default: what is not in the cache names the command that fetches it, with the pinned digest."""
    uri, digest = bucket
    with pytest.raises(ModelError, match=rf"runs fetch nothing; run: facemint models fetch {uri} --sha256 {digest}"):
        ModelWeights(tmp_path / "cache").tensors(WeightsRef(uri=uri, sha256=digest))
    assert not (tmp_path / "cache").exists()


def test_a_place_left_open_for_a_commit_is_named_before_a_command_that_cannot_work(tmp_path: Path) -> None:
    """Shipped recipes say COMMIT: offline too, the message asks for one."""
    with pytest.raises(ModelError, match=r"'COMMIT' is no commit.*40 hexadecimal digits"):
        ModelWeights(tmp_path / "cache").path(WeightsRef(uri="hf://owner/name@COMMIT/file"))


def test_what_was_fetched_once_is_there_without_its_source(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """After one fetch the bytes serve offline, by address and by digest, though the bucket holds others by now."""
    uri, digest = bucket
    fetched = ModelWeights(tmp_path / "cache", may_fetch=True).path(WeightsRef(uri=uri))
    assert fetched.name == digest
    assert not fetched.stat().st_mode & stat.S_IWUSR, "nobody writes into it by mistake"
    change(uri)
    offline = ModelWeights(tmp_path / "cache")
    assert offline.sha256(WeightsRef(uri=uri)) == digest
    for ref in (
        WeightsRef(uri=uri),
        WeightsRef(uri=uri, sha256=digest),
        WeightsRef(uri="s3://mirror/x", sha256=digest),
    ):
        assert torch.equal(offline.tensors(ref)["a.weight"], STATE["a.weight"])
    assert not list((tmp_path / "cache" / "arriving").glob("*")), "what arrived leaves nothing behind"


def test_wrong_bytes_are_refused_on_arrival_and_not_kept(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """A digest that does not match names both, and the cache is as it was."""
    weights = ModelWeights(tmp_path / "cache", may_fetch=True)
    with pytest.raises(ModelError, match=r"arrived with SHA-256 .*nothing was kept") as caught:
        weights.path(WeightsRef(uri=bucket[0], sha256="c" * 64))
    one_line(caught)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []


def test_altered_bytes_in_the_cache_are_found_and_fetched_again(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """Bytes that changed under their name are never handed out: they count as missing, or are fetched again."""
    uri, digest = bucket
    ref = WeightsRef(uri=uri, sha256=digest)
    path = ModelWeights(tmp_path / "cache", may_fetch=True).path(ref)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert ModelWeights(tmp_path / "cache").cache.altered() == {digest: True}
    with pytest.raises(ModelError, match="not in the model cache"):
        ModelWeights(tmp_path / "cache").path(ref)
    again = ModelWeights(tmp_path / "cache", may_fetch=True)
    assert hashlib.sha256(again.path(ref).read_bytes()).hexdigest() == digest
    assert again.cache.altered() == {digest: False}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://nowhere/at/all", "there is no such file"),
        ("nosuchscheme://x/y", "nosuchscheme addresses need a package"),
        ("http://127.0.0.1:9/weights", "cannot be reached"),
        (f"hf://owner/name@{COMMIT}/file.safetensors", "cannot be reached"),
        ("hf://owner/name@main/file.safetensors", "'main' is no commit"),
        ("hf://owner/name/file.safetensors", "the form is hf://owner/name@COMMIT"),
        (f"hf://owner/name@{COMMIT}/../../etc/passwd", "the form is"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, uri: str, message: str) -> None:
    """No such file, no such scheme, no network, a branch for a commit: what is wrong, and what to do."""
    with pytest.raises(ModelError, match=message) as caught:
        ModelWeights(tmp_path / "cache", may_fetch=True).path(WeightsRef(uri=uri))
    one_line(caught)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """Where the folder's place is taken by a file, the message names the variable that moves it."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot be written.*FACEMINT_MODELS") as caught:
        ModelWeights(tmp_path / "cache", may_fetch=True).path(WeightsRef(uri=bucket[0]))
    one_line(caught)


def test_torn_notes_of_the_cache_cost_time_alone(tmp_path: Path, bucket: tuple[str, str]) -> None:
    """Notes that a killed process left half written are as good as none."""
    uri, digest = bucket
    ModelWeights(tmp_path / "cache", may_fetch=True).path(WeightsRef(uri=uri))
    for note in [*(tmp_path / "cache" / "digests").iterdir(), *(tmp_path / "cache" / "addresses").iterdir()]:
        note.write_text('{"seen": {')
    assert ModelWeights(tmp_path / "cache").path(WeightsRef(uri=uri, sha256=digest)).name == digest


def test_formula_weights_come_through_the_same_door(tmp_path: Path) -> None:
    """A rehearsal's references need no cache, no file and no network."""
    weights = ModelWeights(tmp_path / "cache")
    assert weights.tensors(WeightsRef(uri="formula:x"), {"fc.weight": (2, 3)})["fc.weight"].shape == (2, 3)
    assert len(weights.sha256(WeightsRef(uri="formula:x"))) == 64
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("https://me:secret@host/w?X-Signature=abc", "https://host/w"),
        (f"hf://o/n@{COMMIT}/w", f"hf://o/n@{COMMIT}/w"),
        ("s3://bucket/w", "s3://bucket/w"),
        ("/a/path@x?y", "/a/path@x?y"),
    ],
)
def test_no_secret_of_an_address_is_shown(uri: str, safe: str) -> None:
    """Passwords and signed queries are left out of messages."""
    assert shown(uri) == safe


def test_no_secret_of_an_address_is_kept(tmp_path: Path) -> None:
    """A signed address is found again by its whole text, of which the cache's notes hold no more than may be shown."""
    uri = f"memory://{uuid.uuid4().hex}/w?X-Signature=hunter2"
    with fsspec.open(uri, "wb") as file:
        file.write(b"bytes")
    weights = ModelWeights(tmp_path / "cache", may_fetch=True)
    digest = weights.sha256(WeightsRef(uri=uri))
    assert ModelWeights(tmp_path / "cache").sha256(WeightsRef(uri=uri)) == digest
    assert list(weights.cache.addresses()) == [uri.partition("?")[0]]
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any("hunter2" in str(path) or b"hunter2" in path.read_bytes() for path in kept)


def test_addresses_are_told_apart() -> None:
    """Paths are of this machine, others are not; a hub's address has four parts."""
    assert local_path("~/w") == Path("~/w").expanduser()
    assert local_path("file:///a/b") == Path("/a/b")
    assert local_path("s3://a/b") is None
    assert local_path("formula:x") is None
    found: Any = hub_file(f"hf://o/n@{COMMIT}/a/b.bin")
    assert (found.repository, found.commit, found.file) == ("o/n", COMMIT, "a/b.bin")
