"""One against many: the nearest reference, exactly, whatever shares a product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import one_to_many
from pipeline.domain.cosines import exact_cos
from pipeline.domain.errors import BadVectorError
from pipeline.domain.one_to_many import References, max_cos_to_others, nearest
from pipeline.domain.records import Float32, unit_rows


def cloud(seed: int, count: int, dims: int) -> Float32:
    """Return unit rows, a third of them copies or near copies of earlier ones."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dims))
    for n in range(1, count, 3):
        rows[n] = rows[rng.integers(n)] + rng.choice([0.0, 1e-7, 1e-3]) * rng.standard_normal(dims)
    return unit_rows(rows, "cloud")


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 14),
    dims=st.sampled_from([2, 16, 64]),
    at_once=st.sampled_from([1, 2, 1 << 18]),
    products=st.sampled_from([3, 20, 1 << 18]),
)
@settings(max_examples=80)
def test_nearest_is_the_largest_float64_cosine_and_the_lowest_row(
    seed: int, count: int, dims: int, at_once: int, products: int
) -> None:
    """Nearest returns the largest exact cosine to a reference that is not the probe's own, ties to the lowest row."""
    rows = cloud(seed, count + 6, dims)
    refs, probes = rows[:count], rows[count:]
    own = np.array([n % (count + 1) - 1 for n in range(len(probes))], np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_to_many, "PROBES", at_once)
        patch.setattr(one_to_many, "PRODUCTS", max(products, at_once))
        best, row = nearest(probes, References(refs), own)

    for n, probe in enumerate(probes):
        allowed = [(-exact_cos(refs[m], probe), m) for m in range(count) if m != own[n]]
        cos, expected = min(allowed, default=(1.0, -1))
        assert (best[n], row[n]) == (-cos, expected)


def test_nearest_other_is_rounded_once() -> None:
    """The cosine to the nearest other template is the exact one as float32, with bare rows or checked references."""
    rows = cloud(2, 40, 64)
    own = np.arange(10)
    best, row = max_cos_to_others(rows[:10], rows, own)
    again = max_cos_to_others(rows[:10], References(rows), own)

    assert best.dtype == np.float32
    assert best.tolist() == [np.float32(exact_cos(rows[n], rows[m])) for n, m in enumerate(row)]
    np.testing.assert_array_equal(best, again[0])
    np.testing.assert_array_equal(row, again[1])


def test_nearest_does_not_depend_on_neighbours_in_the_batch() -> None:
    """Each probe alone gives what all of them together give, over several blocks of references."""
    rows = cloud(3, 9000, 32)
    references = References(rows[40:])
    together = nearest(rows[:40], references)

    for n in range(40):
        alone = nearest(rows[n : n + 1], references)
        assert (alone[0][0], alone[1][0]) == (together[0][n], together[1][n])


def test_many_equal_references_give_the_first() -> None:
    """A thousand copies of one reference are as near as each other, and the first is named."""
    rows = cloud(4, 8, 16)
    references = References(np.concatenate([rows[1:4], np.repeat(rows[:1], 1000, axis=0)]))

    assert nearest(rows[:1], references)[1].tolist() == [
        next(n for n, row in enumerate(references.rows_ME) if (row == rows[0]).all())
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_that_are_no_embedding_are_refused(value: float) -> None:
    """NaN, infinite and zero rows are refused on either side, before any comparison."""
    good = cloud(7, 3, 8)
    bad = good.copy()
    bad[1] = value

    with pytest.raises(BadVectorError, match="gallery: row 1"):
        References(bad, "gallery")
    with pytest.raises(BadVectorError, match="probes: row 1"):
        nearest(bad, References(good))
    with pytest.raises(BadVectorError, match="8 dimensions where the references have 4"):
        nearest(good, References(cloud(7, 3, 4)))
