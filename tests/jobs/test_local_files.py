"""Where verbs write on this machine: a place that cannot be written is told in one line, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.wiring.local_files import free_file, local_file
from pipeline.domain.errors import OutputError


@pytest.mark.parametrize("opened", [local_file, free_file])
@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("s3://bucket/x.json", "is no file of this machine; name one"),
        (".", "is a folder; name a file in it"),
        ("none/x.json", "there is no folder none; make it first"),
        ("there.json/x.json", "there is no folder there.json; make it first"),
        ("~nobody-of-this-name/x.json", "cannot be written (Could not determine home directory.); name another place"),
        (f"{'x' * 300}.json", "cannot be written (File name too long); name another place"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], Path], out: str, told: str
) -> None:
    """A store, a folder, below a folder or file that is none, in the home of nobody, a name that no disk takes."""
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("1")
    with pytest.raises(OutputError) as caught:
        opened(out)
    assert str(caught.value) == f"--out {out}: {told}"


def test_a_file_that_is_there_is_replaced_only_by_verbs_that_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` is the home folder to both; one of them wants a place where nothing is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_file("~/x.json") == free_file("~/x.json") == tmp_path / "x.json"
    (tmp_path / "x.json").write_text("1")
    assert local_file("~/x.json") == tmp_path / "x.json"
    with pytest.raises(OutputError, match=r"--out ~/x.json: is there already; name another file, or remove it"):
        free_file("~/x.json")
