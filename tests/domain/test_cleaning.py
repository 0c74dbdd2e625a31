"""Cleaning labels: strays leave, the main person stays, one person in two folders becomes one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain import cleaning
from pipeline.domain.cleaning import STRAY, main_cluster, merge_identities, pairs_above, whose
from pipeline.domain.cosines import exact_cos
from pipeline.domain.errors import BadVectorError
from pipeline.domain.one_to_many import References
from pipeline.domain.records import template_of, unit_rows

E = 256
LINK, KEEP = 0.35, 0.4


def people(count: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors that are nearly at right angles."""
    return unit_rows(np.random.default_rng(seed).normal(size=(count, E)), "people")


def images(person: np.ndarray, count: int, seed: int, noise: float = 0.045) -> np.ndarray:
    """Return images of one person: cosines to each other of about 0.66."""
    return unit_rows(person + np.random.default_rng([seed, 1]).normal(0, noise, (count, E)), "images")


def cleaned(emb: np.ndarray) -> cleaning.Cluster:
    return main_cluster(emb, link_cos=LINK, keep_cos=KEEP)


@settings(max_examples=60, deadline=None)
@given(good=st.integers(3, 20), strays=st.integers(0, 4), seed=st.integers(0, 10_000))
def test_strays_leave_and_the_person_stays(good: int, strays: int, seed: int) -> None:
    """Of images of one person with fewer strangers among them, just the strangers go, wherever they stand."""
    others = people(strays + 1, seed)
    rows = np.concatenate([images(others[0], good, seed), others[1:]])
    order = np.random.default_rng(seed).permutation(len(rows))
    found = cleaned(rows[order])
    np.testing.assert_array_equal(found.kept_N, order < good)
    assert np.isfinite(found.own_cos_N).all()
    assert (found.cluster_N[order >= good] == STRAY).all()


def test_of_two_people_in_a_folder_the_one_with_more_images_stays() -> None:
    """The second person is a cluster of its own, so that it may become an identity."""
    one, other = people(2)
    rows = np.concatenate([images(other, 4, 2), images(one, 7, 1)])
    found = cleaned(rows)
    np.testing.assert_array_equal(found.kept_N, [False] * 4 + [True] * 7)
    np.testing.assert_array_equal(found.cluster_N, [1] * 4 + [0] * 7)


def test_a_chain_of_look_alikes_carries_nobody_in() -> None:
    """Where a bridge links two people, the template of the larger one turns the smaller one out."""
    one, other = people(2)
    bridge = unit_rows((one + other)[None], "bridge")
    rows = np.concatenate([images(one, 9, 1), bridge, images(other, 4, 2)])
    linked = pairs_above(rows, rows, LINK)
    assert len(linked[1]) > 81
    found = cleaned(rows)
    assert found.kept_N[:9].all()
    assert not found.kept_N[10:].any()


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (2, 0), (3, 0)])
def test_images_of_different_people_alone_keep_nobody(count: int, kept: int) -> None:
    """A single image stands for itself; where several are there and no two agree, nobody can say who is meant."""
    assert cleaned(people(count) if count else np.empty((0, E), np.float32)).kept_N.sum() == kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 14), noise=st.sampled_from([0.045, 0.08, 0.12]))
def test_the_kept_set_is_stable_and_blocks_change_nothing(seed: int, count: int, noise: float) -> None:
    """Every kept image passes against the template of the other kept ones, by the definition of a cosine."""
    rows = images(people(1, seed)[0], count, seed, noise)
    found = cleaned(rows)
    kept = np.flatnonzero(found.kept_N)
    if len(kept) > 2:
        for row in kept:
            others = rows[[k for k in kept if k != row]]
            assert exact_cos(rows[row], template_of(others)) >= KEEP - 1e-6
    whole = pairs_above(rows, rows, LINK)
    before, cleaning.BLOCK = cleaning.BLOCK, 3
    try:
        again, blocked = cleaned(rows), pairs_above(rows, rows, LINK)
    finally:
        cleaning.BLOCK = before
    np.testing.assert_array_equal(again.kept_N, found.kept_N)
    np.testing.assert_array_equal(again.own_cos_N, found.own_cos_N)
    np.testing.assert_array_equal(blocked[1], whole[1])


def test_what_is_no_number_is_refused() -> None:
    """NaN and rows without length never reach a comparison."""
    rows = people(3)
    rows[1, 4] = np.nan
    with pytest.raises(BadVectorError):
        cleaned(rows)
    with pytest.raises(BadVectorError):
        merge_identities(np.zeros((2, E)), [1, 1], merge_cos=0.6, drop_cos=0.5)


def sums_of(*groups: np.ndarray) -> tuple[np.ndarray, list[int]]:
    return np.stack([g.astype(np.float64).sum(axis=0) for g in groups]), [len(g) for g in groups]


def test_one_person_in_several_folders_becomes_one() -> None:
    """Parts of one person are merged into the lowest number, whatever their order; others stay as they are."""
    one, other, third = people(3)
    sums, counts = sums_of(
        images(other, 6, 1), images(one, 5, 2), images(third, 6, 3), images(one, 9, 4), images(one, 3, 5)
    )
    found = merge_identities(sums, counts, merge_cos=0.7, drop_cos=0.5)
    assert found.into_M.tolist() == [0, 1, 2, 1, 1]
    assert not found.dropped_M.any()
    assert (found.cos_M[[3, 4]] >= 0.7).all()
    assert set(found.partner_M[[3, 4]].tolist()) <= {1, 3}


def test_look_alikes_give_way_to_the_larger() -> None:
    """Between the two thresholds the identity with fewer images goes, of equals the later one."""
    one, other = people(2)
    alike = unit_rows((one + 0.9 * other)[None], "alike")[0]
    for counts, gone in (((9, 4), 1), ((4, 9), 0), ((5, 5), 1)):
        sums, _ = sums_of(images(one, 40, 1), images(alike, 40, 2))
        found = merge_identities(sums, counts, merge_cos=0.9, drop_cos=0.5)
        assert np.flatnonzero(found.dropped_M).tolist() == [gone]
        assert found.partner_M[gone] == 1 - gone
        assert 0.5 <= found.cos_M[gone] < 0.9


def test_merging_pools_before_it_compares_again() -> None:
    """Of a chain a - b - c whose ends are apart, the pooled first pair decides about the third."""
    a, c = people(2)
    b = unit_rows((a + c)[None], "b")[0]
    cos_ab = exact_cos(a, b)
    sums = np.stack([a, b, c]).astype(np.float64) * [[10.0], [1.0], [10.0]]
    found = merge_identities(sums, [10, 1, 10], merge_cos=cos_ab - 0.02, drop_cos=2.0)
    assert len(set(found.into_M.tolist())) == 2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12))
def test_after_merging_no_two_of_those_who_stay_are_too_near(seed: int, count: int) -> None:
    """By the definition no pair of those left reaches the drop threshold; doing it again changes nothing."""
    base = people(3, seed)
    groups = [images(base[n % 3], 2 + n % 4, seed + n, 0.1) for n in range(count)]
    sums, counts = sums_of(*groups) if groups else (np.empty((0, E)), [])
    found = merge_identities(sums, counts, merge_cos=0.6, drop_cos=0.45)
    left = [n for n in range(count) if found.into_M[n] == n and not found.dropped_M[n]]
    pooled = [sums[[m for m in range(count) if found.into_M[m] == n]].sum(axis=0) for n in left]
    if len(left) > 1:
        rows = unit_rows(np.stack(pooled), "left")
        (first, second), _ = pairs_above(rows, rows, 0.45)
        assert (first == second).all()
        again = merge_identities(np.stack(pooled), [1] * len(left), merge_cos=0.6, drop_cos=0.45)
        assert again.into_M.tolist() == list(range(len(left)))
        assert not again.dropped_M.any()


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    """Dropping above the threshold of merging is a mistake of the recipe."""
    with pytest.raises(ValueError, match="cannot be dropped"):
        merge_identities(np.eye(2), [1, 1], merge_cos=0.5, drop_cos=0.6)


def test_a_stray_image_finds_its_person_or_nobody() -> None:
    """An image goes to the one identity that it clearly is of: not to its old one, not between two, not to nobody."""
    base = people(4)
    twin = unit_rows((base[2] + 0.12 * base[0])[None], "twin")
    references = References(np.concatenate([base[:3], twin]))
    rows = np.concatenate([images(base[0], 1, 1), images(base[0], 1, 2), images(base[2], 1, 3), base[3:]])
    own = np.array([-1, 0, -1, 1])
    found, best = whose(rows, references, own, match_cos=0.5, margin_cos=0.1)
    assert found.tolist() == [0, -1, -1, -1]
    assert best[0] >= 0.5
    assert whose(rows[:1], References(base[:1]), own[:1], match_cos=0.5, margin_cos=0.1)[0].tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    people=st.integers(1, 12),
    margin=st.sampled_from([-0.1, 0.0, 0.05, 0.5, 3.0]),
    match=st.sampled_from([-1.0, 0.3, 0.6]),
)
def test_whose_is_what_looking_at_every_reference_says(seed: int, people: int, margin: float, match: float) -> None:
    """The nearest but the own one, if near enough and the next far enough: as a plain loop over all finds it."""
    rng = np.random.default_rng(seed)
    templates = unit_rows(rng.normal(size=(people, 4)), "templates")
    images = unit_rows(rng.normal(size=(9, 4)), "images")
    own = rng.integers(-1, people, 9)
    found, best = whose(images, References(templates), own, match_cos=match, margin_cos=margin)
    for n, image in enumerate(images):
        ranked = sorted((-exact_cos(image, t), m) for m, t in enumerate(templates) if m != own[n])
        first, second = (-(ranked[k][0]) if len(ranked) > k else -1.0 for k in (0, 1))
        assert best[n] == first
        sure = bool(ranked) and first >= match and first - second >= margin
        assert found[n] == (ranked[0][1] if sure else -1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16), count=st.integers(2, 40), noise=st.floats(0.0, 1.0), block=st.sampled_from([3, 1024])
)
def test_merging_is_what_sorting_every_pair_says(seed: int, count: int, noise: float, block: int) -> None:
    """Round by round the nearest pair first, each identity once: as a plain loop over all pairs merges."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))
    sums = unit_rows(centres[rng.integers(0, 6, count)] + noise * rng.normal(size=(count, 5)), "x").astype(np.float64)
    sums[count // 2 :] = sums[: count - count // 2]
    held, into, alive = sums.copy(), np.arange(count), set(range(count))
    while True:
        rows = unit_rows(held, "x")
        pairs = sorted((-exact_cos(rows[a], rows[b]), a, b) for a in alive for b in alive if a < b)
        taken: set[int] = set()
        for cos, a, b in pairs:
            if -cos >= 0.7 and not {a, b} & taken:
                taken |= {a, b}
                held[a] += held[b]
                alive.discard(b)
                into[into == b] = a
        if not taken:
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "BLOCK", block)
        found = merge_identities(sums, np.ones(count), merge_cos=0.7, drop_cos=2.0)
    np.testing.assert_array_equal(found.into_M, into)
