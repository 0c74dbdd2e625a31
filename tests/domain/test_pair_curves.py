"""Error rates over all pairs of a set, against comparing every pair in a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.cosines import exact_cosines
from pipeline.domain.errors import BadVectorError
from pipeline.domain.pair_curves import EDGES_K1, PairCurves, area_under, count_pairs, even_rows, pair_curves
from pipeline.domain.records import Float32, unit_rows


def people(identities: int, images: int, noise: float, seed: int = 0, dims: int = 8) -> tuple[Float32, np.ndarray]:
    """Return embeddings of made-up people, and whose they are, mixed."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(identities), images)
    emb = rng.standard_normal((identities, dims))[owner] + noise * rng.standard_normal((len(owner), dims))
    order = rng.permutation(len(owner))
    return unit_rows(emb[order], "people"), owner[order] * 7 + 3


def naive(emb: Float32, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the genuine and the impostor cosines of all pairs, each pair once."""
    i, j = np.triu_indices(len(emb), 1)
    cos = exact_cosines(emb, i, emb, j)
    same = owner[i] == owner[j]
    return cos[same], cos[~same]


def of(emb: Float32, owner: np.ndarray, **options: int) -> PairCurves:
    """Return the curves of a set that has some."""
    found = pair_curves(emb, owner, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(("identities", "images", "noise"), [(12, 5, 0.3), (3, 40, 1.0), (60, 2, 0.7)])
def test_every_figure_is_that_of_all_pairs(identities: int, images: int, noise: float) -> None:
    """Counts, moments, EER, FMR100, FMR1000, AUC, FDR and ROC agree with a loop over all pairs."""
    emb, owner = people(identities, images, noise)
    found = of(emb, owner)
    genuine, impostor = naive(emb, owner)
    assert (found.n_genuine, found.n_impostor) == (len(genuine), len(impostor))
    for counts, cos in ((found.genuine_K, genuine), (found.impostor_K, impostor)):
        place = np.clip(np.searchsorted(EDGES_K1, cos, "right") - 1, 0, len(EDGES_K1) - 2)
        np.testing.assert_array_equal(counts, np.bincount(place, minlength=len(EDGES_K1) - 1))
    for value, cos in ((found.genuine_mean_cos, genuine), (found.impostor_mean_cos, impostor)):
        assert value == pytest.approx(cos.mean(), abs=1e-9)
    for value, cos in ((found.genuine_std_cos, genuine), (found.impostor_std_cos, impostor)):
        assert value == pytest.approx(cos.std(), abs=1e-6)
    assert found.fdr == pytest.approx((genuine.mean() - impostor.mean()) ** 2 / (genuine.var() + impostor.var()))
    steps = np.unique(np.concatenate([genuine, impostor, [1.1]]))
    fmr = np.array([(impostor >= t).mean() for t in steps])
    fnmr = np.array([(genuine < t).mean() for t in steps])
    best = int(np.argmin(np.abs(fmr - fnmr)))
    assert found.eer == pytest.approx((fmr[best] + fnmr[best]) / 2, abs=1e-12)
    assert (genuine < found.eer_cos).mean() >= (impostor >= found.eer_cos).mean()
    for level in (1e-2, 1e-3):
        if level * len(impostor) < 30:
            assert level not in found.fnmr_at
            continue
        value, cos = found.fnmr_at[level]
        assert value == pytest.approx(fnmr[fmr <= level].min(), abs=1e-12)
        assert (impostor >= cos).mean() <= level
        assert (genuine < cos).mean() == pytest.approx(value)
    greater = (genuine[:, None] > impostor[None, :]).mean() + (genuine[:, None] == impostor[None, :]).mean() / 2
    assert found.auc == pytest.approx(greater, abs=2e-4)
    at_edges = {((impostor >= t).mean(), (genuine < t).mean()) for t in EDGES_K1}
    assert set(found.roc()) <= at_edges
    assert [p[0] for p in found.roc()] == sorted(p[0] for p in found.roc())
    assert len(found.roc()) <= 200


def test_a_level_that_the_pairs_do_not_support_has_no_figure() -> None:
    """With fewer than 30 expected impostors FMR1000 is left out, with more it is there."""
    few, many = of(*people(20, 4, 0.3)), of(*people(70, 4, 0.3))
    assert set(few.fnmr_at) == {1e-2}
    assert set(many.fnmr_at) == {1e-2, 1e-3}


@given(st.integers(1, 60), st.integers(0, 5))
def test_counts_do_not_depend_on_the_block(block: int, seed: int) -> None:
    """Blocks change nothing, also where pairs lie on edges: equal, opposite and orthogonal rows."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([np.eye(4), -np.eye(4), np.eye(4), rng.standard_normal((20, 4))])
    emb = unit_rows(rows[rng.permutation(len(rows))], "rows")
    i, j = np.triu_indices(len(emb), 1)
    place = np.searchsorted(EDGES_K1, exact_cosines(emb, i, emb, j), "right") - 1
    expected = np.bincount(np.clip(place, 0, len(EDGES_K1) - 2), minlength=len(EDGES_K1) - 1)
    np.testing.assert_array_equal(count_pairs(emb, block=block), expected)


def test_the_order_of_rows_changes_nothing() -> None:
    """A set has one set of figures, however its images are ordered."""
    emb, owner = people(10, 4, 0.5)
    order = np.random.default_rng(1).permutation(len(emb))
    one, other = of(emb, owner), of(emb[order], owner[order], block=7)
    np.testing.assert_array_equal(one.impostor_K, other.impostor_K)
    assert (one.eer, one.auc, one.fnmr_at, one.roc()) == (other.eer, other.auc, other.fnmr_at, other.roc())


@pytest.mark.parametrize(("identities", "images"), [(0, 0), (1, 1), (1, 5), (6, 1)])
def test_without_either_kind_of_pair_there_are_no_curves(identities: int, images: int) -> None:
    """Nobody, one person, and people of one image each have no curves."""
    assert pair_curves(*people(identities, images, 0.5)) is None


def test_no_number_is_no_embedding() -> None:
    """A row of NaN is refused before it is compared."""
    emb, owner = people(3, 3, 0.5)
    emb[4] = np.nan
    with pytest.raises(BadVectorError):
        pair_curves(emb, owner)


def test_shown_bins_hold_every_pair() -> None:
    """Few bins hold all pairs; a number of them that does not divide the bins counted is refused."""
    found = of(*people(10, 4, 0.5))
    edges, genuine, impostor = found.shown(200)
    assert (edges[0], edges[-1], len(edges)) == (-1.0, 1.0, 201)
    assert (genuine.sum(), impostor.sum()) == (found.n_genuine, found.n_impostor)
    with pytest.raises(ValueError, match="divides"):
        found.shown(7)


def test_area_counts_ties_half() -> None:
    """Equal bins count half a couple, so a recogniser that knows nothing has an area of a half."""
    assert area_under(np.array([3, 0]), np.array([5, 0])) == 0.5
    assert area_under(np.array([0, 3]), np.array([5, 0])) == 1.0
    assert area_under(np.array([1, 1]), np.array([1, 1])) == 0.5


@given(st.integers(0, 1000), st.integers(1, 50))
def test_an_even_choice_is_evenly_spaced(total: int, most: int) -> None:
    """At most so many are chosen, all where they fit, with gaps that differ by one at most."""
    chosen = even_rows(total, most)
    assert len(chosen) == min(total, most)
    assert len(set(chosen.tolist())) == len(chosen)
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1
        assert chosen[-1] < total
