"""The phantom generator shows people older or younger where that is asked for, and at their own age everywhere else."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.generator import PhantomGenerator, PhantomGeneratorOptions
from pipeline.adapters.phantom.training.attributes import read
from pipeline.domain.records import UInt8

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
