"""The rules of leakage screening: where thresholds come from, what they flag, and which picture is a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.calibration import BlockMaxima, Calibration, PairCalibration
from pipeline.domain.errors import UserError
from pipeline.domain.leakage import (
    CENTROIDS,
    SAMPLES,
    TAIL,
    Limit,
    Reference,
    chunked_templates,
    comparison_figures,
    flagged,
    limit_from_calibration,
    limit_from_control,
    measure_name,
    nearest_pairs,
)
from pipeline.domain.records import template_of, unit_rows
from pipeline.domain.space import Space


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Return unit rows."""
    return unit_rows(np.random.default_rng(seed).standard_normal((count, 8)), "test")


@given(st.integers(100, 3000), st.floats(0.51, 0.9999), st.integers(0, 5))
def test_a_control_threshold_flags_the_share_that_it_states(n: int, quantile: float, seed: int) -> None:
    """At most n (1 - q) control values reach it, or TAIL where that is fewer, and exactly so without ties."""
    values = np.unique(np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32))
    if len(values) < 100:
        return
    limit = limit_from_control(values, quantile, 1)
    above = int((values >= np.float32(limit.cos)).sum())
    assert above == max(TAIL, int(np.floor(len(values) * (1 - quantile) + 1e-9)))
    assert limit.rate == above / len(values)
    assert (limit.origin, limit.n) == ("control", len(values))


def test_a_quantile_that_the_control_cannot_support_is_lowered_and_said() -> None:
    """Of 1,000 values the p99.9 would rest on one; the threshold rests on ten, and states 1 %."""
    limit = limit_from_control(np.linspace(0, 0.5, 1000, dtype=np.float32), 0.999, 1)
    assert limit.rate == pytest.approx(0.01)
    assert limit_from_control(np.linspace(0, 0.5, 20_000, dtype=np.float32), 0.999, 1).rate == pytest.approx(0.001)


def test_a_control_of_a_few_faces_is_refused() -> None:
    """Below 100 values nothing is known of a tail."""
    with pytest.raises(UserError, match="at least 100"):
        limit_from_control(np.zeros(99, np.float32), 0.999, 1)


def test_nan_is_flagged_and_the_threshold_itself_too() -> None:
    """A cosine that is no number passes nothing; without a threshold nothing is flagged."""
    cos = np.array([0.3, 0.5, np.nan, 0.6])
    assert flagged(cos, Limit(0.5, "given")).tolist() == [False, True, True, True]
    assert not flagged(cos, Limit(None, "none")).any()


SPACE = Space("s", "0" * 64, "a-8", "unit", 8)
PAIR = PairCalibration(1000, 10**8, 0.7, 0.0, 0.01, (1e-2, 1e-3, 1e-4, 1e-5), (0.2, 0.3, 0.4, 0.5), (0, 0, 0, 0))
KNOWN = Calibration(
    SPACE,
    "test",
    {"sample/sample": PAIR, "sample/template4": PAIR},
    {"sample/template4": (BlockMaxima(100, 9000, (0.5, 0.9, 0.99), (0.3, 0.35, 0.38)),)},
)


@pytest.mark.parametrize(
    ("n", "reference_images", "fpir", "cos", "origin"),
    [
        (100, 4, 1e-2, 0.38, "calibration 1:N"),
        (10, 4, 1e-2, 0.38, "calibration 1:N"),
        (1000, 4, 1e-2, 0.5, "calibration FMR fpir/N"),
        (1000, 1, 1e-2, 0.5, "calibration FMR fpir/N"),
        (10_000, 4, 1e-2, 0.38, "calibration 1:N, beyond its N=100"),
        (10_000, 1, 1e-2, None, "none: "),
        (10, 4, 1e-4, 0.5, "calibration FMR fpir/N"),
    ],
)
def test_thresholds_without_a_control(
    n: int, reference_images: int, fpir: float, cos: float | None, origin: str
) -> None:
    """The measured 1:N figure, else the FMR fpir / N, else the largest N with a word about it, else none."""
    limit = limit_from_calibration(KNOWN, fpir, n, probe_images=1, reference_images=reference_images)
    assert limit.cos == pytest.approx(cos)
    assert limit.origin.startswith(origin)


@given(st.integers(2, 1000), st.sampled_from([1e-1, 1e-2]))
def test_a_pairwise_threshold_is_never_used_one_to_many(n: int, fpir: float) -> None:
    """Whatever N, the threshold lies above that of one pair at the same rate."""
    for images in (1, 4):
        limit = limit_from_calibration(KNOWN, fpir, n, probe_images=1, reference_images=images)
        if limit.cos is not None and fpir in PAIR.fmr:
            assert limit.cos > KNOWN.threshold_cos(fpir, "sample/sample")


def test_a_reference_has_the_centroid_of_each_person_and_finds_the_nearest() -> None:
    """Centroids are the templates of a person's rows wherever they stand; the nearest is that of all pairs."""
    emb, owners = rows(30), np.arange(30) % 7
    reference = Reference.of(emb, owners, [f"g/{n}" for n in range(7)], [f"g/{n}" for n in range(30)])
    for person in range(7):
        assert np.array_equal(reference.centroid_GE[person], template_of(emb[owners == person]))
    probes = rows(5, seed=1)
    for side, held in ((SAMPLES, emb), (CENTROIDS, reference.centroid_GE)):
        best, where = reference.nearest(side, probes)
        cos = probes.astype(np.float64) @ held.astype(np.float64).T
        assert np.array_equal(where, cos.argmax(axis=1))
        assert np.allclose(best, cos.max(axis=1))
    assert reference.name_of(CENTROIDS, 3) == "g/3"
    assert reference.least_images == 4


def test_control_templates_use_each_image_once_and_as_many_as_there_are() -> None:
    """Seven images make three templates of two; where too few people have so many, smaller templates serve."""
    emb = rows(700)
    templates, size = chunked_templates(emb, np.repeat(np.arange(100), 7), 2)
    assert (len(templates), size) == (300, 2)
    assert np.array_equal(templates[1], template_of(emb[2:4]))
    assert chunked_templates(emb, np.repeat(np.arange(100), 7), 50)[1] == 7
    single, size = chunked_templates(emb, np.arange(700), 4)
    assert (len(single), size) == (700, 1)


def test_measures_are_named_by_side_and_role() -> None:
    """The judge's numbers have the plain name, those of others its role."""
    assert measure_name(SAMPLES, "judge") == "nearest_gallery_cos"
    assert measure_name(CENTROIDS, "screening") == "nearest_gallery_centroid_cos_screening"


def test_a_row_of_the_table_says_how_many_are_flagged_beside_the_control() -> None:
    """Counts and quantiles of ours, and the control's own."""
    cos = np.array([0.1, 0.2, 0.6])
    row = comparison_figures(cos, limit_from_control(np.linspace(0, 0.5, 1000, dtype=np.float32), 0.99, 4))
    assert (row["flagged"], row["n"], row["max"]) == (1, 3, 0.6)
    assert row["threshold"]["images"] == 4
    assert row["control"]["n"] == 1000


def test_nearest_pairs_come_largest_first() -> None:
    """The largest cosines by place, the earlier of two that are equal first."""
    assert nearest_pairs(np.array([0.1, 0.9, 0.3, 0.9]), 3) == [1, 3, 2]


def faces(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Return smooth pictures of chance, uint8 (N, side, side, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3))
    fine = coarse.repeat(side // 7 + 1, axis=1).repeat(side // 7 + 1, axis=2)[:, :side, :side]
    return fine.astype(np.uint8)
