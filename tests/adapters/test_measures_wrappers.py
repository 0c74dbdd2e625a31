"""What wraps a measure: labellers' names, and percentiles beside learned scores."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adapters.measures.lighting import Lighting, LightingOptions
from pipeline.adapters.measures.percentile import Ranked
from pipeline.adapters.measures.sharpness import Sharpness
from pipeline.adapters.measures.sourced import Sourced
from pipeline.adapters.sketch import SketchMeasures
from pipeline.domain.percentiles import quantiles_of

FACES = np.random.default_rng(4).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def test_a_sourced_measure_is_the_same_under_other_names() -> None:
    """Numbers, attributes and confusion are the measurer's, each under its labeller."""
    plain, second = SketchMeasures(), Sourced(SketchMeasures(), "second")
    given, renamed = plain.measure(FACES), second.measure(FACES)
    assert second.names[:2] == ("yaw_deg@second", "shape@second=round")
    assert [v.tolist() for v in renamed.values()] == [v.tolist() for v in given.values()]
    assert second.attributes["shape@second"] == plain.attributes["shape"]
    assert second.confusion["shade@second"] == plain.confusion["shade"]
    assert second.card == plain.card


def test_a_measure_has_one_source() -> None:
    """A sourced measure cannot be sourced again, and a labeller is a word."""
    with pytest.raises(ValueError, match="has the labeller 'one' already"):
        Sourced(Sourced(SketchMeasures(), "one"), "two")
    with pytest.raises(ValueError, match="labeller 'A='"):
        Sourced(SketchMeasures(), "A=")


def test_percentiles_stand_beside_the_score() -> None:
    """The sharpest of the population stands at 100, the least sharp at 0, and the median at 50."""
    scores = Sharpness().measure(FACES)["sharpness"]
    ranked = Ranked(Sharpness(), {"sharpness": quantiles_of(scores)}, "nine pictures")
    found = ranked.measure(FACES)
    order = np.argsort(scores)
    assert found["sharpness"].tolist() == scores.tolist()
    assert found["sharpness_percentile"][order] == pytest.approx(np.linspace(0, 100, 9), abs=0.6)
    assert ranked.names == ("sharpness", "luma_mean", "luma_contrast", "sharpness_percentile")
    assert "nine pictures" in ranked.card.source


def test_other_quantiles_are_another_model() -> None:
    """The card's digest covers the quantiles, so a dataset cannot grow under others unnoticed."""
    one, same, other = (
        Ranked(Sharpness(), {"sharpness": np.linspace(0, top, 101).tolist()}, "p").card.sha256 for top in (1, 1, 2)
    )
    assert one == same != other
    assert one != Sharpness.card.sha256


def test_quantiles_of_an_unknown_score_are_refused() -> None:
    """A card that states quantiles of something else is a mistake of the adapter's."""
    with pytest.raises(ValueError, match="quantiles of beauty; sharpness-laplacian gives sharpness"):
        Ranked(Sharpness(), {"beauty": [0.0] * 101}, "p")


def test_ranks_are_those_of_one_alignment() -> None:
    """A rank is one among crops cut as the population's were, be the score one of any crop; a labeller keeps that."""
    quantiles = {"sharpness": [0.0] * 101}
    ranked = Ranked(Sharpness(), quantiles, "p", alignment="sketch-32")
    assert ranked.alignment == Sourced(ranked, "b").alignment == "sketch-32"
    assert Sourced(ranked, "b").names[-1] == "sharpness_percentile@b"
    lighting = Lighting(LightingOptions(alignment="phantom-112"))
    assert Ranked(lighting, {"luminance_mean": [0.0] * 101}, "p").alignment == "phantom-112"
    assert Ranked(Sharpness(), quantiles, "p").alignment is None
