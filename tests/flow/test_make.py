"""The make unit: what may overlap, what a batch may know, and what a device without room changes (nothing)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from jobs.wiring import build_parts
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import DeviceMemoryError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Generator, Recogniser
from pipeline.domain.records import Conditions, Float32, UInt8
from pipeline.domain.unit import Unit
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import generate
from pipeline.flow.commit import enrolled_path
from pipeline.flow.make import make_unit
from pipeline.flow.parts import Parts
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.worker import UnitWorker
from tests.worlds import Silent, mint, sketches

NOISY = {
    "generator": {"use": "sketch", "noise": 2.0, "batch": 4},
    "attempts": 3,
    "unit": {"identities": 10, "window": 6, "lookahead": 2},
}


def remade(changes: dict[str, Any], **parts_changes: Any) -> tuple[Receipt, Parts]:
    """Return the receipt of a unit of a finished run that was made once more, with other parts."""
    recipe = sketches(**{**NOISY, **changes})
    store = MemoryStore()
    mint(recipe, store)
    parts = build_parts(recipe, store, None, "test")
    parts = replace(parts, **{k: v(getattr(parts, k)) for k, v in parts_changes.items()})
    people, _ = parts.segments.read_identities(store, enrolled_path(0))
    standing = Receipt.from_json(store.get("receipts/make-g0-000000.json"))
    store.delete(standing.path)
    again = make_unit(Unit.from_dict(standing.unit), parts, {i.ordinal: i for i in people})
    assert again.content() == standing.content()
    return again, parts


@pytest.mark.parametrize("in_flight", [1, 2, 3, None])
def test_how_many_batches_are_in_flight_changes_no_byte(in_flight: int | None) -> None:
    """One, two and `unit.lookahead` batches in flight give the receipt of the undisturbed run."""
    unit = {"identities": 10, "window": 6, "lookahead": 3}
    plain, _ = remade({"unit": unit})
    limited, _ = remade({"unit": unit, "compute": {"executor": "inline", "in_flight": in_flight}})
    assert limited.content() == plain.content()


def test_lookahead_says_which_verdicts_a_batch_knows() -> None:
    """Another lookahead is another choice of keys: were it not fingerprinted, it would change bytes in silence."""
    orders = set()
    for lookahead in (1, 2, 4):
        receipt, parts = remade({"unit": {"identities": 10, "window": 6, "lookahead": lookahead}})
        rows = parts.segments.read_rows(parts.store, receipt.name, ["key", "order"])
        orders.add(tuple(r["key"] for r in sorted(rows, key=lambda r: r["order"])))
    assert len(orders) > 1


class Cramped:
    """A device with room for one batch at a time: whoever comes while another is there runs out of memory."""

    def __init__(self) -> None:
        """Start with nobody inside."""
        self.room = threading.Lock()
        self.refused = 0

    def enter(self) -> None:
        """Take the room, or fail as torch does."""
        if not self.room.acquire(timeout=0.05):
            self.refused += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


class CrampedGenerator:
    """A generator on a cramped device; everything else is the inner one's."""

    def __init__(self, inner: Generator, device: Cramped) -> None:
        """Wrap `inner`."""
        self._inner, self._device = inner, device

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute."""
        return getattr(self._inner, name)

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Generate, if there is room."""
        self._device.enter()
        try:
            return self._inner.generate(vectors_ND, conditions, noise_NCHW)
        finally:
            self._device.room.release()


class CrampedJudge:
    """A judge on the same device, slow enough to be in the way."""

    def __init__(self, inner: Recogniser, device: Cramped) -> None:
        """Wrap `inner`."""
        self._inner, self._device = inner, device

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute."""
        return getattr(self._inner, name)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Embed, if there is room, holding it for a while."""
        self._device.enter()
        try:
            threading.Event().wait(0.2)
            return self._inner.embed(faces_NHWC)
        finally:
            self._device.room.release()


def test_a_device_without_room_for_two_batches_works_on_one_at_a_time() -> None:
    """Out of memory beside a batch in flight means fewer in flight: the shape and the bytes stay."""
    device = Cramped()
    remade({}, generator=lambda g: CrampedGenerator(g, device), judge=lambda j: CrampedJudge(j, device))
    assert device.refused >= 1


def test_a_batch_that_does_not_fit_alone_names_the_knob() -> None:
    """One line says which number to lower; no endless retry, no traceback."""
    device = Cramped()
    device.room.acquire()
    with pytest.raises(
        DeviceMemoryError, match=r"generator\.batch: 4 images at once do not fit.*lower generator\.batch"
    ):
        remade({}, generator=lambda g: CrampedGenerator(g, device))
    assert device.refused == 2


class Nonsense:
    """A judge that now and then gives no numbers: NaN for one face in so many, by its pixels."""

    def __init__(self, inner: Recogniser, one_in: int) -> None:
        """Wrap `inner`."""
        self._inner, self._one_in = inner, one_in

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute."""
        return getattr(self._inner, name)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Embed, with NaN for some faces."""
        emb = self._inner.embed(faces_NHWC).copy()
        emb[faces_NHWC.reshape(len(faces_NHWC), -1).sum(axis=1, dtype=np.int64) % self._one_in == 0] = np.nan
        return emb


def test_a_face_without_numbers_costs_itself_and_nobody_else() -> None:
    """A NaN embedding refuses one image, or one candidate, with a reason of its own; the run goes on and adds up."""
    recipe, store = sketches(**NOISY), MemoryStore()
    session = wiring.session_on(recipe, store, Silent())
    parts = replace(session.parts, judge=Nonsense(session.parts.judge, 9))
    executor = InlineExecutor(lambda: UnitWorker(parts), stop=session.stop, quarantine=Quarantine(store, parts.clock))
    counts = generate(replace(session, parts=parts, executor=executor)).manifest.counts
    for stage in ("enrol", "make"):
        assert counts[stage]["reasons"]["numbers_not_finite"] > 0
        assert counts[stage]["candidates"] == counts[stage]["accepted"] + sum(counts[stage]["reasons"].values())
    assert counts["images"] == 30
    refused = [
        row
        for path in store.list("segments/make")
        if path.endswith(".parquet")
        for row in parts.segments.read_rows(store, path.split("/")[1].removesuffix(".parquet"))
        if row["reasons"] == ["numbers_not_finite"]
    ]
    assert refused
    assert all(not row["embedding"].any() and "own_template_cos" not in row["measures"] for row in refused)


def test_another_error_of_a_model_is_not_taken_for_a_lack_of_memory() -> None:
    """A shape mismatch is a bug and stays one."""

    class Broken(CrampedGenerator):
        def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        remade({}, generator=lambda g: Broken(g, Cramped()))
