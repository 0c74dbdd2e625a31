"""Products on torch: they name every pair that may collide, so what is kept is what the definition keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.products import TorchProduct, fastest_product, full_float32, sums_bfloat16_in_float32
from pipeline.domain.cosines import exact_cos
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.separation import separate

NATIVE = pytest.mark.skipif(not sums_bfloat16_in_float32(), reason="this processor does not multiply bfloat16")
PRODUCTS = [pytest.param(False, id="float32"), pytest.param(True, id="bfloat16", marks=NATIVE)]


def cloud(seed: int, count: int, dims: int) -> Float32:
    """Return unit rows, a third of them copies or near copies of earlier ones."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dims))
    for n in range(1, count, 3):
        rows[n] = rows[rng.integers(n)] + rng.choice([0.0, 1e-7, 1e-3, 0.3]) * rng.standard_normal(dims)
    return unit_rows(rows, "cloud")


@pytest.mark.parametrize("half", PRODUCTS)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    dims=st.sampled_from([1, 2, 3, 17, 64, 512]),
    pick=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_every_pair_at_or_above_the_floor_is_a_contender(
    half: bool, seed: int, sizes: tuple[int, int], dims: int, pick: int
) -> None:
    """With the floor exactly on an occurring cosine no pair at or above it is missed, negative floors included."""
    rows = cloud(seed, max(2, sum(sizes)), dims)
    a, b = rows[: sizes[0]], rows[sizes[0] : sum(sizes)]
    floor = exact_cos(rows[pick % len(rows)], rows[pick // 7 % len(rows)])
    product = TorchProduct("cpu", half=half)
    mine, theirs = product.contenders(product.hold(a), product.hold(b), floor)

    named = list(zip(mine.tolist(), theirs.tolist(), strict=True))
    assert named == sorted(named)
    assert {(i, j) for i in range(len(a)) for j in range(len(b)) if exact_cos(a[i], b[j]) >= floor} <= set(named)


@pytest.mark.parametrize("half", PRODUCTS)
@pytest.mark.parametrize("t", [-0.1, 0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("block", [None, 1, 100])
def test_separation_keeps_the_same_rows_on_any_product(half: bool, t: float, block: int | None) -> None:
    """Kept rows, partners and cosines are those of the numpy product, whatever the device, precision and block."""
    rows = cloud(2, 1500 if block != 1 else 150, 64)
    expected = separate(rows[100:], t, kept_before_ME=rows[:100])
    got = separate(rows[100:], t, kept_before_ME=rows[:100], product=TorchProduct("cpu", half=half), block=block)

    np.testing.assert_array_equal(got.collided_with_N, expected.collided_with_N)
    np.testing.assert_array_equal(got.cos_N, expected.cos_N)


@NATIVE
def test_rounding_to_bfloat16_names_few_pairs_too_many() -> None:
    """The bound is no licence to name everything: of random pairs hardly any below the floor is a contender."""
    rows = unit_rows(np.random.default_rng(3).standard_normal((1000, 512)), "rows")
    product = TorchProduct("cpu", half=True)
    held = product.hold(rows)
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)

    named = len(product.contenders(held, held, 0.1)[0])

    assert (exact >= 0.1).sum() <= named <= (exact >= 0.09).sum()


def test_full_float32_is_used_whatever_the_process_allows_and_left_as_it_was() -> None:
    """Where torch may multiply float32 in bfloat16, the product still keeps to float32, and the permission stands."""
    rows = unit_rows(np.random.default_rng(4).standard_normal((512, 512)), "rows")
    product = TorchProduct("cpu", half=False)
    held = product.hold(rows)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        with full_float32("cpu"):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        first = product.contenders(held, held, 0.1)
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    again = product.contenders(held, held, 0.1)

    np.testing.assert_array_equal(first, again)


def test_rows_that_may_not_be_written_are_held_all_the_same() -> None:
    """Rows read from a file, which numpy guards against writing, are no problem and no warning."""
    rows = cloud(5, 20, 8)
    rows.flags.writeable = False
    kept = separate(rows, 0.9, product=fastest_product())

    np.testing.assert_array_equal(kept.kept_N, separate(rows, 0.9).kept_N)
