"""Overlap between training and test people: who is found, by which threshold, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import wiring
from pipeline.domain.calibrating import calibrate
from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import CalibrationError
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.space import Space
from pipeline.flow.evaluating.overlap import Embedded, OverlapRule, find_overlap

DIMENSIONS = 32
SPACE = Space("made-up", "0" * 64, "crops-16", "unit", DIMENSIONS)


def vectors(people: int, images: int, seed: int, first: int = 0) -> Float32:
    """Return unit rows of people, `images` each; person n of a seed is the same whoever else is asked for."""
    rows = []
    for person in range(first, first + people):
        rng = np.random.default_rng((seed, person))
        centre = rng.standard_normal(DIMENSIONS)
        rows.append(centre + 0.7 * rng.standard_normal((images, DIMENSIONS)))
    return unit_rows(np.concatenate(rows), "made up")


def crowd(emb: Float32, images: int) -> Embedded:
    """Return rows as people of `images` pictures each."""
    return Embedded(emb, tuple(tuple(range(at, at + images)) for at in range(0, len(emb), images)))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Return what cosines of such vectors mean."""
    emb = vectors(400, 8, seed=1)
    return calibrate(SPACE, "made up", emb, np.repeat(np.arange(400), 8), template_sizes=(2, 4))


def test_people_of_both_sets_are_found_and_strangers_are_not(calibration: Calibration) -> None:
    """Ten planted people come out, under other pictures of theirs, and no more strangers than chance explains."""
    trained = crowd(np.concatenate([vectors(90, 4, 5), vectors(10, 4, 7)]), 4)
    planted = vectors(10, 8, 7).reshape(10, 8, DIMENSIONS)[:, 4:].reshape(-1, DIMENSIONS)
    tested = crowd(np.concatenate([planted, vectors(90, 4, 6, first=50)]), 4)

    found = find_overlap(trained, [("test", tested)], calibration, OverlapRule(fpir=0.03))

    assert set(range(90, 100)) <= found.people
    assert len(found.people) <= 10 + 9
    (facts,) = found.facts["tests"]
    assert facts["comparison"] == "template4/template4"
    assert facts["searched"] == 100
    assert facts["searches_by_chance"] == pytest.approx(3.0)
    assert found.facts["removed"] == found.facts["too_near"] == len(found.people)


def test_the_threshold_is_one_to_many(calibration: Calibration) -> None:
    """It is the calibrated quantile of the largest of N cosines, far above the pairwise threshold of that rate."""
    trained, tested = crowd(vectors(100, 4, 5), 4), crowd(vectors(50, 4, 6), 4)
    (facts,) = find_overlap(trained, [("t", tested)], calibration, OverlapRule(fpir=0.03)).facts["tests"]

    assert facts["cos"] == calibration.one_to_many_cos(0.03, 100, "template4/template4")[0]
    assert facts["cos"] > calibration.threshold_cos(0.03, "template4/template4")


def test_single_pictures_are_compared_as_samples(calibration: Calibration) -> None:
    """Where nobody says who is on a picture, each is searched for by itself, at the threshold for samples."""
    trained, tested = crowd(vectors(100, 4, 5), 4), crowd(vectors(40, 1, 6), 1)
    (facts,) = find_overlap(trained, [("t", tested)], calibration, OverlapRule(fpir=0.01)).facts["tests"]

    assert facts["comparison"] == "sample/template4"
    assert facts["searched"] == 40


def test_a_comparison_whose_calibration_is_too_small_gives_way(calibration: Calibration) -> None:
    """Where templates were searched with too rarely for the rate, the comparison with samples decides."""
    kept = {kind: tuple(b for b in blocks) for kind, blocks in calibration.one_to_many.items()}
    few = tuple(type(b)(b.n, 60, (0.5,), (b.cos[0],)) for b in kept["template4/template4"])
    kept = {"template4/template4": few, "sample/template4": kept["sample/template4"]}
    poorer = Calibration(SPACE, "made up", calibration.pairs, kept)
    trained, tested = crowd(vectors(100, 4, 5), 4), crowd(vectors(40, 4, 6), 4)

    (facts,) = find_overlap(trained, [("t", tested)], poorer, OverlapRule(fpir=0.01)).facts["tests"]

    assert facts["comparison"] == "sample/template4"


def test_a_cosine_may_be_given_instead(calibration: Calibration) -> None:
    """With a cosine of its own nothing is taken from the calibration, and chance is not spoken of."""
    trained, tested = crowd(vectors(30, 4, 5), 4), crowd(vectors(30, 4, 5), 4)
    found = find_overlap(trained, [("t", tested)], calibration, OverlapRule(cos=0.999, remove=False))

    assert found.people == frozenset(range(30))
    assert found.facts["removed"] == 0
    assert found.facts["tests"][0]["searches_by_chance"] is None


def test_a_rate_that_nothing_supports_is_refused_with_the_way_out(calibration: Calibration) -> None:
    """The message says what is supported, and that a rate or a cosine can be given."""
    trained, tested = crowd(vectors(30, 4, 5), 4), crowd(vectors(30, 4, 6), 4)
    with pytest.raises(CalibrationError, match=r"--overlap-fpir.*--overlap-cos"):
        find_overlap(trained, [("t", tested)], calibration, OverlapRule(fpir=1e-6))


def test_people_without_a_sound_embedding_are_near_to_nobody(calibration: Calibration) -> None:
    """Who cannot be embedded has no template; the others keep their places."""
    emb = vectors(3, 4, 5)
    trained = Embedded(emb, ((0, 1, 2, 3), (), (8, 9, 10, 11)))
    found = find_overlap(trained, [("t", crowd(emb[8:], 4))], calibration, OverlapRule(cos=0.9))

    assert found.people == frozenset({2})
    assert trained.images == 4


def test_the_same_faces_under_a_recogniser_overlap_entirely() -> None:
    """Embedded by a real recogniser of the sketch world, a set overlaps with itself."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from pipeline.adapters.trainers.spool import spool_faces
    from pipeline.flow.evaluating.overlap import embedded

    judge = wiring.build("judge", wiring.load("pipeline.adapters.sketch:SketchRecogniserOptions")(use="sketch-judge"))
    with TemporaryDirectory() as folder:
        source = wiring.open_labelled("sketch://faces?identities=12&images=3&seed=1", alignment="sketch-32")
        people = embedded(spool_faces(source, Path(folder)), judge, 8)

    assert people.images == 3
    rule = OverlapRule(cos=0.99)
    assert find_overlap(people, [("t", people)], judge.calibration, rule).people == frozenset(range(12))


def test_the_usual_rate_gives_way_to_the_lowest_that_is_calibrated(calibration: Calibration) -> None:
    """Where nobody gave a rate it is 1 %, or the lowest one above it that some comparison holds; the record says it."""
    trained, tested = crowd(vectors(100, 4, 5), 4), crowd(vectors(40, 4, 6), 4)
    (usual,) = find_overlap(trained, [("t", tested)], calibration, OverlapRule()).facts["tests"]
    coarse = {
        kind: tuple(type(b)(b.n, b.n_probes, b.quantile[:q], b.cos[:q]) for b in blocks)
        for kind, blocks in calibration.one_to_many.items()
        for q in [2 if kind == "template4/template4" else 1]
    }
    poorer = Calibration(SPACE, "made up", calibration.pairs, coarse)
    (raised,) = find_overlap(trained, [("t", tested)], poorer, OverlapRule()).facts["tests"]

    assert usual["fpir"] == 0.01
    assert (raised["fpir"], raised["comparison"]) == (pytest.approx(0.1), "template4/template4")
    assert (raised["calibrated_n"], usual["calibrated_n"]) == (100, 100)
