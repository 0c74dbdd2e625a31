"""The promises of every measure that needs no weights, and of what wraps a measure: one suite for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import wiring
from jobs.components import COMPONENTS
from pipeline.adapters.measures.percentile import Ranked
from pipeline.adapters.measures.sharpness import Sharpness
from pipeline.adapters.measures.sourced import Sourced
from pipeline.domain.ports import Measurer
from pipeline.domain.records import UInt8
from pipeline.flow.parts import measure_fixed

WEIGHT_FREE = ("copy-hash", "lighting", "natural-colour", "sharpness", "skin-tone")
QUANTILES = {"sharpness": np.linspace(0.0, 1.0, 101).tolist()}
SIDES = (8, 32, 33, 112, 160)


def built(name: str) -> Measurer:
    """Return a measure by its name in recipes, with its default options, or one of the wrappers."""
    if name == "ranked":
        return Ranked(Sharpness(), QUANTILES, "made-up faces")
    if name == "sourced":
        return Sourced(built("skin-tone"), "cheeks")
    options = wiring.load(COMPONENTS["measures"][name][0])(use=name)
    return wiring.build("measures", options)


@pytest.fixture(scope="module", params=[*WEIGHT_FREE, "ranked", "sourced"])
def measurer(request: pytest.FixtureRequest) -> Measurer:
    """Return each measure in turn."""
    return built(request.param)


def noise(count: int, height: int, width: int, seed: int = 0) -> UInt8:
    """Return pictures of smooth colour and of noise, alternately."""
    rng = np.random.default_rng(seed)
    faces = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, width).astype(np.uint8)[None, :, None]
    faces[::2] = ramp + rng.integers(0, 50, (len(faces[::2]), 1, 1, 3), dtype=np.uint8)
    return faces


def require_promises(measurer: Measurer, faces: UInt8) -> None:
    """Fail unless every name has one finite float64 per face, and the values of each field sum to one."""
    found = measurer.measure(faces)
    assert set(found) == set(measurer.names)
    for name, values in found.items():
        assert values.shape == (len(faces),), name
        assert values.dtype == np.float64, name
        assert np.isfinite(values).all(), name
    for field, values in measurer.attributes.items():
        total = np.sum([found[f"{field}={value}"] for value in values], axis=0)
        np.testing.assert_allclose(total, 1, atol=1e-9)


def test_every_measure_without_weights_runs_this_suite() -> None:
    """The list above is that of the component table, less the models of the two worlds and those that users bring."""
    options = {name: wiring.load(where[0]) for name, where in COMPONENTS["measures"].items()}
    brought = {name for name, model in options.items() if {"path", "weights"} & set(model.model_fields)}
    assert sorted(WEIGHT_FREE) == sorted(set(options) - brought - {"sketch", "phantom-attributes"})


def test_it_is_a_measurer_with_a_card(measurer: Measurer) -> None:
    """It has the port's attributes, names without repetition, and a card that allows any use."""
    assert isinstance(measurer, Measurer)
    assert len(set(measurer.names)) == len(measurer.names) > 0
    assert measurer.card.commercial_use
    assert measurer.card.row_independent
    assert len(measurer.card.sha256) == 64
    named = {f"{field}={value}" for field, values in measurer.attributes.items() for value in values}
    assert named <= set(measurer.names)


@pytest.mark.parametrize("side", SIDES)
def test_pictures_of_any_size_have_numbers(measurer: Measurer, side: int) -> None:
    """From 8 pixels upwards, square or not, everything is finite."""
    require_promises(measurer, noise(3, side, side))
    require_promises(measurer, noise(2, side, side + 5))


@given(
    st.tuples(*[st.integers(0, 255)] * 3),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.sampled_from((8, 16, 32)),
    st.integers(0, 32),
)
@settings(max_examples=40)
def test_two_colours_of_any_kind_have_numbers(
    one: tuple[int, ...], other: tuple[int, ...], side: int, edge: int
) -> None:
    """Flat, black, white, grey, saturated, and any two of them side by side: never NaN."""
    faces = np.empty((2, side, side, 3), np.uint8)
    faces[:], faces[1, :, edge:] = one, other
    for name in (*WEIGHT_FREE, "ranked", "sourced"):
        require_promises(built(name), faces)


def test_rows_do_not_touch_each_other(measurer: Measurer) -> None:
    """Alone, in a batch, in another order, padded or beside other neighbours, a row has the same bits."""
    faces = noise(11, 56, 48, seed=3)
    whole = measurer.measure(faces)
    turned = measurer.measure(faces[::-1])
    fixed = measure_fixed((measurer,), faces, 8)
    for name, values in whole.items():
        alone = [float(measurer.measure(faces[i : i + 1])[name][0]) for i in range(len(faces))]
        assert values.tolist() == alone == turned[name][::-1].tolist() == fixed[name].tolist(), name


def test_arguments_stay_as_they_were_and_layout_changes_nothing(measurer: Measurer) -> None:
    """It writes into no picture, and a transposed view measures as its copy does."""
    faces = noise(3, 40, 40, seed=5)
    before = faces.copy()
    view = faces.transpose(0, 2, 1, 3)
    assert as_lists(measurer.measure(view)) == as_lists(measurer.measure(view.copy()))
    np.testing.assert_array_equal(faces, before)


def test_no_rows_give_no_numbers(measurer: Measurer) -> None:
    """An empty batch is measured as an empty batch."""
    found = measurer.measure(np.zeros((0, 112, 112, 3), np.uint8))
    assert {v.shape for v in found.values()} == {(0,)}


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 112, 112, 3), np.float32),
        np.zeros((112, 112, 3), np.uint8),
        np.zeros((1, 3, 112, 112), np.uint8),
        np.zeros((1, 7, 112, 3), np.uint8),
    ],
)
def test_what_cannot_be_measured_is_refused(measurer: Measurer, wrong: Any) -> None:
    """Floats, a missing batch axis, channels first and tiny faces are refused with what is allowed."""
    with pytest.raises(ValueError, match="measured"):
        measurer.measure(wrong)


def as_lists(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return measures as something that compares exactly."""
    return {name: values.tolist() for name, values in found.items()}
