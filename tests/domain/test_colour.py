"""Colour: CIELAB of known colours, CIEDE2000 against its published test data, and the Monk scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.colour import MONK_SRGB, ciede2000, ita_deg, lab_of, monk_lab, monk_place, nearest_monk

KNOWN_LAB = [
    # sRGB, and its CIELAB under D50 as colour management systems give it
    ((0, 0, 0), (0.0, 0.0, 0.0)),
    ((255, 255, 255), (100.0, 0.0, 0.0)),
    ((119, 119, 119), (50.03, 0.0, 0.0)),
    ((255, 0, 0), (54.29, 80.80, 69.89)),
    ((0, 255, 0), (87.82, -79.27, 80.99)),
    ((0, 0, 255), (29.57, 68.30, -112.03)),
]


@pytest.mark.parametrize(("srgb", "lab"), KNOWN_LAB)
def test_cielab_of_known_colours(srgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    """Black, white, grey and the primaries have the CIELAB values of the D50 white."""
    red, green, blue = (np.array([c], np.uint8) for c in srgb)
    assert np.concatenate(lab_of(red, green, blue)) == pytest.approx(lab, abs=0.02)


SHARMA = [
    # Sharma, Wu, Dalal (2005), table 1: pairs that lead through every branch of the formula
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("one", "other", "difference"), SHARMA)
def test_ciede2000_of_the_published_pairs(one: tuple[float, ...], other: tuple[float, ...], difference: float) -> None:
    """Each pair of the formula's own test data differs by what its authors state, whichever comes first."""
    a, b = (tuple(np.array([c]) for c in lab) for lab in (one, other))
    assert ciede2000(a, b) == pytest.approx([difference], abs=5e-5)  # type: ignore[arg-type]
    assert ciede2000(b, a) == pytest.approx([difference], abs=5e-5)  # type: ignore[arg-type]


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_does_not_differ_from_itself(srgb: tuple[int, int, int]) -> None:
    """The difference of a colour to itself is nothing, and its place on the Monk scale is a number of 1 to 10."""
    red, green, blue = (np.array([c], np.uint8) for c in srgb)
    lab = lab_of(red, green, blue)
    assert ciede2000(lab, lab)[0] == 0.0
    place, off = monk_place(lab)
    assert 1.0 <= place[0] <= 10.0
    assert off[0] >= 0.0
    assert nearest_monk(lab)[0] in range(1, 11)


def test_the_monk_tones_lie_at_their_own_numbers() -> None:
    """Each tone of the scale is at its number, on the scale, and nearest to itself."""
    place, off = monk_place(monk_lab())
    assert place == pytest.approx(np.arange(1, 11), abs=1e-9)
    assert off == pytest.approx(np.zeros(10), abs=1e-9)
    assert nearest_monk(monk_lab()).tolist() == list(range(1, 11))
    assert len(MONK_SRGB) == 10


def test_halfway_between_two_tones_is_a_half() -> None:
    """The middle of the line from tone 4 to tone 5 lies at 4.5; a colour beside the scale keeps its place."""
    lightness, a, b = (c[3:5].mean(keepdims=True) for c in monk_lab())
    place, off = monk_place((lightness, a, b))
    assert place == pytest.approx([4.5])
    assert off == pytest.approx([0.0], abs=1e-9)


@pytest.mark.parametrize(
    ("lightness", "b", "angle"),
    [(60.0, 10.0, 45.0), (40.0, 10.0, -45.0), (50.0, 10.0, 0.0), (60.0, 0.0, 90.0), (60.0, -10.0, 135.0)],
)
def test_ita_by_hand(lightness: float, b: float, angle: float) -> None:
    """The angle is that of (b*, L* - 50), also where b* is nothing or negative."""
    assert ita_deg(np.array([lightness]), np.array([b])) == pytest.approx([angle])
