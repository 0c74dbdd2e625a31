"""One dataset, however it is run: workers, the order in which units are issued, batches in flight, inline and Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Executor, Store
from pipeline.domain.unit import Unit
from pipeline.execute.run import generate
from tests.end_to_end.commands import larger_recipe
from tests.worlds import Silent, bytes_of, sketches

LOOKAHEAD = 3


class Shuffled:
    """Implements `ports.Executor`: hands its units to another one in an order of its own."""

    def __init__(self, inner: Executor, seed: int) -> None:
        """Wrap `inner`."""
        self._inner, self._rng = inner, np.random.default_rng(seed)
        self.moved = 0

    @property
    def workers(self) -> int:
        """Return those of the inner one."""
        return self._inner.workers

    def device_kinds(self) -> set[str]:
        """Return those of the inner one."""
        return self._inner.device_kinds()

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Yield receipts in the shuffled order."""
        order = self._rng.permutation(len(units))
        self.moved += int((order != np.arange(len(units))).sum())
        return self._inner.run([units[n] for n in order])

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()


def made(store: Store, seed: int | None = None, **compute: Any) -> Mapping[str, bytes]:
    """Run the recipe on a store, its units in order or shuffled; return the bytes of the dataset."""
    recipe = sketches(
        **larger_recipe(
            12,
            4,
            unit={"identities": 3, "window": 2, "lookahead": LOOKAHEAD},
            compute={"executor": "inline", **compute},
        )
    )
    session = wiring.session_on(recipe, store, Silent())
    if seed is not None:
        session = replace(session, executor=Shuffled(session.executor, seed))
    generate(session)
    if seed is not None:
        assert isinstance(session.executor, Shuffled)
        assert session.executor.moved > 10
    return bytes_of(store)


@pytest.fixture(scope="module")
def plain() -> Mapping[str, bytes]:
    """Return the bytes of an inline run in planned order."""
    return made(MemoryStore())


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_units_are_issued_changes_nothing(plain: Mapping[str, bytes], seed: int) -> None:
    """Probes, images and audits in shuffled order leave the bytes of the planned order."""
    assert made(MemoryStore(), seed) == plain


@pytest.mark.parametrize("in_flight", [1, 2, LOOKAHEAD])
def test_batches_in_flight_change_nothing(plain: Mapping[str, bytes], in_flight: int) -> None:
    """One batch at a time, two, or as many as the lookahead allows, in shuffled order too: the same bytes."""
    assert made(MemoryStore(), in_flight=in_flight) == plain
    assert made(MemoryStore(), 9, in_flight=in_flight) == plain


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("workers", "in_flight", "seed"),
    [
        (2, 2, 5),
        *(pytest.param(w, f, w * f, marks=pytest.mark.soak) for w in (1, 2, 3) for f in (1, 2, LOOKAHEAD)),
    ],
)
def test_ray_workers_batches_and_order_change_nothing(
    plain: Mapping[str, bytes], tmp_path: Path, workers: int, in_flight: int, seed: int
) -> None:
    """One to three workers, with one, two or all batches in flight, in shuffled order: the bytes of inline."""
    assert made(LocalStore(tmp_path), seed, executor="ray", workers=workers, in_flight=in_flight) == plain
