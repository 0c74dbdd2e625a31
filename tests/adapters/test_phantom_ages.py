"""The phantom generator shows people older or younger where that is asked for, and at their own age everywhere else."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.generator import PhantomGenerator, PhantomGeneratorOptions
from pipeline.adapters.phantom.training.attributes import read
from pipeline.domain.errors import RecipeError
from pipeline.domain.recipe import parse_recipe
from pipeline.domain.records import UInt8
from tests.recipes import all_on_phantom_recipe

_PEOPLE = 16


def made(**asked: float) -> UInt8:
    """The same people, conditions and noise, with more conditions for everybody."""
    generator = PhantomGenerator(PhantomGeneratorOptions(use="phantom"))
    noise = np.random.default_rng(2).standard_normal((_PEOPLE, *generator.noise_shape), dtype=np.float32)
    who = loading.load_bank().means_ND[:_PEOPLE].astype(np.float32)
    rows = [{"yaw_deg": 3.0 * n - 20.0, "light_ambient": 0.45, "glasses": 0.0, **asked} for n in range(_PEOPLE)]
    return generator.generate(who, rows, noise)


def test_who_asks_for_no_age_gets_people_as_they_are() -> None:
    """No offset and an offset of nought are the same picture to the bit."""
    np.testing.assert_array_equal(made(), made(age_offset_years=0.0))


@pytest.mark.parametrize("years", [-20.0, 20.0])
def test_asked_for_another_age_people_look_it(years: float) -> None:
    """Most people look younger with a negative offset and older with a positive one."""
    model = loading.load_attributes()
    plain, moved = (read(model, faces)["age_years"] for faces in (made(), made(age_offset_years=years)))
    # who is 18 already cannot look younger, nor who is 80 older
    can = (plain + years > 18) & (plain + years < 80)
    assert can.sum() >= 5
    assert (np.sign(moved - plain) == np.sign(years))[can].mean() >= 0.7


def test_an_age_offset_is_held_against_no_measure() -> None:
    """How old a face looks says nothing of how much older than its own person it was asked to be."""
    raw = all_on_phantom_recipe(
        conditions={"age_offset_years": {"use": "uniform", "low": -15, "high": 15}},
        filters=[
            {"use": "condition", "condition": "age_offset_years", "measure": "apparent_age_years", "tolerance": 5}
        ],
    )
    recipe = parse_recipe(wiring.full_model(), raw, "test")
    with pytest.raises(RecipeError, match=r"filters.0.condition: got 'age_offset_years', which no measure reads"):
        wiring.check_parts(recipe, "test")
    wiring.check_parts(recipe.model_copy(update={"filters": ()}), "test")
