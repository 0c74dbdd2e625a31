"""Cones: the cosine asked for is met, directions are spread evenly, and cones of separated identities never meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.cones import VECTOR_COS, on_cone, overlap_free_cos, without_cone
from pipeline.domain.errors import BadVectorError
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.separation import exact_cos


def rng(slot: int = 0, identity: int = 0) -> np.random.Generator:
    """Return the generator of a slot's direction."""
    return Key(1, Stream.CONE, identity, slot).generator()


def drawn(dimensions: int, seed: int) -> Float32:
    """Return a unit vector."""
    return unit_rows(Key(seed, Stream.PREVIEW).generator().standard_normal((1, dimensions)), "test")[0]


def cos(a_D: Float32, b_D: Float32) -> float:
    """Return the cosine of two vectors of any length, in float64."""
    a, b = a_D.astype(np.float64), b_D.astype(np.float64)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


@given(
    target=st.floats(-1, 1),
    dimensions=st.integers(2, 600),
    length=st.floats(0.01, 50),
    seed=st.integers(0, 1000),
    slot=st.integers(0, 50),
)
def test_the_cosine_asked_for_is_met_and_the_length_kept(
    target: float, dimensions: int, length: float, seed: int, slot: int
) -> None:
    """Any cosine is met within 1e-6 in any dimension, for unit vectors and raw ones, and only the direction changes."""
    own = (drawn(dimensions, seed) * np.float32(length)).astype(np.float32)
    turned = on_cone(own, target, rng(slot))
    assert turned.dtype == np.float32
    assert turned.shape == own.shape
    assert abs(cos(own, turned) - target) < 1e-6
    assert float(np.linalg.norm(turned)) == pytest.approx(float(np.linalg.norm(own)), rel=1e-6)


def test_directions_are_spread_evenly_over_the_cone() -> None:
    """Directions of many slots are at right angles to the vector, sum to nothing, and no two agree."""
    own = drawn(24, 3)
    across = np.stack([on_cone(own, 0.6, rng(slot)) for slot in range(2000)]).astype(np.float64) - 0.6 * own
    assert np.abs(across @ own.astype(np.float64)).max() < 1e-6
    unit = across / np.linalg.norm(across, axis=1, keepdims=True)
    assert np.linalg.norm(unit.mean(axis=0)) < 3 / math.sqrt(2000)
    spread = np.linalg.eigvalsh(unit.T @ unit / len(unit))[1:]  # the first is 0: along the vector itself
    assert spread.min() > 0.7 / 23
    assert spread.max() < 1.4 / 23


def test_a_cosine_of_one_is_the_vector_itself() -> None:
    """Asking for no distance changes no bit."""
    own = drawn(16, 5)
    assert on_cone(own, 1.0, rng()).tobytes() == own.tobytes()


@given(
    separation=st.floats(-0.9, 0.95),
    apart=st.floats(0, 1),
    seed=st.integers(0, 500),
    depth=st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_cones_within_the_bound_never_overlap(separation: float, apart: float, seed: int, depth: list[float]) -> None:
    """Of two identities whose cosine is below s, whatever lies within the half-angle cone is nearer to its own."""
    dimensions = 8
    first = drawn(dimensions, seed)
    between = separation - 1e-4 - apart * (separation - 1e-4 + 1)  # any cosine below s, down to -1
    second = on_cone(first, between, rng(0, 1))
    assert exact_cos(first, second) < separation
    bound = overlap_free_cos(separation)
    targets = [bound + d * (1 - bound) for d in depth]
    # the worst direction is the one straight towards the other identity; random ones are tried as well
    for slot in range(4):
        a, b = on_cone(first, targets[0], rng(slot, 2)), on_cone(second, targets[1], rng(slot, 3))
        assert cos(a, first) > cos(a, second)
        assert cos(b, second) > cos(b, first)
    straight = towards(first, second, targets[0])
    assert straight @ first.astype(np.float64) > straight @ second.astype(np.float64)


def towards(own_D: Float32, other_D: Float32, target: float) -> np.ndarray:
    """Return the unit vector at a cosine to `own_D` that lies nearest to `other_D`."""
    own, other = own_D.astype(np.float64), other_D.astype(np.float64)
    side = other - (other @ own) * own
    size = np.linalg.norm(side)
    side = side / size if size > 1e-9 else np.zeros_like(side)
    return np.asarray(target * own + math.sqrt(1 - target**2) * side)


def test_just_beyond_the_bound_cones_do_overlap() -> None:
    """The bound is sharp: a hair further out, a vector straight towards the neighbour is nearer to the neighbour."""
    separation = 0.3
    first = drawn(8, 1)
    second = on_cone(first, separation - 1e-4, rng())
    beyond = towards(first, second, overlap_free_cos(separation) - 1e-3)
    assert beyond @ second.astype(np.float64) > beyond @ first.astype(np.float64)


@pytest.mark.parametrize("bad", [np.zeros(4, np.float32), np.full(4, np.nan, np.float32), np.ones(1, np.float32)])
def test_a_vector_without_a_cone_is_refused(bad: Float32) -> None:
    """Zero, NaN and one-dimensional vectors have no cone."""
    with pytest.raises(BadVectorError, match="has no cone around it"):
        on_cone(bad, 0.5, rng())


@pytest.mark.parametrize("target", [1.5, -1.01, math.nan])
def test_a_cosine_outside_its_range_is_refused(target: float) -> None:
    """Nothing beyond [-1, 1] is a cosine, and NaN passes nothing."""
    with pytest.raises(ValueError, match=r"a cosine lies in \[-1, 1\]"):
        on_cone(drawn(4, 1), target, rng())


def test_the_generator_never_hears_of_the_cone() -> None:
    """The reserved condition is taken out, the others stay."""
    assert without_cone({VECTOR_COS: 0.9, "yaw_deg": 3.0}) == {"yaw_deg": 3.0}
