"""The gate of a node: one process loads alone, the others follow together."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline.adapters.node_gate as gate
from pipeline.adapters.node_gate import first_alone


def load(folder: Path, key: str, others: int, *, dies: bool) -> None:
    """Pass the gate in a process of its own, and note when it was inside and whether it was the first.

    Who is not the first stays inside until so many others that are not are there too.
    """
    with first_alone(key, folder / "gates") as first:
        began_s = time.monotonic()
        if dies and first:
            (folder / f"died-{os.getpid()}").touch()
            os._exit(9)
        if first:
            time.sleep(0.4)
        else:
            (folder / f"beside-{os.getpid()}").touch()
            while len(list(folder.glob("beside-*"))) < others and time.monotonic() - began_s < 20.0:
                time.sleep(0.01)
        (folder / f"in-{os.getpid()}").write_text(f"{int(first)} {began_s} {time.monotonic()}")


def together(folder: Path, target: Callable[..., None], number: int, *, dies: bool = False) -> None:
    """Start so many processes at once and wait for them."""
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=target, args=(folder, "k", number - 1), kwargs={"dies": dies}) for _ in range(number)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()


def inside(folder: Path) -> list[tuple[bool, float, float]]:
    """Return (first, from, until) of every process that passed, in the order in which they went in."""
    notes = [path.read_text().split() for path in folder.glob("in-*")]
    return sorted(((first == "1", float(a), float(b)) for first, a, b in notes), key=lambda note: note[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_first_loads_alone_and_the_others_together(tmp_path: Path) -> None:
    """One of five is first; no other goes in before it is out, and those others overlap."""
    together(tmp_path, load, 5)
    notes = inside(tmp_path)
    assert [first for first, _, _ in notes] == [True, False, False, False, False]
    alone_until_s = notes[0][2]
    assert all(began_s >= alone_until_s - 0.01 for _, began_s, _ in notes[1:])
    assert max(began_s for _, began_s, _ in notes[1:]) < min(ended_s for _, _, ended_s in notes[1:])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_first_that_dies_holds_up_nobody(tmp_path: Path) -> None:
    """The kernel gives its lock up; the next one is first in its place."""
    together(tmp_path, load, 1, dies=True)
    assert len(list(tmp_path.glob("died-*"))) == 1
    together(tmp_path, load, 2)
    assert sorted(first for first, _, _ in inside(tmp_path)) == [False, True]


def test_what_was_loaded_long_ago_is_loaded_alone_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour the node's memory may hold other things; a load that failed counts as none."""
    with pytest.raises(OSError, match="gone"), first_alone("k", tmp_path):
        raise OSError("gone")
    for expected in (True, False):
        with first_alone("k", tmp_path) as first:
            assert first is expected
    monkeypatch.setattr(gate, "FRESH_S", -1.0)
    with first_alone("k", tmp_path) as first:
        assert first
    with first_alone("other", tmp_path) as first:
        assert first


def test_a_folder_that_cannot_be_had_keeps_nobody_from_loading(tmp_path: Path) -> None:
    """A file lies where the gates should be: everybody loads at once, and nothing is raised."""
    (tmp_path / "taken").write_text("")
    for _ in range(2):
        with first_alone("k", tmp_path / "taken") as first:
            assert first
