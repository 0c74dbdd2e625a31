"""Colour as people see it: linear light, CIELAB, differences between colours, and the Monk skin tones.

CIELAB is that of the D50 white, reached from sRGB (IEC 61966-2-1) by Bradford adaptation, as ICC profiles have it. All
formulas work on each element alone, so that a value does not depend on what stands beside it.

Legend: N elements of any shape; 256 sRGB values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Lab = tuple[Float64, Float64, Float64]

_CODES = np.arange(256) / 255.0
LINEAR_256: Float64 = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4)
"""Linear light, 0..1, of each sRGB code."""
LUMINANCE_C = (0.2126, 0.7152, 0.0722)
"""Share of each linear channel in luminance (Rec. 709)."""
_XYZ_D50 = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
MONK_SRGB = ("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420")
"""The ten Monk skin tones, lightest first (E. Monk, "The Monk Skin Tone Scale", 2019)."""


def lab_of(red: npt.NDArray[np.uint8], green: npt.NDArray[np.uint8], blue: npt.NDArray[np.uint8]) -> Lab:
    """Return L* (0..100), a* and b* of sRGB codes; white is (100, 0, 0) to within 1e-4, black (0, 0, 0)."""
    light = (LINEAR_256[red], LINEAR_256[green], LINEAR_256[blue])
    # in shares of the white, whose channels are all 1
    x, y, z = (_f((row[0] * light[0] + row[1] * light[1] + row[2] * light[2]) / sum(row)) for row in _XYZ_D50)
    return 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)


def _f(share: Float64) -> Float64:
    edge = 6.0 / 29.0
    return np.where(share > edge**3, np.cbrt(share), share / (3 * edge**2) + 4.0 / 29.0)


def ita_deg(lightness: Float64, b: Float64) -> Float64:
    """Return the individual typology angle in degrees, in (-180, 180]: above 55 very light, below -30 dark.

    A. Chardon, I. Cretois, C. Hourseau, "Skin colour typology and suntanning pathways", 1991; with the full arctangent,
    as the quotient breaks down where b* is 0 or less.
    """
    return np.asarray(np.rad2deg(np.arctan2(lightness - 50.0, b)), np.float64)


def ciede2000(one: Lab, other: Lab) -> Float64:
    """Return the CIEDE2000 difference of colours, 0 and more; about 1 is just noticeable.

    G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula", Color Research & Application 30 (2005).
    """
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean_c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    grow = 1.5 - 0.5 * _saturation(mean_c)
    a1, a2 = a1 * grow, a2 * grow
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.rad2deg(np.arctan2(b, a)) % 360.0 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = (h2 - h1 + 180.0) % 360.0 - 180.0
    turn = np.where(grey, 0.0, np.where(h2 - h1 == 180.0, 180.0, turn))
    middle = np.where(np.abs(h1 - h2) <= 180.0, (h1 + h2) / 2, ((h1 + h2 + 360.0) / 2) % 360.0)
    mean_h, mean_l, mean_c = np.where(grey, h1 + h2, middle), (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * _cos(mean_h - 30)
        + 0.24 * _cos(2 * mean_h)
        + 0.32 * _cos(3 * mean_h + 6)
        - 0.20 * _cos(4 * mean_h - 63)
    )
    away = (mean_l - 50.0) ** 2
    lightness = (l2 - l1) / (1 + 0.015 * away / np.sqrt(20 + away))
    chroma = (c2 - c1) / (1 + 0.045 * mean_c)
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.deg2rad(turn) / 2) / (1 + 0.015 * mean_c * t)
    spin = 60.0 * np.exp(-(((mean_h - 275.0) / 25.0) ** 2))
    rotation = -np.sin(np.deg2rad(spin)) * 2 * _saturation(mean_c)
    # rounding may leave a tiny negative sum where the colours are equal
    squares = lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)), np.float64)


def _saturation(chroma: Float64) -> Float64:
    return np.asarray(np.sqrt(chroma**7 / (chroma**7 + 25.0**7)), np.float64)


def _cos(angle_deg: Float64) -> Float64:
    return np.asarray(np.cos(np.deg2rad(angle_deg)), np.float64)


def monk_lab() -> Lab:
    """Return L*, a* and b* of the ten Monk skin tones, shape (10,) each."""
    codes = np.array([[int(tone[i : i + 2], 16) for i in (0, 2, 4)] for tone in MONK_SRGB], np.uint8)
    return lab_of(codes[:, 0], codes[:, 1], codes[:, 2])


def monk_place(colour: Lab) -> tuple[Float64, Float64]:
    """Return where N colours lie along the Monk scale, and how far from it.

    The scale is the broken line through its ten tones in CIELAB; a colour's place is that of the nearest point of the
    line.

    Returns:
        the place, 1 (lightest) to 10 (darkest), and the CIELAB distance to the line.
    """
    tones_T3 = np.stack(monk_lab(), axis=1)
    start_S3, step_S3 = tones_T3[:-1], np.diff(tones_T3, axis=0)
    away = [np.asarray(c, np.float64)[..., None] - start_S3[:, n] for n, c in enumerate(colour)]
    length_S = step_S3[:, 0] ** 2 + step_S3[:, 1] ** 2 + step_S3[:, 2] ** 2
    along = (away[0] * step_S3[:, 0] + away[1] * step_S3[:, 1] + away[2] * step_S3[:, 2]) / length_S
    along = np.clip(along, 0.0, 1.0)
    rest = [away[n] - along * step_S3[:, n] for n in range(3)]
    squares = rest[0] ** 2 + rest[1] ** 2 + rest[2] ** 2
    nearest = np.argmin(squares, axis=-1)[..., None]
    place = 1.0 + nearest + np.take_along_axis(along, nearest, axis=-1)
    return place[..., 0], np.sqrt(np.take_along_axis(squares, nearest, axis=-1)[..., 0])


def nearest_monk(colour: Lab) -> Float64:
    """Return the Monk tone, 1 to 10, that N colours differ least from by CIEDE2000; the lighter of equal ones."""
    wide = tuple(np.asarray(c, np.float64)[..., None] for c in colour)
    gaps = ciede2000((wide[0], wide[1], wide[2]), monk_lab())
    return np.asarray(1.0 + np.argmin(gaps, axis=-1), np.float64)
