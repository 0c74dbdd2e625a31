"""Packing: points lie further apart than draws do, near where people are, and the same every time."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.domain.one_to_many import max_cos_to_others
from pipeline.domain.packing import Packing, pack
from pipeline.domain.records import Float32
from pipeline.domain.rng import Key, Stream

DIMENSIONS = 32
NOBODY = np.empty((0, DIMENSIONS), np.float32)
USUAL = Packing(steps=30, sharpness=20.0, manifold=1.0)


def nearest_cos(vectors_ND: Float32) -> Float32:
    """Return, for each unit vector, its cosine to the nearest other one, float32, shape (N,)."""
    return max_cos_to_others(vectors_ND, vectors_ND, np.arange(len(vectors_ND)))[0]


def population(dimensions: int = DIMENSIONS) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and factor of a population with a few directions in which people differ most."""
    rng = Key(5, Stream.PREVIEW).generator()
    axes = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0]
    variances = np.arange(1, dimensions + 1) ** -2.0
    covariance = (axes * variances) @ axes.T
    return 0.3 * axes[:, 0], np.linalg.cholesky(covariance)


def starts(count: int, first: int = 0, dimensions: int = DIMENSIONS) -> npt.NDArray[np.float64]:
    """Return standard normal draws by key."""
    keys = [Key(3, Stream.PACKING, n) for n in range(first, first + count)]
    return np.stack([k.generator().standard_normal(dimensions) for k in keys])


def unpacked(z_BD: npt.NDArray[np.float64]) -> Float32:
    """Return what the Gaussian alone would draw."""
    mean, factor = population(z_BD.shape[1])
    raw = mean + z_BD @ factor.T
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def off_manifold(vectors_ND: Float32) -> float:
    """Return the mean squared Mahalanobis distance per dimension, at the length at which each is likeliest."""
    mean, factor = population(vectors_ND.shape[1])
    a, m = np.linalg.solve(factor, vectors_ND.astype(np.float64).T).T, np.linalg.solve(factor, mean)
    t = (a @ m) / np.einsum("nd,nd->n", a, a)
    # a direction alone has no length: that of the population's typical draw is taken where it beats the likeliest
    typical = np.sqrt(mean @ mean + np.einsum("ij,ij->", factor, factor))
    return float((((np.maximum(t, typical)[:, None] * a) - m) ** 2).mean())


def sphere(count: int) -> Float32:
    """Return vectors drawn evenly on the sphere."""
    z = starts(count, 50_000)
    return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True), np.float32)


def test_packed_points_lie_further_apart_than_draws() -> None:
    """Both the nearest pair and the mean nearest neighbour move apart by far."""
    mean, factor = population()
    z = starts(400)
    before, after = nearest_cos(unpacked(z)), nearest_cos(pack(z, mean, factor, NOBODY, USUAL))
    assert after.max() < before.max() - 0.15
    assert after.mean() < before.mean() - 0.15


def test_packed_points_stay_near_where_people_are() -> None:
    """They lie a little further out than draws, and a small part of the way to the bare sphere; the weight says how."""
    mean, factor = population()
    z = starts(400)
    by_weight = [off_manifold(pack(z, mean, factor, NOBODY, Packing(30, 20.0, w))) for w in (0.0, 1.0, 1000.0)]
    drawn, even = off_manifold(unpacked(z)), off_manifold(sphere(400))
    assert by_weight == sorted(by_weight, reverse=True)
    assert by_weight[1] < 0.4 * even
    assert drawn < by_weight[2] < by_weight[0]


def test_a_later_block_moves_away_from_earlier_ones() -> None:
    """Packed against what stands, a second block lies further from it than packed alone; what stands stays."""
    mean, factor = population()
    first = pack(starts(200), mean, factor, NOBODY, USUAL)
    kept = first.copy()
    alone = pack(starts(200, 200), mean, factor, NOBODY, USUAL)
    against = pack(starts(200, 200), mean, factor, first, USUAL)
    np.testing.assert_array_equal(first, kept)
    assert (against @ first.T).max(axis=1).mean() < (alone @ first.T).max(axis=1).mean() - 0.05


def test_packing_is_a_function_of_its_arguments() -> None:
    """Equal arguments give equal bytes: finite float32 unit vectors."""
    mean, factor = population()
    once, again = (pack(starts(64), mean, factor, NOBODY, USUAL) for _ in range(2))
    assert once.tobytes() == again.tobytes()
    assert once.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1, atol=1e-6)


def test_two_thousand_points_are_packed_in_seconds() -> None:
    """2,000 points in 128 dimensions take well under ten seconds of one core."""
    mean, factor = population(128)
    z = starts(2000, dimensions=128)
    started_s = time.process_time()
    packed = pack(z, mean, factor, np.empty((0, 128), np.float32), USUAL)
    assert time.process_time() - started_s < 10
    assert nearest_cos(packed).max() < nearest_cos(unpacked(z)).max() - 0.1


@pytest.mark.parametrize("how", [Packing(1, 20.0, 10.0), Packing(30, 0.01, 0.0), Packing(200, 80.0, 1e6)])
def test_extreme_options_give_sound_vectors(how: Packing) -> None:
    """One step, no sharpness, the heaviest weight, twins among the starts: every vector is finite and of length 1."""
    mean, factor = population()
    z = np.concatenate([starts(20), starts(20)])
    packed = pack(z, mean, factor, NOBODY, how)
    np.testing.assert_allclose(np.linalg.norm(packed, axis=1), 1, atol=1e-6)
