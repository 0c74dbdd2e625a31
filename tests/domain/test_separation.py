"""Greedy separation: exactly what the definition says, whatever the block size, the product or the increments."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.cosines import NumpyProduct, exact_cos, exact_cosines, rounding_margin
from pipeline.domain.errors import BadVectorError
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.separation import separate


def cos_by_loop(a_E: Float32, b_E: Float32) -> float:
    """Return the float64 dot product, one addition after the other."""
    total = 0.0
    for x, y in zip(a_E.tolist(), b_E.tolist(), strict=True):
        total += x * y
    return total


def by_definition(new: Float32, t: float, before: Float32) -> tuple[list[bool], list[int]]:
    """Return kept flags and first partners by the definition, one pair at a time."""
    kept: list[bool] = []
    partner: list[int] = []
    stands = [(n, row) for n, row in enumerate(before)]
    for n, row in enumerate(new):
        hit = next((m for m, other in stands if cos_by_loop(row, other) >= t), -1)
        kept.append(hit < 0)
        partner.append(hit)
        if hit < 0:
            stands.append((len(before) + n, row))
    return kept, partner


def cloud(seed: int, count: int, dims: int, *, twins: bool) -> Float32:
    """Return random unit rows; with twins, a third of them are copies or near copies of earlier ones."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dims))
    if twins:
        for n in range(1, count, 3):
            rows[n] = rows[rng.integers(n)] + rng.choice([0.0, 1e-7, 1e-3, 0.3]) * rng.standard_normal(dims)
    return unit_rows(rows, "cloud")


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    dims=st.sampled_from([2, 3, 8, 64]),
    before=st.integers(0, 8),
    twins=st.booleans(),
    pick=st.integers(0, 10**6),
    block=st.sampled_from([1, 3, 7, 1024]),
)
@settings(max_examples=80)
def test_kept_set_is_the_one_of_the_definition(
    seed: int, count: int, dims: int, before: int, twins: bool, pick: int, block: int
) -> None:
    """Blocked separation equals the float64 pair-by-pair greedy, with t placed exactly on an occurring cosine."""
    rows = cloud(seed, count + before, dims, twins=twins)
    old, new = rows[:before], rows[before:]
    others = [cos_by_loop(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
    t = min(max(others[pick % len(others)], -0.99), 1.0) if others else 0.5

    for threshold in (t, float(np.nextafter(t, 2.0))):
        kept, partner = by_definition(new, threshold, old)
        got = separate(new, threshold, kept_before_ME=old, block=block)

        assert got.kept_N.tolist() == kept
        assert got.collided_with_N.tolist() == partner


def test_pairs_within_float32_error_of_the_threshold_are_decided_in_float64() -> None:
    """Neighbouring float64 thresholds around one cosine keep and refuse, though float32 cannot tell them apart."""
    rows = cloud(5, 2, 512, twins=False)
    cos = exact_cos(rows[0], rows[1])

    assert separate(rows, cos).kept_N.tolist() == [True, False]
    assert separate(rows, math.nextafter(cos, 2)).kept_N.tolist() == [True, True]
    assert np.float32(cos) == np.float32(math.nextafter(cos, 2))


def test_block_size_cannot_change_the_result() -> None:
    """Every block size, the largest included, gives the same kept rows, partners and cosines."""
    rows = cloud(11, 120, 32, twins=True)
    expected = separate(rows, 0.4, block=1024)

    for block in (1, 7, 64, 119, 120):
        got = separate(rows, 0.4, block=block)
        np.testing.assert_array_equal(got.collided_with_N, expected.collided_with_N)
        np.testing.assert_array_equal(got.cos_N, expected.cos_N)
    assert 20 < expected.kept_N.sum() < 110


def test_product_with_another_summation_order_cannot_change_the_result() -> None:
    """A product that sums backwards, as another device might, gives the same result at an occurring cosine."""
    rows = cloud(12, 120, 64, twins=True)

    def backwards(a_AE: Float32, b_EB: Float32, out_AB: Float32) -> None:
        products = (a_AE[:, None, ::-1] * b_EB.T[None, :, ::-1]).astype(np.float32)
        out_AB[:] = np.cumsum(products, axis=2, dtype=np.float32)[:, :, -1]

    for pair in ((0, 1), (3, 50), (70, 119)):
        t = exact_cos(rows[pair[0]], rows[pair[1]])
        np.testing.assert_array_equal(
            separate(rows, t, product=NumpyProduct(backwards)).collided_with_N, separate(rows, t).collided_with_N
        )


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 90),
    dims=st.sampled_from([2, 3, 16]),
    cuts=st.lists(st.integers(0, 90), max_size=5),
    pick=st.integers(0, 10**6),
    block=st.sampled_from([1, 5, 64, None]),
)
@settings(max_examples=60)
def test_any_split_into_increments_equals_one_pass(
    seed: int, count: int, dims: int, cuts: list[int], pick: int, block: int | None
) -> None:
    """However rows are cut into increments, each before what was kept so far, the kept rows are those of one pass."""
    rows = cloud(seed, count, dims, twins=True)
    i = 1 + pick % (count - 1)
    t = min(max(cos_by_loop(rows[i], rows[pick % i]), -0.99), 1.0)
    stands = np.empty((0, dims), np.float32)
    kept: list[bool] = []
    for part in np.split(rows, sorted(min(c, count) for c in cuts)):
        got = separate(part, t, kept_before_ME=stands, block=block)
        kept += got.kept_N.tolist()
        stands = np.concatenate([stands, part[got.kept_N]])

    assert kept == by_definition(rows, t, rows[:0])[0]


@pytest.mark.parametrize(("t", "crowd"), [(0.2, 0.0), (0.6, 0.7), (0.95, 0.9), (-0.2, 0.3)])
def test_more_rows_than_a_block_are_those_of_the_definition(t: float, crowd: float) -> None:
    """Over several blocks, halves and leaves, with few and with many collisions, the result is the definition's."""
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((3000, 8))
    near = rng.random(3000) < crowd
    rows[near] = rows[rng.integers(0, 40, near.sum())] + 0.05 * rng.standard_normal((near.sum(), 8))
    emb = unit_rows(rows, "rows")
    before = emb[:300]
    stands, names = list(before), list(range(300))
    got = separate(emb[300:], t, kept_before_ME=before)

    for n, row in enumerate(emb[300:]):
        pairs = np.arange(len(stands))
        cos = exact_cosines(np.stack(stands), pairs, row[None], np.zeros_like(pairs))
        hit = np.flatnonzero(cos >= t)
        assert got.collided_with_N[n] == (names[hit[0]] if hit.size else -1)
        if hit.size:
            assert got.cos_N[n] == cos[hit[0]]
        else:
            stands.append(row)
            names.append(300 + n)


def test_progress_counts_every_pair_once() -> None:
    """Progress rises to the number of pairs of rows, and is told after every block."""
    told: list[tuple[int, int]] = []
    rows = cloud(9, 50, 8, twins=False)
    separate(rows[10:], 0.5, kept_before_ME=rows[:10], block=16, progress=lambda *at: told.append(at))

    assert told == [(16 * 10 + 120, 1180), (32 * 10 + 496, 1180), (1180, 1180)]


def test_refused_rows_are_compared_with_no_more() -> None:
    """What is refused costs no further product: products grow with what is kept, not with the square of what came."""
    compared = 0

    def counting(a_AE: Float32, b_EB: Float32, out_AB: Float32) -> None:
        nonlocal compared
        compared += out_AB.size
        np.matmul(a_AE, b_EB, out=out_AB)

    rows = np.repeat(cloud(10, 40, 16, twins=False), 50, axis=0)
    got = separate(rows, 0.999, product=NumpyProduct(counting), block=100)

    assert got.kept_N.sum() == 40
    assert compared < len(rows) * 41


def test_rows_of_another_space_are_refused() -> None:
    """Rows of different dimensions are an error in words."""
    with pytest.raises(BadVectorError, match="8 dimensions where what is kept has 16"):
        separate(cloud(1, 3, 8, twins=False), 0.5, kept_before_ME=cloud(1, 3, 16, twins=False))


@pytest.mark.parametrize("cuts", [[40], [1, 2, 3], [100, 101], [64, 128]])
def test_increments_equal_one_pass(cuts: list[int]) -> None:
    """Separating in increments, each before what was kept so far, keeps what one pass keeps."""
    rows = cloud(13, 150, 16, twins=True)
    whole = separate(rows, 0.5, block=32).kept_N
    stands = np.empty((0, 16), np.float32)
    kept: list[npt.NDArray[np.bool_]] = []
    for part in np.split(rows, cuts):
        got = separate(part, 0.5, kept_before_ME=stands, block=32)
        kept.append(got.kept_N)
        stands = np.concatenate([stands, part[got.kept_N]])

    np.testing.assert_array_equal(np.concatenate(kept), whole)


def test_copies_collapse_to_the_first() -> None:
    """Of equal rows the first stays and every other names it, at cosine 1."""
    rows = np.repeat(cloud(3, 1, 8, twins=False), 5, axis=0)
    got = separate(rows, 0.999)

    assert got.kept_N.tolist() == [True, False, False, False, False]
    assert got.collided_with_N.tolist() == [-1, 0, 0, 0, 0]
    np.testing.assert_allclose(got.cos_N[1:], 1.0, atol=1e-6)
    assert math.isnan(got.cos_N[0])


@pytest.mark.parametrize(("value", "what"), [(np.nan, "length nan"), (np.inf, "length inf"), (0.0, "length 0")])
@pytest.mark.parametrize("side", ["new", "before"])
def test_rows_that_are_no_embedding_are_refused(value: float, what: str, side: str) -> None:
    """NaN, infinite and zero rows are refused by row before any comparison, on either side."""
    good = cloud(4, 3, 8, twins=False)
    bad = good.copy()
    bad[1] = value
    new, before = (bad, good) if side == "new" else (good, bad)

    with pytest.raises(BadVectorError, match=f"row 1 has {what}"):
        separate(new, 0.5, kept_before_ME=before)


def test_nothing_in_nothing_out() -> None:
    """No new rows give empty results."""
    got = separate(np.empty((0, 8), np.float32), 0.5)

    assert got.kept_N.shape == got.collided_with_N.shape == got.cos_N.shape == (0,)


@pytest.mark.parametrize("dims", [64, 512])
def test_rounding_margin_covers_float32_products(dims: int) -> None:
    """The float32 product of unit vectors never lies further from the float64 one than the margin."""
    rows = cloud(21, 200, dims, twins=True)
    exact = rows.astype(np.float64) @ rows.astype(np.float64).T

    assert np.abs((rows @ rows.T).astype(np.float64) - exact).max() < rounding_margin(dims)
