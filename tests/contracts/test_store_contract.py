"""What every store promises, asked of each store in turn; then the local store's own dealings with disks."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.adapters.stores import LocalStore, MemoryStore, PrefixedStore, open_store
from pipeline.domain.errors import OutputError, RetryableStoreError, StoreError, UserError
from pipeline.domain.ports import Store

BAD_PATHS = [
    "",
    "/a",
    "a//b",
    "a/",
    "../a",
    "a/../b",
    "a/..",
    ".",
    "a/./b",
    "a\\b",
    "C:\\a",
    "a\0b",
    ".tmp-1",
    "a/.tmp-1",
]


class StoreContract:
    """The promises of the Store port. `plant` and `peek` go around the store, so that it is not its own witness."""

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Store:
        """Return the store under test."""
        raise NotImplementedError

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Put bytes where the store keeps them, without the store."""
        raise NotImplementedError

    def peek(self, store: Store, path: str) -> bytes | None:
        """Return what lies there, without the store."""
        raise NotImplementedError

    def test_put_leaves_exactly_the_bytes(self, store: Store) -> None:
        """What was put is what lies there, empty files and deep paths too."""
        for path, data in {"a": b"one", "b/c/d.bin": bytes(range(256)) * 400, "e": b""}.items():
            store.put(path, data)
            assert self.peek(store, path) == data

    def test_put_replaces(self, store: Store) -> None:
        """A second put leaves nothing of the first."""
        store.put("a", b"longer than the second")
        store.put("a", b"short")
        assert self.peek(store, "a") == b"short"

    def test_put_if_absent_creates_once(self, store: Store) -> None:
        """The first call creates and says so; the second changes nothing and says so."""
        assert store.put_if_absent("r/x.json", b"first") is True
        assert store.put_if_absent("r/x.json", b"second") is False
        assert self.peek(store, "r/x.json") == b"first"

    def test_put_if_absent_sees_what_others_wrote(self, store: Store) -> None:
        """Equal bytes count as existing too: absence is asked for, not difference."""
        self.plant(store, "x", b"same")
        assert store.put_if_absent("x", b"same") is False

    def test_one_of_many_writers_wins(self, store: Store) -> None:
        """Of threads that create one path at once exactly one is told True, and its bytes stand."""
        for attempt in range(5):
            path, won = f"race/{attempt}", _race(store, f"race/{attempt}", writers=8)
            assert len(won) == 1
            assert self.peek(store, path) == won[0]

    def test_later_changes_of_a_buffer_do_not_reach_the_store(self, store: Store) -> None:
        """A caller that reuses its buffer does not alter what it stored."""
        buffer = bytearray(b"before")
        store.put("a", cast(bytes, buffer))
        store.put_if_absent("b", cast(bytes, buffer))
        buffer[:] = b"after!"
        assert store.get("a") == store.get("b") == b"before"

    def test_put_file_copies(self, store: Store, tmp_path: Path) -> None:
        """A local file is stored whole and left where it was."""
        source = tmp_path / "source.bin"
        source.write_bytes(os.urandom(3 << 20))
        store.put_file("segments/x.tar", source)
        assert self.peek(store, "segments/x.tar") == source.read_bytes()

    def test_put_file_of_an_absent_source_stores_nothing(self, store: Store, tmp_path: Path) -> None:
        """A missing source is the caller's mistake and leaves no empty file."""
        with pytest.raises(FileNotFoundError):
            store.put_file("x", tmp_path / "absent")
        assert store.list("") == []

    def test_get_of_absent(self, store: Store) -> None:
        """Absence has its own error, for a directory's name and a path below a file too."""
        store.put("dir/file", b"x")
        for path in ("none", "dir", "none/none"):
            with pytest.raises(FileNotFoundError):
                store.get(path)
            with pytest.raises(FileNotFoundError):
                store.get_range(path, 0, 1)
            assert store.size(path) is None

    def test_get_returns_what_lies_there(self, store: Store) -> None:
        """Bytes that another process wrote are read."""
        self.plant(store, "p/q", b"planted")
        assert store.get("p/q") == b"planted"
        assert store.size("p/q") == 7

    def test_get_range(self, store: Store) -> None:
        """A range is exactly that range, at both ends too."""
        self.plant(store, "p", b"0123456789")
        assert [store.get_range("p", o, n) for o, n in ((0, 10), (3, 4), (9, 1), (10, 0), (0, 0))] == [
            b"0123456789", b"3456", b"9", b"", b"",
        ]  # fmt: skip

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (50, 1)])
    def test_range_beyond_the_end(self, store: Store, offset: int, length: int) -> None:
        """A range that is not there in full is a damaged dataset, never a shorter answer."""
        self.plant(store, "p", b"0123456789")
        with pytest.raises(StoreError, match=r"p: \d+ bytes asked for at offset \d+, \d+ are there"):
            store.get_range("p", offset, length)

    def test_negative_range(self, store: Store) -> None:
        """A negative offset does not count from the end."""
        self.plant(store, "p", b"0123456789")
        with pytest.raises(ValueError, match="at least 0"):
            store.get_range("p", -1, 1)

    def test_list_is_sorted_and_by_prefix(self, store: Store) -> None:
        """A prefix is the start of a path's text, not a directory; order is that of the text."""
        paths = [
            "receipts/make-g0-000001.json",
            "receipts/make-g0-000000.json",
            "receipts/make-g1-000000.json",
            "recipe",
        ]
        for path in [*paths, "receipts/deep/x"]:
            self.plant(store, path, b"{}")
        assert store.list("") == sorted([*paths, "receipts/deep/x"])
        assert store.list("receipts/make-g0") == sorted(paths[:2])
        assert store.list("rec") == sorted([*paths, "receipts/deep/x"])
        assert store.list("receipts/") == sorted([*paths[:3], "receipts/deep/x"])
        assert store.list("receipts/none") == store.list("absent/") == []

    def test_delete(self, store: Store) -> None:
        """A deleted path is gone and may be created again; deleting nothing is no error."""
        store.put("d/x", b"1")
        store.delete("d/x")
        store.delete("d/x")
        store.delete("never/was")
        store.delete("d")
        assert self.peek(store, "d/x") is None
        assert store.put_if_absent("d/x", b"2") is True

    @pytest.mark.parametrize("path", BAD_PATHS)
    def test_paths_that_leave_the_root_are_refused(self, store: Store, path: str, tmp_path: Path) -> None:
        """No method takes a path that is absolute, climbs, or hides; nothing is written by the attempt."""
        source = tmp_path / "source"
        source.write_bytes(b"x")
        calls: list[Callable[[], object]] = [
            lambda: store.put(path, b"x"),
            lambda: store.put_if_absent(path, b"x"),
            lambda: store.put_file(path, source),
            lambda: store.get(path),
            lambda: store.get_range(path, 0, 1),
            lambda: store.size(path),
            lambda: store.delete(path),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="store path"):
                call()
        assert store.list("") == []

    @pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a\\", "a//"])
    def test_prefixes_that_leave_the_root_are_refused(self, store: Store, prefix: str) -> None:
        """A listing does not climb either."""
        with pytest.raises(ValueError, match="store path"):
            store.list(prefix)


class TestMemoryStore(StoreContract):
    """The model."""

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store, of no place."""
        return MemoryStore()

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Write into the dictionary."""
        assert isinstance(store, MemoryStore)
        store._files[path] = data

    def peek(self, store: Store, path: str) -> bytes | None:
        """Read from the dictionary."""
        assert isinstance(store, MemoryStore)
        return store._files.get(path)


class TestLocalStore(StoreContract):
    """A directory."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Return a store in a directory that does not exist yet."""
        return LocalStore(tmp_path / "deep" / "root")

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Write the file."""
        target = Path(store.uri, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def peek(self, store: Store, path: str) -> bytes | None:
        """Read the file."""
        target = Path(store.uri, path)
        return target.read_bytes() if target.is_file() else None


class TestPrefixedStore(StoreContract):
    """A view below a prefix of another store that holds other things."""

    @pytest.fixture
    def store(self) -> Store:
        """Return a view of a store with a neighbour whose name begins alike."""
        whole = MemoryStore()
        whole.put("exports/v1x/other", b"not ours")
        return PrefixedStore(whole, "exports/v1")

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Write through the whole store."""
        assert isinstance(store, PrefixedStore)
        store._store.put(f"exports/v1/{path}", data)

    def peek(self, store: Store, path: str) -> bytes | None:
        """Read through the whole store."""
        assert isinstance(store, PrefixedStore)
        full = f"exports/v1/{path}"
        return store._store.get(full) if store._store.size(full) is not None else None


def _race(store: Store, path: str, writers: int) -> list[bytes]:
    """Return the bytes of every writer that was told that it created `path`."""
    won: list[bytes] = []
    start = threading.Barrier(writers)

    def write(number: int) -> None:
        data = f"writer {number}".encode() * 50
        start.wait()
        if store.put_if_absent(path, data):
            won.append(data)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


_PATHS = st.sampled_from(["a", "b", "d/x", "d/y", "d/e/z", "dd"])
_DATA = st.binary(max_size=6)


class LocalAgainstMemory(RuleBasedStateMachine):
    """Random operations on the local store and on the model; they must never differ."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.local, self.model = LocalStore(self._directory.name), MemoryStore()

    @rule(path=_PATHS, data=_DATA)
    def put(self, path: str, data: bytes) -> None:
        """Replace in both."""
        self.local.put(path, data)
        self.model.put(path, data)

    @rule(path=_PATHS, data=_DATA)
    def put_if_absent(self, path: str, data: bytes) -> None:
        """Create in both, with one answer."""
        assert self.local.put_if_absent(path, data) == self.model.put_if_absent(path, data)

    @rule(path=_PATHS)
    def delete(self, path: str) -> None:
        """Remove from both."""
        self.local.delete(path)
        self.model.delete(path)

    @rule(path=_PATHS, offset=st.integers(0, 7), length=st.integers(0, 7))
    def read(self, path: str, offset: int, length: int) -> None:
        """Read from both, with one answer or one kind of error."""
        assert self.local.size(path) == self.model.size(path)
        ways: list[Callable[[Store], object]] = [lambda s: s.get(path), lambda s: s.get_range(path, offset, length)]
        for ask in ways:
            assert _outcome(ask, self.local) == _outcome(ask, self.model)

    @rule(prefix=st.sampled_from(["", "d", "d/", "d/e", "dd", "x/"]))
    def listing(self, prefix: str) -> None:
        """List both alike."""
        assert self.local.list(prefix) == self.model.list(prefix)

    @invariant()
    def nothing_temporary_is_left(self) -> None:
        """No operation leaves a temporary file behind."""
        assert not list(Path(self.local.uri).rglob(".tmp-*"))

    def teardown(self) -> None:
        """Remove the directory."""
        self._directory.cleanup()


def _outcome(ask: Callable[[Store], object], store: Store) -> object:
    try:
        return ask(store)
    except (FileNotFoundError, StoreError) as error:
        return type(error)


TestLocalAgainstMemory = LocalAgainstMemory.TestCase
TestLocalAgainstMemory.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# ------------------------------------------------------------------------------------------------ local alone


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


# -------------------------------------------------------------------------------------------------- open_store


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


@pytest.mark.parametrize("uri", ["s3://KEY:SECRET@bucket/x", "gs://bucket", "https://host/x"])
def test_other_schemes_are_refused_without_repeating_the_address(uri: str) -> None:
    """The message says what is supported and shows no part of an address that may hold a secret."""
    with pytest.raises(UserError, match="plain path, file:///path or memory://name") as caught:
        open_store(uri)
    assert "SECRET" not in str(caught.value)
    assert "bucket" not in str(caught.value).removesuffix("mount the bucket and give the path where it is mounted")


@pytest.mark.parametrize("uri", ["", "  ", "file://host/x", "file://"])
def test_addresses_that_name_no_place(uri: str) -> None:
    """An empty place and a file address with a host are the user's mistake."""
    with pytest.raises(UserError):
        open_store(uri)
