"""Curation is one dataset however it is run: killed and resumed, units in any order, on one worker or on three."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.ports import Store
from pipeline.execute.curating import curate
from tests.crawls import crawl, crawled, gather, picture, png
from tests.end_to_end.killing import VERBS, WRITES, KillingStore, in_child
from tests.end_to_end.test_same_digest import Shuffled
from tests.worlds import Silent, bytes_of

PARTS = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a crawl with everything in it that has to be decided."""
    root = crawl(tmp_path_factory.mktemp("crawl"), {f"p{n:02d}": range(4) for n in range(7)})
    crawl(root, {"p05-again": range(4, 7)})
    (root / "p03" / "stray.png").write_bytes(png(picture(4, 7)))
    (root / "p02" / "junk.png").write_bytes(b"<html>")
    return root


@pytest.fixture(scope="module")
def plain(root: Path) -> dict[str, bytes]:
    """Return the bytes of a run that nobody disturbed, grown once."""
    store = MemoryStore()
    gather(crawled(root), store)
    return bytes_of(store)


def _killed(root: Path, open_store: Callable[[], Store], point: tuple[int, bool]) -> dict[str, bytes]:
    """Kill a curation around a store operation, run it again, and return what the dataset holds."""
    operation, after = point
    killing = lambda: gather(crawled(root), KillingStore(open_store(), operation, after=after)).manifest.digest  # type: ignore[arg-type]  # noqa: E731
    status, _ = in_child(killing)
    assert os.WIFSIGNALED(status), f"point {point}: not killed, status {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    status, _ = in_child(lambda: gather(crawled(root), open_store()).manifest.digest)
    assert status == 0, f"point {point}: the run that resumed ended with status {status}"
    return bytes_of(open_store())


def _points(root: Path, out: Path, verbs: Collection[str] = VERBS) -> list[tuple[int, bool]]:
    counting = KillingStore(LocalStore(out), None)
    gather(crawled(root), counting)  # type: ignore[arg-type]
    return [(n, after) for n, verb in enumerate(counting.seen) if verb in verbs for after in (False, True)]


@pytest.mark.slow
def test_a_curation_killed_anywhere_ends_in_the_same_dataset(
    root: Path, plain: dict[str, bytes], tmp_path: Path
) -> None:
    """A seeded few of all points: listing, ingest, clean, deciding, writing, publishing."""
    points = _points(root, tmp_path / "counted")
    for n in np.random.default_rng(7).choice(len(points), 6, replace=False):
        place = functools.partial(LocalStore, tmp_path / f"point-{n}")
        assert _killed(root, place, points[n]) == plain, points[n]


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_every_write_of_a_curation(root: Path, plain: dict[str, bytes], tmp_path: Path, part: int) -> None:
    """Before and after everything that changes what is stored."""
    points = _points(root, tmp_path / "counted", WRITES)
    for n in range(part, len(points), PARTS):
        place = functools.partial(LocalStore, tmp_path / f"point-{n}")
        assert _killed(root, place, points[n]) == plain, points[n]


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_units_changes_no_byte(root: Path, plain: dict[str, bytes], seed: int) -> None:
    """Units of every stage are issued in an order of their own."""
    store = MemoryStore()
    session, kit = wiring.curation_on(crawled(root), store, Silent())
    shuffled = Shuffled(session.executor, seed)
    curate(replace(session, executor=shuffled), kit)
    assert shuffled.moved > 4
    assert bytes_of(store) == plain


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_byte(
    root: Path, plain: dict[str, bytes], tmp_path: Path, workers: int, ray_session: None
) -> None:
    """On Ray, with one worker and with three."""
    store = LocalStore(tmp_path / "set")
    recipe = crawled(root, compute={"executor": "ray", "workers": workers})
    curate(*wiring.curation_on(recipe, store, Silent()))
    assert bytes_of(store) == plain
