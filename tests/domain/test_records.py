"""Records and spaces: what cannot be compared is refused, what is written can be read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.errors import BadVectorError, SpaceMismatchError, UserError
from pipeline.domain.records import (
    Candidate,
    Cell,
    Sample,
    Verdict,
    each_row,
    minted_key,
    require_unit_rows,
    template_of,
    unit_rows,
)
from pipeline.domain.space import Space

SPACE = Space("phantom-judge", "0123456789abcdef" * 4, "phantom-112", "unit", 128)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("check", [require_unit_rows, unit_rows], ids=["require", "scale"])
def test_row_without_direction_is_refused(check: object, value: float) -> None:
    """A NaN, infinite or zero row is refused by name and row, whether it is checked or scaled."""
    rows = np.eye(4, dtype=np.float32)
    rows[2] = value

    with pytest.raises(BadVectorError, match=r"gallery: row 2 has length .* \(1 of 4 rows\)"):
        check(rows, "gallery")  # type: ignore[operator]


@pytest.mark.parametrize("element", range(3))
def test_single_nan_is_enough(element: int) -> None:
    """One NaN anywhere in an otherwise fine row is seen."""
    rows = np.eye(3, dtype=np.float32)
    rows[1, element] = np.nan

    with pytest.raises(BadVectorError, match="row 1"):
        require_unit_rows(rows, "gallery")


@pytest.mark.parametrize(("length", "fine"), [(1.0, True), (1.0005, True), (0.9995, True), (1.01, False), (0.5, False)])
def test_row_must_have_unit_length(length: float, fine: bool) -> None:
    """Rounding is tolerated, a row that nobody scaled is not."""
    rows = (np.eye(3) * length).astype(np.float32)

    if fine:
        np.testing.assert_array_equal(require_unit_rows(rows, "gallery"), rows)
    else:
        with pytest.raises(BadVectorError, match="of unit length"):
            require_unit_rows(rows, "gallery")


def test_one_vector_is_not_a_table_of_vectors() -> None:
    """A single vector is refused with its shape."""
    with pytest.raises(BadVectorError, match=r"shape \(4,\) where \(N, E\)"):
        require_unit_rows(np.ones(4, np.float32) / 2, "gallery")


@given(st.integers(1, 8), st.integers(2, 64), st.integers(0, 2**32 - 1), st.floats(-8, 8))
def test_scaled_rows_are_unit_float32_in_the_same_direction(count: int, dims: int, seed: int, log_scale: float) -> None:
    """Scaling keeps the direction and gives rows that pass the check, at any scale."""
    raw = np.random.default_rng(seed).standard_normal((count, dims))
    rows = unit_rows(raw * 10**log_scale, "rows")

    assert rows.dtype == np.float32
    assert require_unit_rows(rows, "rows") is rows
    np.testing.assert_allclose(rows, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("unit", [True, False], ids=["unit", "as they are"])
def test_each_row_is_sound_or_fails_alone(unit: bool) -> None:
    """NaN, infinite and zero rows are all zeros and said to be unsound; the others are what they are without them."""
    raw = np.random.default_rng(2).standard_normal((6, 8)) * 3
    raw[1, 2], raw[3, 0], raw[4] = np.nan, np.inf, 0.0
    rows, sound = each_row(raw, "faces", unit=unit)

    assert sound.tolist() == [True, False, True, False, False, True]
    assert rows.dtype == np.float32
    assert not rows[~sound].any()
    wanted = unit_rows(raw[sound], "faces") if unit else raw[sound].astype(np.float32)
    np.testing.assert_array_equal(rows[sound], wanted)
    assert not each_row(np.full((2, 4), np.nan), "faces", unit=unit)[1].any()


@given(st.integers(1, 9), st.integers(2, 64), st.integers(0, 2**32 - 1))
def test_template_is_the_unit_length_mean(images: int, dims: int, seed: int) -> None:
    """A template has unit length and points where the mean of its embeddings points."""
    emb = unit_rows(np.random.default_rng(seed).standard_normal((images, dims)) + 0.2, "emb")
    template = template_of(emb)
    mean = emb.astype(np.float64).mean(axis=0)

    assert template.shape == (dims,)
    assert template.dtype == np.float32
    np.testing.assert_allclose(template, mean / np.linalg.norm(mean), atol=1e-6)


def test_template_of_one_image_is_that_image() -> None:
    """One embedding is its own template."""
    emb = unit_rows(np.random.default_rng(1).standard_normal((1, 32)), "emb")

    np.testing.assert_allclose(template_of(emb), emb[0], atol=1e-7)


def test_template_of_opposites_is_refused() -> None:
    """Embeddings that cancel out have no template."""
    emb = np.array([[1, 0], [-1, 0]], np.float32)

    with pytest.raises(BadVectorError, match="template"):
        template_of(emb)


@pytest.mark.parametrize(("values", "name"), [((), "all"), (("light",), "light"), (("light", "old"), "light/old")])
def test_cell_name_round_trip(values: tuple[str, ...], name: str) -> None:
    """A cell's name reads back as the cell."""
    assert str(Cell(values)) == name
    assert Cell.parse(name) == Cell(values)


def test_minted_keys_sort_and_have_no_dots() -> None:
    """Keys sort like their numbers, and WebDataset finds no dot to split at."""
    parts = [(0, 0, 0), (0, 0, 10), (0, 9, 2), (12, 7, 2), (99_999_999, 9999, 99)]
    keys = [minted_key(*p) for p in parts]

    assert keys[3] == "i00000012-s0007-a02"
    assert keys == sorted(keys)
    assert not any("." in k for k in keys)


def test_candidate_gives_one_reason_per_filter_that_refused_it() -> None:
    """Reasons are those of the refusing filters, in their order; passed filters give none."""
    sample = Sample("i00000000-s0000-a00", 0, 0, 0, {}, {}, np.eye(2, dtype=np.float32)[0])
    verdicts = (Verdict("a", False, "too_a", 0, 1), Verdict("b", True, "", 2, 1), Verdict("c", False, "too_c", 0, 1))

    assert Candidate(sample, 0, verdicts, False, False).reasons == ("too_a", "too_c")


def test_records_cannot_be_changed() -> None:
    """A value that travels stays as it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Verdict("a", True, "", 0, 1).passed = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "f" * 64}, r"weights_sha256 ffffffffffff\.\.\. instead of 0123456789ab\.\.\."),
        ({"alignment": "arcface-112"}, "alignment arcface-112 instead of phantom-112"),
        ({"norm": "raw"}, "norm raw instead of unit"),
        ({"dimensions": 512}, "dimensions 512 instead of 128"),
    ],
)
def test_other_space_is_refused_by_the_part_that_differs(change: dict[str, object], message: str) -> None:
    """Each part of a space by itself makes vectors incomparable, and the message names it."""
    other = dataclasses.replace(SPACE, name="other-judge", **change)  # type: ignore[arg-type]

    with pytest.raises(SpaceMismatchError, match=f"gallery: got .*'other-judge' where 'phantom-judge'.*{message}") as e:
        SPACE.require_same(other, "gallery")
    assert isinstance(e.value, UserError)
    assert "embed the images again" in str(e.value)


def test_same_space_under_another_name_is_the_same() -> None:
    """A space is what it is made of; its name is for messages."""
    SPACE.require_same(dataclasses.replace(SPACE, name="renamed"), "gallery")


def test_space_round_trip() -> None:
    """A space written as a mapping and read again is equal."""
    assert Space.from_dict(SPACE.to_dict()) == SPACE
