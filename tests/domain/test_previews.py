"""Which refused images are kept: a bounded choice that follows from the candidates alone, never of a real person."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import apparent_minor
from pipeline.domain.leakage import COPY_BITS, COPY_REASON, REASON
from pipeline.domain.previews import NEVER, UNITS, FirstRefused, keeps_previews, may_be_shown
from pipeline.domain.records import Candidate, Sample, Verdict

LEAK = "nearest_gallery_cos"


def refused(order: int, reasons: tuple[str, ...], measures: Mapping[str, float] | None = None) -> Candidate:
    """Return a refused candidate with these reasons, after a filter that passed it."""
    sample = Sample(f"i00000001-s0000-a{order:02d}", 1, 0, order, {}, measures or {}, np.ones(1, np.float32))
    said = (Verdict("fine", True, "", 0.0, 0.0), *(Verdict(r, False, r, order + 0.5, 1.0) for r in reasons))
    return Candidate(sample, order, said, accepted=False, off_target=False)


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True), max_size=30),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_the_first_of_each_reason_are_kept_whatever_the_order_of_offers(
    asked: list[list[str]], per_reason: int, rng: object
) -> None:
    """What is kept is the first made of each first reason, in the order of making, however they come."""
    made = [refused(n, tuple(reasons)) for n, reasons in enumerate(asked)]
    expected = [
        (c.sample.key, c.reasons[0])
        for c in made
        if sum(d.reasons[0] == c.reasons[0] and d.order < c.order for d in made) < per_reason
    ]
    rng.shuffle(made)  # type: ignore[attr-defined]
    gallery = FirstRefused(per_reason)
    for candidate in made:
        gallery.offer(candidate, "cell", candidate.sample.key.encode())
    kept = gallery.previews()
    assert [(p.key, p.reason) for p in kept] == expected
    assert all(p.jpeg == p.key.encode() and p.cell == "cell" and p.threshold == 1.0 for p in kept)
    assert all(p.value == int(p.key[-2:]) + 0.5 for p in kept)


@pytest.mark.parametrize("reason", [*sorted(NEVER), "nearest_gallery_centroid_cos_screening_too_high"])
@pytest.mark.parametrize("passed", [False, True])
def test_nobody_who_may_be_real_or_a_minor_is_kept(reason: str, passed: bool) -> None:
    """Not even behind another reason, nor where the filter only observed."""
    candidate = refused(0, ("too_blurred",))
    verdicts = (*candidate.verdicts, Verdict("x", passed, reason, 1.0, 0.0))
    seen = Candidate(candidate.sample, 0, verdicts, accepted=False, off_target=False)
    assert may_be_shown(candidate, None)
    assert not may_be_shown(seen, None)


def test_the_reasons_are_those_of_the_filters() -> None:
    """A filter that is renamed takes its place here along."""
    assert {REASON, COPY_REASON, apparent_minor.REASON} == NEVER


@pytest.mark.parametrize(
    ("measures", "shown"),
    [
        ({LEAK: 0.39, COPY_BITS: 7.0}, True),
        ({LEAK: 0.4, COPY_BITS: 7.0}, False),
        ({LEAK: 0.39, COPY_BITS: 6.0}, False),
        ({LEAK: float("nan"), COPY_BITS: 7.0}, False),
        ({COPY_BITS: 7.0}, False),
    ],
)
def test_an_image_at_a_limit_of_the_screen_is_not_kept(measures: dict[str, float], shown: bool) -> None:
    """Whatever refused it: where no filter judges leaks its measures still tell, and one without them is not kept."""
    assert may_be_shown(refused(0, ("too_blurred",), measures), {LEAK: 0.4, COPY_BITS: 6.0}) is shown


def test_previews_are_bounded_over_all_generations() -> None:
    """Each generation has fewer units with previews, the late ones none: a dataset that grows nightly stays bounded."""
    per_generation = [sum(keeps_previews(g, n) for n in range(2 * UNITS)) for g in range(2 * UNITS)]
    assert per_generation[0] == UNITS
    assert per_generation[1] == UNITS // 2
    assert sum(per_generation) < 7 * UNITS
    assert per_generation[UNITS:] == [0] * UNITS
