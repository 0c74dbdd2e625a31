"""Calibration: a threshold does what its rate says, and only where the data support it."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.calibrating import calibrate, measure_pairs
from pipeline.domain.calibration import (
    RULE_OF_30,
    BlockMaxima,
    Calibration,
    PairCalibration,
    equal_error_rate,
    pair_kind,
)
from pipeline.domain.cosines import exact_cosines
from pipeline.domain.errors import BadVectorError, CalibrationError
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.space import Space

SPACE = Space("test-judge", "ab" * 32, "phantom-112", "unit", 16)


def people(seed: int, count: int, images: int, *, spread: float = 0.5, dims: int = 16) -> tuple[Float32, np.ndarray]:
    """Return embeddings of made-up people and their labels; larger spread, less alike."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, dims))
    labels = np.repeat(np.arange(count), images)
    return unit_rows(centres[labels] + spread * rng.standard_normal((len(labels), dims)), "people"), labels


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Return a calibration of 60 people with 10 images each, templates of 2 and 4."""
    emb, labels = people(1, 60, 10)
    return calibrate(SPACE, "made-up people", emb, labels, template_sizes=(2, 4))


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(300, 5000),
    decimals=st.sampled_from([1, 2, 7]),
    width=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=30)
def test_threshold_lets_at_most_its_share_of_impostors_through(
    seed: int, count: int, decimals: int, width: type[np.floating]
) -> None:
    """At each level at most that share of the impostors reaches the cosine, and no lower cosine would do."""
    rng = np.random.default_rng(seed)
    impostor = np.round(rng.normal(0, 0.2, count), decimals).astype(width)
    pair = measure_pairs(rng.normal(0.7, 0.1, 50).astype(width), impostor)

    assert pair.fmr == tuple(sorted(pair.fmr, reverse=True))
    for fmr, cos in zip(pair.fmr, pair.cos, strict=True):
        assert np.count_nonzero(impostor >= cos) <= fmr * count
        below = impostor[impostor < cos].max()
        assert np.count_nonzero(impostor >= below) > math.floor(fmr * count)


@pytest.mark.parametrize(("impostors", "levels"), [(300, 1), (2999, 1), (3000, 2), (30_000, 3)])
def test_only_levels_with_thirty_errors_are_stated(impostors: int, levels: int) -> None:
    """A level needs 30 expected impostor errors."""
    pair = measure_pairs(np.linspace(0.5, 1, 20), np.linspace(-1, 0.4, impostors))

    assert len(pair.fmr) == len(pair.cos) == len(pair.fnmr) == levels
    assert pair.fmr[-1] * impostors >= RULE_OF_30


@pytest.mark.parametrize(("genuine", "impostors"), [(10, 299), (0, 1000)])
def test_too_few_pairs_support_no_level(genuine: int, impostors: int) -> None:
    """Fewer than 300 impostor pairs, or no genuine one, is an error that says how many are needed."""
    with pytest.raises(CalibrationError, match="at least 300 impostor pairs"):
        measure_pairs(np.full(genuine, 0.9), np.linspace(-1, 0, impostors))


def test_fnmr_is_the_share_of_genuine_pairs_below_the_threshold() -> None:
    """FNMR counts the genuine pairs that the threshold refuses."""
    genuine = np.array([0.1, 0.2, 0.95, 0.96])
    pair = measure_pairs(genuine, np.linspace(-0.5, 0.5, 1000))

    assert pair.cos[0] == pytest.approx(0.4, abs=0.002)
    assert pair.fnmr == (0.5,)


@pytest.mark.parametrize(
    ("distance", "expected"), [(0.0, 0.5), (2.0, NormalDist().cdf(-1)), (4.0, NormalDist().cdf(-2))]
)
def test_eer_of_normal_scores_is_the_known_one(distance: float, expected: float) -> None:
    """For two unit normals d apart the EER is Phi(-d / 2)."""
    rng = np.random.default_rng(7)
    eer = equal_error_rate(rng.normal(distance, 1, 20_000), rng.normal(0, 1, 20_000))

    assert eer == pytest.approx(expected, abs=0.008)


def test_eer_of_separable_scores_is_zero() -> None:
    """Scores that do not overlap have no errors at their best threshold."""
    assert equal_error_rate(np.linspace(0.6, 1, 50), np.linspace(-1, 0.5, 500)) == 0.0


def test_threshold_on_the_calibration_data_has_its_rate(calibration: Calibration) -> None:
    """The cosine at FMR 1 % lets 1 % of all impostor pairs of the same images through, counted anew."""
    emb, labels = people(1, 60, 10)
    rows, columns = np.triu_indices(600, 1)
    impostor = exact_cosines(emb, rows, emb, columns)[labels[rows] != labels[columns]]

    share = np.mean(impostor >= calibration.threshold_cos(1e-2, "sample/sample"))

    assert share <= 1e-2
    assert share == pytest.approx(1e-2, abs=2 / impostor.size)


@given(st.floats(-4, -1.01), st.floats(-4, -1.01))
def test_stricter_rate_means_higher_cosine_and_back(a: float, b: float) -> None:
    """The cosine rises as the FMR falls, and `fmr_at` undoes `threshold_cos`."""
    pair = PairCalibration(10, 10**6, 0.7, 0.0, 0.01, (1e-1, 1e-2, 1e-3, 1e-4), (0.2, 0.3, 0.45, 0.5), (0.0,) * 4)
    one = Calibration(SPACE, "made-up", {"sample/sample": pair}, {})
    low, high = sorted((10**a, 10**b))

    assert one.threshold_cos(low, "sample/sample") >= one.threshold_cos(high, "sample/sample")
    assert one.fmr_at(one.threshold_cos(low, "sample/sample"), "sample/sample") == pytest.approx(low, rel=1e-6)


@pytest.mark.parametrize("fmr", [1e-9, 0.5, math.nan])
def test_unsupported_rate_is_refused_with_the_supported_range(calibration: Calibration, fmr: float) -> None:
    """A rate outside the calibrated range is an error that states the range and the number of pairs."""
    with pytest.raises(CalibrationError, match=r"\(0\.01 to 0\.1, sample/template4, 21240 impostor pairs\)"):
        calibration.threshold_cos(fmr, "sample/template4")


@pytest.mark.parametrize(
    ("probe", "reference", "kind"),
    [
        (1, 1, "sample/sample"),
        (1, 2, "sample/template2"),
        (1, 3, "sample/template2"),
        (1, 9, "sample/template4"),
        (2, 2, "template2/template2"),
        (3, 4, "template2/template2"),
        (4, 4, "template4/template4"),
        (8, 8, "template4/template4"),
    ],
)
def test_kind_is_the_largest_calibrated_one_that_the_templates_reach(
    calibration: Calibration, probe: int, reference: int, kind: str
) -> None:
    """Templates are compared at the thresholds of the largest calibrated size that both reach."""
    assert calibration.kind(probe_images=probe, reference_images=reference) == kind


def test_kind_without_any_fitting_size_is_refused() -> None:
    """Templates smaller than everything calibrated are an error that lists what there is."""
    pair = measure_pairs(np.array([0.9]), np.linspace(-1, 0, 300))
    only = Calibration(SPACE, "made-up", {"template4/template4": pair}, {})

    with pytest.raises(CalibrationError, match="no comparison for 1 against 4 images; it has template4/template4"):
        only.kind(probe_images=1, reference_images=4)


def test_pair_kind_names_the_unit_compared() -> None:
    """One image is a sample, k images are template k."""
    assert [pair_kind(1, 1), pair_kind(1, 4), pair_kind(4, 4)] == [
        "sample/sample",
        "sample/template4",
        "template4/template4",
    ]


def test_templates_of_more_images_tell_people_apart_better(calibration: Calibration) -> None:
    """EER falls from sample/sample over sample/template2 to sample/template4."""
    eers = [calibration.pairs[k].eer for k in ("sample/sample", "sample/template2", "sample/template4")]

    assert eers == sorted(eers, reverse=True)
    assert eers[2] < eers[0]


def test_one_to_many_threshold_rises_with_the_number_of_identities(calibration: Calibration) -> None:
    """More strangers make a chance resemblance likelier, so the 1:N cosine rises with N and passes the pairwise one."""
    kind = "sample/template4"
    (few, n_few), (many, n_many) = (calibration.one_to_many_cos(0.1, n, kind) for n in (50, 59))

    assert (n_few, n_many) == (50, 59)
    assert few <= many
    assert few > calibration.threshold_cos(0.1, kind)


def test_beyond_the_largest_calibrated_n_the_largest_serves_and_is_named(calibration: Calibration) -> None:
    """The N that was used comes back, so that a report can say so."""
    assert calibration.one_to_many_cos(0.1, 10**6, "sample/template4")[1] == 59


def test_one_to_many_refuses_what_was_not_measured(calibration: Calibration) -> None:
    """An FPIR outside the measured quantiles, or a kind without 1:N figures, is an error that says which."""
    with pytest.raises(CalibrationError, match="fpir 1e-06 is outside"):
        calibration.one_to_many_cos(1e-6, 50, "sample/template4")
    with pytest.raises(CalibrationError, match="no 1:N figures for sample/sample"):
        calibration.one_to_many_cos(0.1, 50, "sample/sample")


def test_of_fewer_identities_the_most_serve_that_support_a_rate() -> None:
    """Where it is allowed, a rate that its own N does not support is taken from the largest N below that does."""
    blocks = (
        BlockMaxima(50, 5000, (0.5, 0.99), (0.1, 0.3)),
        BlockMaxima(100, 1000, (0.5, 0.97), (0.2, 0.4)),
        BlockMaxima(200, 500, (0.5, 0.9), (0.3, 0.5)),
    )
    one = Calibration(SPACE, "made-up", {}, {"sample/template4": blocks})

    for n, fpir, expected in ((300, 0.01, (0.3, 50)), (60, 0.01, (0.3, 50)), (300, 0.03, (0.4, 100))):
        with pytest.raises(CalibrationError, match="choose a rate inside, or calibrate on more identities"):
            one.one_to_many_cos(fpir, n, "sample/template4")
        assert one.one_to_many_cos(fpir, n, "sample/template4", or_fewer=True) == (
            pytest.approx(expected[0]),
            expected[1],
        )
    for n, fpir in ((50, 0.01), (100, 0.03), (300, 0.1)):
        exact = one.one_to_many_cos(fpir, n, "sample/template4")
        assert one.one_to_many_cos(fpir, n, "sample/template4", or_fewer=True) == exact
    with pytest.raises(CalibrationError, match=r"fpir 0\.001 is outside"):
        one.one_to_many_cos(1e-3, 300, "sample/template4", or_fewer=True)


def test_one_to_many_interpolates_between_quantiles() -> None:
    """FPIR 7.5 % lies half way between the measured quantiles 0.9 and 0.95."""
    blocks = (BlockMaxima(100, 5000, (0.5, 0.9, 0.95), (0.1, 0.2, 0.3)),)
    one = Calibration(SPACE, "made-up", {}, {"sample/template4": blocks})

    assert one.one_to_many_cos(0.075, 80, "sample/template4") == (pytest.approx(0.25), 100)


def test_json_round_trip(calibration: Calibration) -> None:
    """A calibration written as JSON and read again is equal."""
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_order_of_people_does_not_matter(calibration: Calibration) -> None:
    """Permuting whole people, their images kept in order, changes no threshold."""
    emb, labels = people(1, 60, 10)
    order = np.argsort(np.random.default_rng(2).permutation(60)[labels], kind="stable")
    other = calibrate(SPACE, "made-up people", emb[order], labels[order], template_sizes=(2, 4))

    for kind, pair in calibration.pairs.items():
        np.testing.assert_allclose(other.pairs[kind].cos, pair.cos, atol=1e-6)


def test_calibration_refuses_what_is_no_embedding() -> None:
    """A NaN row stops the calibration before any threshold comes of it."""
    emb, labels = people(1, 10, 4)
    emb[7, 3] = np.nan

    with pytest.raises(BadVectorError, match="calibration: row 7"):
        calibrate(SPACE, "made-up people", emb, labels, template_sizes=(2,))


def test_template_size_needs_people_with_more_images() -> None:
    """A template size that leaves nobody a genuine sample is an error that names it."""
    emb, labels = people(1, 40, 4)

    with pytest.raises(CalibrationError, match="template size 4 needs identities with more than 4 images; got 0"):
        calibrate(SPACE, "made-up people", emb, labels, template_sizes=(4,))


def test_without_a_calibration_cosines_are_compared_and_rates_are_refused() -> None:
    """A recogniser that nobody calibrated knows no rate, and whoever asks for one is told what to do."""
    space = Space("bare", "a" * 64, "arcface-112", "unit", 4)
    none = Calibration.none(space, "run facemint calibrate")
    assert not none.measured_anything
    for ask in (
        lambda: none.kind(probe_images=1, reference_images=1),
        lambda: none.threshold_cos(1e-2, "sample/sample"),
        lambda: none.one_to_many_cos(1e-2, 10, "sample/sample"),
    ):
        with pytest.raises(CalibrationError, match=r"bare: is not calibrated.*run facemint calibrate"):
            ask()
