"""What every store promises, asked by a suite that each store inherits, and by random calls beside the model."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
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
ODD_PATHS = ["with space/x y", "é/ü", "a%41", "a+b&c=d", "star*[x]", "dots..txt", "colon:x"]


class StoreContract:
    """The promises of the Store port. `plant` and `peek` go around the store, so that it is not its own witness."""

    exclusive = True

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
            path, won = f"race/{attempt}", race(store, f"race/{attempt}", writers=8)
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

    def test_range_beyond_the_end(self, store: Store) -> None:
        """A range that is not there in full is a damaged dataset, never a shorter answer."""
        self.plant(store, "p", b"0123456789")
        for offset, length in ((0, 11), (9, 2), (10, 1), (50, 1)):
            with pytest.raises(StoreError, match=r"p: \d+ bytes asked for at offset \d+, \d+ are there"):
                store.get_range("p", offset, length)

    def test_negative_range(self, store: Store) -> None:
        """A negative offset does not count from the end."""
        self.plant(store, "p", b"0123456789")
        with pytest.raises(ValueError, match="at least 0"):
            store.get_range("p", -1, 1)

    def test_get_ranges(self, store: Store) -> None:
        """Ranges of several files come in the order asked, whether they lie near, far, over each other or twice."""
        files = {"p": os.urandom(300_000), "d/q": b"0123456789"}
        for path, data in files.items():
            self.plant(store, path, data)
        wanted = [("p", 250_000, 50_000), ("d/q", 3, 4), ("p", 0, 10), ("p", 5, 20), ("p", 0, 300_000), ("d/q", 3, 4),
                  ("d/q", 10, 0), ("p", 299_999, 1), ("p", 100_000, 1), ("d/q", 0, 10)]  # fmt: skip
        found = store.get_ranges(wanted)
        assert list(found) == [files[path][offset : offset + length] for path, offset, length in wanted]
        assert all(isinstance(data, bytes) for data in found)
        assert list(store.get_ranges([])) == []

    @pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (9 << 20) + 7])
    def test_blocks(self, store: Store, size: int) -> None:
        """Blocks, one after another, are the file; an absent one is absent at the first block."""
        data = os.urandom(size)
        self.plant(store, "d/p", data)
        assert b"".join(bytes(block) for block in store.blocks("d/p")) == data
        for path in ("none", "d", "d/p/none"):
            with pytest.raises(FileNotFoundError):
                next(iter(store.blocks(path)))

    @pytest.mark.parametrize("near", [[], [("p", 0, 5)], [("p", 9, 1), ("p", 0, 9)]])
    def test_one_bad_range_of_many(self, store: Store, near: list[tuple[str, int, int]]) -> None:
        """A range that is not there in full, or whose file is absent, is an error that names it, whatever lies near."""
        self.plant(store, "p", b"0123456789")
        for offset, length in ((8, 3), (10, 1), (50, 1), (0, 11)):
            with pytest.raises(StoreError, match=rf"p: {length} bytes asked for at offset {offset}, \d+ are there"):
                store.get_ranges([*near, ("p", offset, length)])
        for path in ("none", "none/none"):
            with pytest.raises(FileNotFoundError):
                store.get_ranges([*near, (path, 0, 1)])
            with pytest.raises(FileNotFoundError):
                store.get_ranges([*near, (path, 0, 0)])
        with pytest.raises(ValueError, match="at least 0"):
            store.get_ranges([*near, ("p", -1, 1)])

    @pytest.mark.parametrize("sizes", [[], [0, 1, 0], [3, 100_000, 5], [1 << 20] * 5])
    def test_writing_leaves_exactly_the_bytes(self, store: Store, sizes: list[int]) -> None:
        """Pieces of any size become one file when the block is left, in the place of what stood there before."""
        pieces = [os.urandom(size) for size in sizes]
        for path in ("new/x", "old"):
            self.plant(store, "old", b"what stood before")
            with store.writing(path, about_bytes=10) as sink:
                for piece in pieces:
                    buffer = bytearray(piece)
                    sink.write(cast(bytes, buffer))
                    buffer[:] = bytes(len(buffer))
            assert self.peek(store, path) == b"".join(pieces)
        assert store.list("") == ["new/x", "old"]
        assert list(store.leftovers(time.time() + 60)) == []

    @pytest.mark.parametrize("size", [0, 10, 3 << 20])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, FileNotFoundError, StoreError])
    def test_writing_that_fails_leaves_what_stood(self, store: Store, size: int, error: type[BaseException]) -> None:
        """An error inside the block goes up as it came, whatever its kind; nothing new stands, nothing is left over."""
        self.plant(store, "old", b"what stood before")
        for path in ("new/x", "old"):
            with pytest.raises(error, match="of the caller"), store.writing(path) as sink:  # noqa: PT012
                sink.write(bytes(size))
                raise error("of the caller")
        assert store.list("") == ["old"]
        assert self.peek(store, "old") == b"what stood before"
        assert list(store.leftovers(time.time() + 60)) == []

    def test_several_are_written_at_a_time(self, store: Store) -> None:
        """Files that grow side by side do not disturb each other."""
        with store.writing("a") as one, store.writing("b") as other:
            for n in range(5):
                one.write(b"%d" % n)
                other.write(b"%d" % (9 - n))
        assert (self.peek(store, "a"), self.peek(store, "b")) == (b"01234", b"98765")

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

    def test_paths_that_leave_the_root_are_refused(self, store: Store, tmp_path: Path) -> None:
        """No method takes a path that is absolute, climbs, or hides; nothing is written by the attempt."""
        source = tmp_path / "source"
        source.write_bytes(b"x")
        calls: list[Callable[[str], object]] = [
            lambda path: store.put(path, b"x"),
            lambda path: store.put_if_absent(path, b"x"),
            lambda path: store.put_file(path, source),
            store.get,
            lambda path: store.writing(path).__enter__(),
            lambda path: store.get_range(path, 0, 1),
            lambda path: store.get_ranges([(path, 0, 1)]),
            lambda path: list(store.blocks(path)),
            lambda path: store.get_many([path]),
            store.size,
            store.delete,
        ]
        for path in BAD_PATHS:
            for call in calls:
                with pytest.raises(ValueError, match="store path"):
                    call(path)
        assert store.list("") == []

    def test_prefixes_that_leave_the_root_are_refused(self, store: Store) -> None:
        """A listing does not climb either."""
        for prefix in ("/", "../", "a/../", "a\\", "a//"):
            for call in (store.list, store.entries):
                with pytest.raises(ValueError, match="store path"):
                    call(prefix)

    # ---------------------------------------------------------------------------------- listings, many, leftovers

    def test_exclusive(self, store: Store) -> None:
        """A store says whether it keeps two writers apart."""
        assert store.exclusive is self.exclusive

    def test_empty_files_are_created_once_too(self, store: Store) -> None:
        """An empty file is as good a claim as any other: it is neither replaced nor taken for absent."""
        assert store.put_if_absent("mark", b"") is True
        assert store.put_if_absent("mark", b"x") is False
        assert self.peek(store, "mark") == b""
        assert store.put_if_absent("other", b"y") is True
        assert store.put_if_absent("other", b"") is False
        assert self.peek(store, "other") == b"y"

    def test_put_file_replaces_and_takes_empty_files(self, store: Store, tmp_path: Path) -> None:
        """What a path held before is gone when a file was put there, an empty one too."""
        source = tmp_path / "source"
        for data in (b"first and longer", b"second", b""):
            source.write_bytes(data)
            store.put_file("x", source)
            assert self.peek(store, "x") == data
            assert source.read_bytes() == data

    def test_put_file_is_a_copy(self, store: Store, tmp_path: Path) -> None:
        """What the caller does to its file afterwards does not reach the store."""
        source = tmp_path / "source"
        source.write_bytes(b"as it was")
        store.put_file("x", source)
        with source.open("r+b") as file:
            file.write(b"CHANGED")
        assert self.peek(store, "x") == b"as it was"

    def test_put_file_of_a_directory(self, store: Store, tmp_path: Path) -> None:
        """A directory is no source; nothing is stored by the attempt."""
        with pytest.raises(IsADirectoryError):
            store.put_file("x", tmp_path)
        assert store.list("") == []

    def test_odd_names(self, store: Store) -> None:
        """A name is a name: nothing in it is a pattern, an escape or a query."""
        for path in ODD_PATHS:
            store.put(path, b"odd")
            assert self.peek(store, path) == b"odd"
            assert store.get(path) == b"odd"
            assert store.list("") == [path]
            assert store.get_many([path]) == {path: b"odd"}
            assert store.put_if_absent(path, b"again") is False
            store.delete(path)
            assert store.list("") == []

    def test_get_many(self, store: Store) -> None:
        """Many small files come together; what is absent is left out, and a repeated path comes once."""
        wanted = {f"receipts/{n:03}.json": b"{%d}" % n for n in range(60)}
        for path, data in wanted.items():
            self.plant(store, path, data)
        assert store.get_many([*wanted, "receipts/none", "receipts", "receipts/000.json"]) == wanted
        assert store.get_many([]) == {}
        with pytest.raises(ValueError, match="store path"):
            store.get_many(["receipts/000.json", "../x"])

    def test_entries(self, store: Store) -> None:
        """A listing with sizes names what a listing without names, with the time of the last writing."""
        began_s = time.time()
        store.put("d/x", b"1")
        store.put("d/x", b"22")
        store.put_if_absent("d/y", b"333")
        store.put("e", b"")
        found = store.entries("")
        assert [(e.path, e.bytes) for e in found] == [("d/x", 2), ("d/y", 3), ("e", 0)]
        assert [e.path for e in found] == store.list("")
        assert all(began_s - 2 < e.modified_s < time.time() + 2 for e in found)
        assert [e.path for e in store.entries("d/y")] == ["d/y"]
        assert list(store.entries("absent/")) == []
        with pytest.raises(ValueError, match="store path"):
            store.entries("../")

    def test_a_listing_is_never_old(self, store: Store) -> None:
        """What this store or another writer just did is in the next listing."""
        for n in range(3):
            store.put(f"d/{n}", b"x")
            assert store.list("d/") == [f"d/{n}"]
            self.plant(store, "d/other", b"y")
            assert store.list("d/") == [f"d/{n}", "d/other"]
            store.delete(f"d/{n}")
            store.delete("d/other")
            assert store.list("d/") == []

    def test_finished_writes_leave_nothing_over(self, store: Store, tmp_path: Path) -> None:
        """Nothing that went well is a leftover."""
        source = tmp_path / "source"
        source.write_bytes(b"x")
        store.put("a", b"1")
        store.put_if_absent("a", b"2")
        store.put_if_absent("b", b"2")
        store.put_file("c/d", source)
        assert list(store.leftovers(time.time() + 60)) == []
        assert store.remove_leftovers(time.time() + 60) == 0
        assert store.list("") == ["a", "b", "c/d"]

    def test_readers_see_old_or_new(self, store: Store) -> None:
        """While one writer replaces a file again and again, a reader never sees part of it, a mixture or nothing."""
        versions = [bytes([n]) * size for n, size in ((1, 200_000), (2, 70_000))]
        store.put("x", versions[0])
        over = threading.Event()

        def write() -> None:
            for n in range(12):
                store.put("x", versions[n % 2])
            over.set()

        writer = threading.Thread(target=write)
        writer.start()
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(writer.join)
            while not over.is_set():
                assert store.get("x") in versions


def race(store: Store, path: str, writers: int) -> list[bytes]:
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


PATHS = st.sampled_from(["a", "b", "d/x", "d/y", "d/e/z", "dd"])
DATA = st.binary(max_size=6)


class AgainstMemory(RuleBasedStateMachine):
    """Random calls on a store and on the model; they must never differ."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.store, self.model = self.fresh(Path(self._folder.name)), MemoryStore()

    def fresh(self, folder: Path) -> Store:
        """Return an empty store; `folder` is an empty directory of this example."""
        raise NotImplementedError

    @rule(path=PATHS, data=DATA)
    def put(self, path: str, data: bytes) -> None:
        """Replace in both."""
        self.store.put(path, data)
        self.model.put(path, data)

    @rule(path=PATHS, data=DATA)
    def put_file(self, path: str, data: bytes) -> None:
        """Replace in both from a file."""
        source = Path(self._folder.name, ".source")
        source.write_bytes(data)
        self.store.put_file(path, source)
        self.model.put_file(path, source)

    @rule(path=PATHS, data=DATA)
    def put_if_absent(self, path: str, data: bytes) -> None:
        """Create in both, with one answer."""
        assert self.store.put_if_absent(path, data) == self.model.put_if_absent(path, data)

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        """Remove from both."""
        self.store.delete(path)
        self.model.delete(path)

    @rule(path=PATHS, offset=st.integers(0, 7), length=st.integers(0, 7))
    def read(self, path: str, offset: int, length: int) -> None:
        """Read from both, with one answer or one kind of error."""
        assert self.store.size(path) == self.model.size(path)
        ways: list[Callable[[Store], object]] = [lambda s: s.get(path), lambda s: s.get_range(path, offset, length)]
        for ask in ways:
            assert outcome(ask, self.store) == outcome(ask, self.model)

    @rule(paths=st.lists(PATHS, max_size=4))
    def read_many(self, paths: list[str]) -> None:
        """Read several at once from both."""
        assert self.store.get_many(paths) == self.model.get_many(paths)

    @rule(ranges=st.lists(st.tuples(PATHS, st.integers(0, 7), st.integers(0, 7)), max_size=5))
    def read_ranges(self, ranges: list[tuple[str, int, int]]) -> None:
        """Read several ranges at once from both, with one answer or an error."""
        asked = [outcome(lambda s: list(s.get_ranges(ranges)), store) for store in (self.store, self.model)]
        # where two are wrong, which of them is named first is not promised
        assert asked[0] == asked[1] or all(isinstance(answer, type) for answer in asked)

    @rule(path=PATHS, pieces=st.lists(DATA, max_size=3))
    def write_piecewise(self, path: str, pieces: list[bytes]) -> None:
        """Replace in both, piece by piece."""
        for store in (self.store, self.model):
            with store.writing(path) as sink:
                for piece in pieces:
                    sink.write(piece)

    @rule(prefix=st.sampled_from(["", "d", "d/", "d/e", "dd", "x/"]))
    def listing(self, prefix: str) -> None:
        """List both alike."""
        assert self.store.list(prefix) == self.model.list(prefix)
        told = [(e.path, e.bytes) for e in self.store.entries(prefix)]
        assert told == [(e.path, e.bytes) for e in self.model.entries(prefix)]

    def teardown(self) -> None:
        """Find nothing left over, and remove the directory."""
        assert list(self.store.leftovers(time.time() + 60)) == []
        self._folder.cleanup()


def outcome(ask: Callable[[Store], object], store: Store) -> object:
    """Return what a call answers, or the class of what it raises."""
    try:
        return ask(store)
    except (FileNotFoundError, StoreError) as error:
        return type(error)
