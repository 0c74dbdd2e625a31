"""The local store's own dealings with disks: rights, room, links, killed writers, times."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import OutputError, RetryableStoreError, StoreError


@contextmanager
def _without_rights(folder: Path) -> Iterator[None]:
    """Run as somebody who may read but not write below `folder`."""
    folder.chmod(0o555)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if me == 0:
            os.seteuid(0)
        folder.chmod(0o755)


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to let any file grow beyond a size: a full disk on a small scale."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a directory that other users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_temporary_files_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    """What a killed writer leaves is never taken for data."""
    store = LocalStore(tmp_path)
    store.put("segments/a.tar", b"whole")
    (tmp_path / "segments" / ".tmp-0123").write_bytes(b"half")
    assert store.list("") == store.list("segments/") == ["segments/a.tar"]


def test_root_that_is_a_file(tmp_path: Path) -> None:
    """A file in the place of the directory is said to be one."""
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="is a file where a dataset's directory is expected"):
        LocalStore(tmp_path / "f")


def test_root_below_a_file(tmp_path: Path) -> None:
    """A root that cannot be created is refused at once, in one line."""
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        LocalStore(tmp_path / "f" / "root")
    assert "\n" not in str(caught.value)


def test_root_without_permission(open_folder: Path) -> None:
    """A directory that may not be written is refused before any work is done, and may still be read."""
    LocalStore(open_folder).put("a", b"x")
    with _without_rights(open_folder):
        with pytest.raises(OutputError, match=r"cannot be written \(permission denied\)"):
            LocalStore(open_folder)
        reader = LocalStore(open_folder, writable=False)
        assert reader.get("a") == b"x"
        with pytest.raises(OutputError, match="change its permissions"):
            reader.put("b", b"x")


def test_unreadable_folder_is_not_an_empty_one(open_folder: Path) -> None:
    """A listing that cannot see everything fails: work that is done would be done again."""
    store = LocalStore(open_folder)
    store.put("receipts/a.json", b"{}")
    (open_folder / "receipts").chmod(0o000)
    try:
        with _without_rights(open_folder), pytest.raises(OutputError, match="cannot list"):
            store.list("receipts/")
    finally:
        (open_folder / "receipts").chmod(0o755)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """Opening a mistyped place for reading does not create it."""
    store = LocalStore(tmp_path / "typo", writable=False)
    assert store.list("") == []
    assert store.size("a") is None
    assert not (tmp_path / "typo").exists()


def test_full_disk(tmp_path: Path) -> None:
    """A write that the disk refuses says so in one line, keeps the old bytes and leaves no temporary file."""
    store = LocalStore(tmp_path / "root")
    store.put("a", b"old")
    for write in (lambda: store.put("a", bytes(100_000)), lambda: store.put_if_absent("b", bytes(100_000))):
        with _files_of_at_most(50_000), pytest.raises(StoreError, match="make room there") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert store.get("a") == b"old"
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["a"]


def test_passing_trouble_is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out of a network mount is an error that says by its type that the call may be repeated."""
    store = LocalStore(tmp_path)

    def timed_out(handle: int) -> None:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(os, "fsync", timed_out)
    with pytest.raises(RetryableStoreError, match="cannot write a"):
        store.put("a", b"x")


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where exactly one winner cannot be promised nothing is created."""
    store = LocalStore(tmp_path)

    def refused(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(OutputError, match="refuses hard links"):
        store.put_if_absent("a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A directory is neither created over nor taken for a lost race."""
    store = LocalStore(tmp_path)
    store.put("a/b", b"x")
    with pytest.raises(StoreError, match="is a directory"):
        store.put_if_absent("a", b"x")
    with pytest.raises(StoreError, match="cannot write a"):
        store.put("a", b"x")
    with pytest.raises(StoreError, match="cannot write a/b/c"):
        store.put("a/b/c", b"x")


def test_linked_directories_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """Segments on another disk are listed; a link to a parent does not make the listing endless."""
    store = LocalStore(tmp_path / "root")
    (tmp_path / "disk2").mkdir()
    (tmp_path / "root" / "segments").symlink_to(tmp_path / "disk2")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    store.put("segments/a.tar", b"x")
    assert (tmp_path / "disk2" / "a.tar").exists()
    assert store.list("") == ["segments/a.tar"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    """A dataset is readable by the group that the umask lets in, not by its writer alone."""
    before = os.umask(0o027)
    try:
        LocalStore(tmp_path).put("a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_leftovers_are_old_temporary_files(tmp_path: Path) -> None:
    """What a killed writer left is named once it is old, removed on request, and nothing else is touched."""
    store = LocalStore(tmp_path)
    store.put("segments/a.tar", b"whole")
    left = [tmp_path / "segments" / ".tmp-0123", tmp_path / ".tmp-4567", tmp_path / "segments" / ".tmp-young"]
    for age_s, path in zip((100.0, 200.0, 0.0), left, strict=True):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    (tmp_path / "segments" / "not.tmp-x").write_bytes(b"data")
    before_s = time.time() - 50
    assert store.leftovers(before_s) == [".tmp-4567", "segments/.tmp-0123"]
    assert store.remove_leftovers(before_s) == 2
    assert store.leftovers(before_s) == []
    assert store.list("") == ["segments/a.tar", "segments/not.tmp-x"]
    assert left[2].exists()


def test_leftovers_that_may_not_be_removed(open_folder: Path) -> None:
    """A leftover in a directory without rights is one clear line."""
    store = LocalStore(open_folder)
    (open_folder / ".tmp-1").write_bytes(b"")
    with _without_rights(open_folder), pytest.raises(OutputError, match=r"cannot delete \.tmp-1"):
        store.remove_leftovers(time.time() + 60)
