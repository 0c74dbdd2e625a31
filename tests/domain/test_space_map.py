"""Maps between embedding spaces: what is fitted, what its error says, and in which form vectors come out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.space import Norm, Space
from pipeline.domain.space_map import FitError, SpaceMap, fit_map

SOURCE, TARGET = 8, 6


def space(name: str, dimensions: int, norm: Norm = "unit") -> Space:
    """Return a made-up space."""
    return Space(name, "0" * 63 + name[0].replace("s", "1").replace("t", "2"), "arcface-112", norm, dimensions)


def pairs(noise: float, norm: Norm = "unit", people: int = 150, images: int = 3) -> tuple[np.ndarray, ...]:
    """Return source and target vectors of people whose target is an affine function of their source, and labels."""
    rng = np.random.default_rng(3)
    means = np.repeat(rng.standard_normal((people, SOURCE)), images, axis=0)
    x = means + 0.3 * rng.standard_normal(means.shape)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ rng.standard_normal((SOURCE, TARGET)) + 0.2 + noise * rng.standard_normal((len(x), TARGET))
    if norm == "unit":
        y /= np.linalg.norm(y, axis=1, keepdims=True)
    else:
        y *= 9.0
    return x.astype(np.float32), y.astype(np.float32), np.repeat(np.arange(people), images)


def fitted(noise: float = 0.0, norm: Norm = "raw") -> SpaceMap:
    """Return a map fitted to such pairs."""
    x, y, labels = pairs(noise, norm)
    return fit_map(space("s", SOURCE), x, space("t", TARGET, norm), y, labels)


def test_an_affine_relation_is_found_exactly() -> None:
    """Where one space is an affine function of the other, the map carries vectors over to where they belong."""
    x, y, _ = pairs(0.0, "raw")
    mapping = fitted()
    np.testing.assert_allclose(mapping.apply(x), y, atol=1e-3)
    assert mapping.error.mean_cos > 0.9999
    assert mapping.error.own_nearest > 0.9
    assert mapping.error.held_out_identities == 30


def test_the_error_is_that_of_people_the_fit_never_saw() -> None:
    """Noise that no map can carry over shows in the error, and pure noise looks like a stranger."""
    weak, none = fitted(0.5).error, fitted(50.0).error
    assert fitted(0.0).error.mean_cos > weak.mean_cos > none.mean_cos
    assert none.mean_cos == pytest.approx(none.stranger_cos, abs=0.15)
    assert none.own_nearest < 0.2
    assert weak.low_cos < weak.mean_cos
    assert "cosine to the true vector" in weak.said()


@pytest.mark.parametrize("norm", ["unit", "raw"])
def test_vectors_come_out_as_the_target_has_them(norm: Norm) -> None:
    """Vectors have unit length where the target's have, and as great a length on average where it keeps lengths."""
    x, y, _ = pairs(0.3, norm)
    lengths = np.linalg.norm(fitted(0.3, norm).apply(x), axis=1)
    if norm == "unit":
        np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    else:
        assert lengths.mean() == pytest.approx(np.linalg.norm(y, axis=1).mean(), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_a_vector_never_depends_on_those_beside_it(order: list[int]) -> None:
    """A row comes out with the same bytes alone, in any order, in any company."""
    x, _, _ = pairs(0.1, "raw")
    mapping = _MAP
    alone = np.stack([mapping.apply(x[n : n + 1])[0] for n in order])
    assert mapping.apply(x[order]).tobytes() == alone.tobytes()


_MAP = fitted(0.1)


def test_a_map_and_its_error_are_the_same_again() -> None:
    """Fitting draws from a fixed key: equal pairs give an equal map, and its error survives JSON."""
    again = fitted(0.1)
    np.testing.assert_array_equal(again.matrix_DS, _MAP.matrix_DS)
    assert FitError.from_dict(json.loads(json.dumps(_MAP.error.to_dict()))) == again.error


@pytest.mark.parametrize(
    "vectors", [np.full((2, SOURCE), np.nan, np.float32), np.zeros((2, SOURCE + 1), np.float32), np.zeros(SOURCE)]
)
def test_what_is_no_vector_of_the_source_is_refused(vectors: np.ndarray) -> None:
    """NaN and vectors of other dimensions are carried nowhere."""
    with pytest.raises(BadVectorError):
        _MAP.apply(vectors)


def test_too_few_people_are_refused() -> None:
    """A map that could not be judged on anybody is not fitted."""
    x, y, labels = pairs(0.0, people=20)
    with pytest.raises(UserError, match="give 100 at least"):
        fit_map(space("s", SOURCE), x, space("t", TARGET), y, labels)


def test_a_map_of_other_sizes_than_its_spaces_is_none() -> None:
    """Arrays have to fit the spaces, and hold numbers."""
    error = _MAP.error
    with pytest.raises(ValueError, match="arrays of shapes"):
        SpaceMap(space("s", 3), space("t", TARGET), _MAP.matrix_DS, _MAP.offset_D, error)
    with pytest.raises(ValueError, match="not finite"):
        SpaceMap(_MAP.source, _MAP.target, _MAP.matrix_DS * np.nan, _MAP.offset_D, error)
