"""Stores under many writers: threads and forked processes that race for one path, and parents that go on after."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.stores import open_store
from pipeline.domain.ports import Store
from tests.s3 import server

PROCESSES, THREADS, PATHS = 3, 3, 12


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of an empty store."""
    if request.param == "local":
        yield str(tmp_path / "root")
        return
    server.use(monkeypatch, server.running().url)
    yield f"s3://{server.running().bucket()}/root"


def _write(store: Store, number: int, start: Any, won: list[tuple[str, int]]) -> None:
    for n in range(PATHS):
        start.wait(120)
        if store.put_if_absent(f"leases/{n}", f"writer {number}".encode() * 9):
            won.append((f"leases/{n}", number))


def _threads(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _process(which: int, store: Store | str, start: Any, answers: Any) -> None:
    opened = open_store(store) if isinstance(store, str) else store
    won: list[tuple[str, int]] = []
    _threads(lambda n: _write(opened, which * THREADS + n, start, won))
    answers.put(won)


@pytest.mark.parametrize("inherited", [True, False], ids=["inherited", "opened"])
def test_one_of_many_processes_wins(uri: str, inherited: bool) -> None:
    """Of threads of forked processes that create one path at once exactly one is told True, and its bytes stand."""
    fork = multiprocessing.get_context("fork")
    store = open_store(uri)
    start, answers = fork.Barrier(PROCESSES * THREADS), fork.Queue()
    processes = [
        fork.Process(target=_process, args=(n, store if inherited else uri, start, answers)) for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    won = dict.fromkeys((f"leases/{n}" for n in range(PATHS)), -1)
    count = 0
    for _ in processes:
        for path, number in answers.get(timeout=120):
            won[path] = number
            count += 1
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * PROCESSES
    assert count == PATHS, "each path has one winner"
    assert {p: store.get(p) for p in won} == {p: f"writer {n}".encode() * 9 for p, n in won.items()}


def test_parent_and_child_go_on(uri: str) -> None:
    """A store opened before a fork works on in both processes at the same time, and after the child has ended."""
    store = open_store(uri)
    store.put("before", b"1")
    child = os.fork()
    if not child:
        try:
            ok = store.get("before") == b"1"
            for n in range(20):
                store.put(f"child/{n}", b"c")
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    for n in range(20):
        store.put(f"parent/{n}", b"p")
    assert os.waitpid(child, 0)[1] == 0
    assert store.get_many(store.list("parent/")) == {f"parent/{n}": b"p" for n in range(20)}
    assert len(store.list("child/")) == 20


def test_threads_share_a_store(uri: str) -> None:
    """Threads that read, write, list and delete through one store do not disturb each other."""
    store = open_store(uri)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(10):
                path, data = f"t{number}/{n}", bytes([number]) * (n + 1)
                store.put(path, data)
                assert store.get(path) == data
                assert store.size(path) == n + 1
                assert path in store.list(f"t{number}/")
            store.delete(f"t{number}/0")
        except BaseException as error:
            failed.append(error)
            raise

    _threads(work)
    assert failed == []
    assert len(store.list("")) == THREADS * 9
