"""InsightFace's gender-age model behind the port: which output is which, and what the numbers promise."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adapters.onnx.genderage import GROUPS, PRESENTATION, GenderAge, GenderAgeOptions
from pipeline.domain.errors import UserError
from tests.photographs import ASSETS, SCRFD, aligned, lfw

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
MODEL = ASSETS / "models" / "genderage_v1.onnx"
with_assets = pytest.mark.skipif(not MODEL.is_file(), reason=f"no {MODEL.name}: the test assets are not here")
FEMININE = ("Angela", "Anna", "Barbara", "Carolina", "Catherine", "Christine", "Claire", "Debra", "Diana", "Diane")
MASCULINE = ("Bill", "Bob", "Brian", "Bruce", "Carlos", "Charles", "Dan", "Dave", "David")


@pytest.fixture(scope="module")
def model() -> GenderAge:
    """One session for all."""
    return GenderAge(GenderAgeOptions(path=str(MODEL)))


def named(names: tuple[str, ...]) -> np.ndarray:
    """Return crops of up to sixteen people of the benchmark with such given names."""
    paths = [p for p in lfw() if p.name.split("_")[0] in names and p.stem.endswith("0001")]
    return aligned(paths[:16])


@with_assets
def test_the_order_of_the_outputs_is_the_files_own(model: GenderAge) -> None:
    """People with given names that are mostly women's are read as feminine, others as masculine, on the whole."""
    for names, value in ((FEMININE, "feminine"), (MASCULINE, "masculine")):
        read = model.measure(named(names))[f"{PRESENTATION}={value}"]
        assert (read > 0.5).mean() >= 0.8, value


@with_assets
def test_what_is_measured_is_a_distribution_and_depends_on_its_face_alone(model: GenderAge) -> None:
    """Values of an attribute add up to one and lie between nought and one; the company of a face changes nothing."""
    faces = named(MASCULINE)[:5]
    found = model.measure(faces)
    assert set(found) == set(model.names)
    for field, values in model.attributes.items():
        parts = np.stack([found[f"{field}={value}"] for value in values])
        np.testing.assert_allclose(parts.sum(axis=0), 1.0, atol=1e-9)
        assert (parts >= -1e-12).all()
    assert ((found["apparent_age_years"] >= 15) & (found["apparent_age_years"] <= 90)).all()
    turned = model.measure(faces[::-1])
    for name in model.names:
        np.testing.assert_array_equal(turned[name][::-1], found[name])
    assert [name for name, _ in GROUPS] == list(model.attributes["apparent_age_group"])
    assert model.measure(faces[:0])["apparent_age_years"].shape == (0,)


@with_assets
def test_another_model_is_one_line() -> None:
    """A model with other outputs is the user's mistake."""
    with pytest.raises(UserError, match="gives one row of 202 numbers"):
        GenderAge(GenderAgeOptions(path=str(SCRFD)))
