"""Every store keeps the promises of the port: the model, directories, views, S3 and fsspec's memory."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant

from pipeline.adapters.stores import FsspecStore, LocalStore, MemoryStore, PrefixedStore
from pipeline.domain.ports import Store
from tests.contracts.store_contract import AgainstMemory, StoreContract
from tests.s3 import server
from tests.s3.stores import store_at


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


class TestS3Store(StoreContract):
    """A bucket of the S3 server on loopback."""

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        """Return a store below a prefix of a new bucket."""
        server.use(monkeypatch, server.running().url)
        return store_at(f"s3://{server.running().bucket()}/data/set")

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Ask the server."""
        bucket, _, root = store.uri.removeprefix("s3://").partition("/")
        server.running().plant(bucket, f"{root}/{path}", data)

    def peek(self, store: Store, path: str) -> bytes | None:
        """Ask the server."""
        bucket, _, root = store.uri.removeprefix("s3://").partition("/")
        return server.running().peek(bucket, f"{root}/{path}")


class TestFsspecMemory(StoreContract):
    """A file system of fsspec that promises nothing about two writers."""

    exclusive = False

    @pytest.fixture
    def store(self) -> Store:
        """Return a store below a root of its own."""
        return FsspecStore(f"memory://{uuid.uuid4().hex}/root")

    def plant(self, store: Store, path: str, data: bytes) -> None:
        """Write into fsspec's dictionary."""
        _memory().pipe_file(f"{store.uri}/{path}", data)

    def peek(self, store: Store, path: str) -> bytes | None:
        """Read from fsspec's dictionary."""
        found = _memory().store.get(store.uri.removeprefix("memory:/") + f"/{path}")
        return None if found is None else bytes(found.getvalue())


def _memory() -> Any:
    import fsspec

    return fsspec.filesystem("memory")


def test_file_systems_with_folders(tmp_path: Path) -> None:
    """A file system that is no object store is usable where it must be: folders are made, absence is absence."""
    store = FsspecStore(f"local://{tmp_path}/root")
    assert store.exclusive is False
    assert store.put_if_absent("a/b/c", b"first") is True
    assert store.put_if_absent("a/b/c", b"second") is False
    store.put("a/d", b"22")
    source = tmp_path / "source"
    source.write_bytes(b"333")
    store.put_file("e/f", source)
    assert [(e.path, e.bytes) for e in store.entries("")] == [("a/b/c", 5), ("a/d", 2), ("e/f", 3)]
    assert store.get_many(["a/b/c", "a", "none"]) == {"a/b/c": b"first"}
    assert store.get_range("a/b/c", 1, 3) == b"irs"
    for path in ("a", "none", "a/d/none"):
        assert store.size(path) is None
        store.delete(path)
        with pytest.raises(FileNotFoundError):
            store.get(path)
    store.delete("a/d")
    assert store.list("a") == ["a/b/c"]


class LocalAgainstMemory(AgainstMemory):
    """A directory beside the model."""

    def fresh(self, folder: Path) -> Store:
        """Return a store in the example's directory."""
        return LocalStore(folder / "root")

    @invariant()
    def nothing_temporary_is_left(self) -> None:
        """No operation leaves a temporary file behind."""
        assert not list(Path(self.store.uri).rglob(".tmp-*"))


class PrefixedAgainstMemory(AgainstMemory):
    """A view of a directory beside the model."""

    def fresh(self, folder: Path) -> Store:
        """Return a view of a store with a neighbour whose name begins alike."""
        whole = LocalStore(folder / "root")
        whole.put("exports/v1x/other", b"not ours")
        return PrefixedStore(whole, "exports/v1")


class FsspecAgainstMemory(AgainstMemory):
    """A file system of fsspec beside the model."""

    def fresh(self, folder: Path) -> Store:
        """Return a store below a root of its own."""
        return FsspecStore(f"memory://{uuid.uuid4().hex}/root")


class S3AgainstMemory(AgainstMemory):
    """A bucket beside the model."""

    def fresh(self, folder: Path) -> Store:
        """Return a store in a new bucket."""
        return store_at(f"s3://{server.running().bucket()}/root")


def _alike(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> Any:
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    return case


TestLocalAgainstMemory = _alike(LocalAgainstMemory, 15, 20)
TestPrefixedAgainstMemory = _alike(PrefixedAgainstMemory, 8, 15)
TestFsspecAgainstMemory = _alike(FsspecAgainstMemory, 15, 20)


@pytest.mark.usefixtures("_s3_environment")
class TestS3AgainstMemory(_alike(S3AgainstMemory, 5, 12)):
    """A bucket beside the model, with the environment that leads to it."""


@pytest.fixture
def _s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server.use(monkeypatch, server.running().url)
