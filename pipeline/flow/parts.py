"""What the work is done with: one bundle of ports, assembled by the entry points, plus helpers for fixed shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.domain import ports
from pipeline.domain.balance import Targets
from pipeline.domain.cosines import BlockProduct, NumpyProduct
from pipeline.domain.errors import DeviceMemoryError, StoreError
from pipeline.domain.fingerprint import Prints
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Float32, UInt8, require_unit_rows, unit_length

if TYPE_CHECKING:
    from pipeline.flow.leakage import Screen

FilterFactory = Callable[[int], tuple[ports.Filter, ...]]
"""Number of enrolled identities -> the recipe's filters with their thresholds resolved."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a unit of work may touch."""

    recipe: Recipe
    prints: Prints
    targets: Targets
    store: ports.Store
    segments: ports.SegmentWriter
    codec: ports.Codec
    sampler: ports.IdentitySampler
    generator: ports.Generator
    judge: ports.Recogniser
    auditor: ports.Recogniser
    measurers: tuple[ports.Measurer, ...]
    filters: FilterFactory
    generator_batch: int
    judge_batch: int
    auditor_batch: int
    clock: ports.Clock
    guard: Callable[[], None]
    """Raises LeaseHeldError where another run has taken the dataset over; called before every receipt and manifest."""
    run_facts: Mapping[str, Any]
    """Goes into the `run` part of receipts: token, host, device kind, versions."""
    aligner: ports.Aligner | None = None
    """Cuts the generator's pictures to the judge's alignment; None where they are made in it."""
    twins: tuple[ports.Twin, ...] = ()
    """In the order of the recipe."""
    screen: Screen | None = None
    """What faces are screened against; None where the recipe names no gallery."""
    product: Callable[[], BlockProduct] = NumpyProduct
    """Gives what compares many vectors with many; which one it is changes no result."""


@contextmanager
def within_device_memory(knob: str, rows: int) -> Iterator[None]:
    """Turn a model's lack of memory, however its library says so, into an error that the flow can act on.

    Known by name, because the flow imports no model library: torch and JAX raise a RuntimeError of their own.

    Raises:
        DeviceMemoryError: the batch did not fit beside what else the device holds.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        known = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED")
        if not isinstance(error, MemoryError) and not any(k.lower() in said.lower() for k in known):
            raise
        raise DeviceMemoryError(
            f"{knob}: {rows} images at once do not fit into the memory of this device; lower {knob} (it is "
            "fingerprinted: use another --out), or run on a device with more memory"
        ) from error


def embed_fixed(recogniser: ports.Recogniser, faces_NHWC: UInt8, batch: int) -> Float32:
    """Return embeddings of N faces, computed in batches of exactly `batch` rows.

    Raises:
        BadVectorError: a row came out NaN, infinite or not of unit length.
    """
    return require_unit_rows(_embedded(recogniser, faces_NHWC, batch), f"embeddings of {recogniser.space.name}")


def embed_each(recogniser: ports.Recogniser, faces_NHWC: UInt8, batch: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Return what `embed_fixed` does, and which rows are sound; a row that is not is all zeros, and fails alone.

    Of a space whose vectors keep their lengths a row is sound that is finite and has one.
    """
    emb = _embedded(recogniser, faces_NHWC, batch)
    sound = unit_length(emb) if recogniser.space.norm == "unit" else _has_length(emb)
    return np.where(sound[:, None], emb, np.float32(0)), sound


def _has_length(emb_NE: Float32) -> npt.NDArray[np.bool_]:
    lengths = np.sqrt(np.einsum("ne,ne->n", emb_NE, emb_NE, dtype=np.float64))
    return np.asarray(np.isfinite(lengths) & (lengths > 0))


def _embedded(recogniser: ports.Recogniser, faces_NHWC: UInt8, batch: int) -> Float32:
    shape = batch if recogniser.card.row_independent else 1
    with within_device_memory("judge.batch", shape):
        rows = [recogniser.embed(block)[:count] for block, count in _blocks(faces_NHWC, shape)]
    return np.ascontiguousarray(np.concatenate(rows), np.float32)


def measure_fixed(
    measurers: tuple[ports.Measurer, ...], faces_NHWC: UInt8, batch: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Return every measure of N faces, each an array of shape (N,), computed in batches of exactly `batch` rows.

    A number that is not finite stands as it came: `finite_rows` tells which faces can be judged.
    """
    out: dict[str, npt.NDArray[np.float64]] = {}
    for measurer in measurers:
        shape = batch if measurer.card.row_independent else 1
        with within_device_memory("judge.batch", shape):
            parts = [(measurer.measure(block), count) for block, count in _blocks(faces_NHWC, shape)]
        for name in measurer.names:
            out[name] = np.concatenate([np.asarray(p[name], np.float64)[:count] for p, count in parts])
    return out


def finite_rows(measures: Mapping[str, npt.NDArray[np.float64]], count: int) -> npt.NDArray[np.bool_]:
    """Return for which of N faces every measure is a finite number."""
    sound = np.ones(count, bool)
    for values in measures.values():
        sound &= np.isfinite(values)
    return sound


def decoded(name: str, key: str, tar: bytes, place: tuple[int, int], parts: Parts) -> UInt8:
    """Return the face at a place (offset, length) of a segment's tar, uint8 RGB.

    Raises:
        StoreError: it does not decode.
    """
    offset, length = place
    try:
        return parts.codec.decode(tar[offset : offset + length])
    except ValueError as error:
        raise StoreError(f"{name}: image {key} does not decode: {error}") from None


def padded(rows: npt.NDArray[Any], batch: int) -> npt.NDArray[Any]:
    """Return `rows` filled up to `batch` rows by repeating the first, so that a network sees one shape only."""
    missing = batch - len(rows)
    return rows if missing <= 0 else np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])


def _blocks(faces_NHWC: UInt8, batch: int) -> list[tuple[UInt8, int]]:
    return [
        (padded(faces_NHWC[i : i + batch], batch), min(batch, len(faces_NHWC) - i))
        for i in range(0, len(faces_NHWC), batch)
    ]
