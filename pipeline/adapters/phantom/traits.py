"""What a phantom can be: the table of identity and nuisance values, and how they are drawn.

An identity is one row of numbers that never changes between pictures of the same phantom; a nuisance row is
everything that does (pose, light, expression, glasses, background, and the wide conditions: profile, hard shadows,
things that cover the face, another age). Every value is exact ground truth.
Shape of nose, lips, eyes, brows and jaw is drawn independently of skin tone on purpose; the links that do
exist (age with grey hair and lines, presentation with hair length, jaw and beard, tone weakly with hair texture
and with the colour of hair and eyes) are written in `sample_identities` and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
_Column = npt.NDArray[np.float64]


class Field(NamedTuple):
    """One value of a phantom: its name, inclusive range, unit and meaning."""

    name: str
    low: float
    high: float
    unit: str
    meaning: str


def _shape(name: str, meaning: str) -> Field:
    """A shape value in units of its own spread: 0 is average, +-1 a marked difference."""
    return Field(name, -1.6, 1.6, "spread", meaning)


IDENTITY_FIELDS: tuple[Field, ...] = (
    Field("presentation", 0.0, 1.0, "share", "0 feminine .. 1 masculine"),
    Field("skin_tone_mst", 1.0, 10.0, "monk", "Monk skin tone, continuous"),
    Field("age_years", 18.0, 80.0, "years", "apparent age"),
    Field("undertone", -1.0, 1.0, "share", "cool to warm skin undertone"),
    Field("blush", 0.0, 1.0, "share", "redness of cheeks, nose and ears"),
    Field("freckles", 0.0, 1.0, "share", "density of freckles; about one in six has any"),
    _shape("face_width", "width of the whole head"),
    _shape("face_length", "length of the face below the eyes"),
    _shape("skull_height", "height of the skull above the eyes"),
    _shape("jaw_width", "width of the jaw"),
    _shape("jaw_square", "round to square jaw"),
    _shape("chin_width", "pointed to wide chin"),
    _shape("chin_projection", "receding to prominent chin"),
    _shape("cheekbones", "flat to high cheekbones"),
    _shape("cheek_fullness", "hollow to full cheeks"),
    _shape("forehead_height", "low to high hairline"),
    _shape("brow_ridge", "flat to strong brow ridge"),
    _shape("eye_spacing", "distance between the eyes"),
    _shape("eye_width", "width of the eyes"),
    _shape("eye_opening", "narrow to wide open eyes"),
    _shape("eye_tilt", "outer corner low to high"),
    _shape("eye_depth", "shallow to deep-set eyes"),
    Field("lid_crease", 0.0, 1.0, "share", "no visible lid crease to a marked one"),
    Field("eye_colour", 0.0, 1.0, "ramp", "dark brown, brown, hazel, green, blue, grey"),
    _shape("brow_height", "low to high brows"),
    _shape("brow_thickness", "thin to thick brows"),
    _shape("brow_arch", "straight to arched brows"),
    _shape("brow_tilt", "outer end low to high"),
    _shape("brow_gap", "distance between the brows"),
    _shape("nose_width", "width across the nostrils"),
    _shape("nose_length", "length of the nose"),
    _shape("nose_bridge", "low to high bridge"),
    _shape("nose_tip", "fine to round tip"),
    _shape("nose_projection", "how far the tip stands out"),
    _shape("mouth_width", "width of the mouth"),
    _shape("mouth_height", "short to long upper lip area"),
    _shape("lip_upper", "fullness of the upper lip"),
    _shape("lip_lower", "fullness of the lower lip"),
    _shape("lip_bow", "flat to marked cupid's bow"),
    Field("lip_hue", 0.0, 1.0, "share", "brownish to rosy natural lip colour"),
    _shape("ear_size", "size of the ears"),
    _shape("ear_angle", "flat to protruding ears"),
    _shape("neck_width", "width of the neck"),
    Field("hair_cap", 0.0, 0.42, "unit", "thickness of hair on the skull (100 mm units); 0 is bald"),
    Field("hair_drop", 0.0, 1.8, "unit", "how far loose hair falls below the eyes; 0 is none"),
    Field("hair_body", 0.0, 1.0, "share", "width of loose hair beside the face"),
    Field("hair_curl", 0.0, 1.0, "share", "straight, wavy, curly, coily"),
    Field("hair_colour", 0.0, 1.0, "ramp", "black, dark brown, brown, auburn, dark blond, blond"),
    Field("hair_grey", 0.0, 1.0, "share", "share of grey hair"),
    Field("hair_recession", 0.0, 1.0, "share", "recession at the temples"),
    Field("hair_part", -1.0, 1.0, "share", "side and strength of the parting"),
    Field("hair_fringe", 0.0, 1.0, "share", "fringe over the forehead"),
    Field("hair_bun", 0.0, 1.0, "share", "size of a bun on the crown"),
    Field("beard", 0.0, 1.0, "share", "density of the beard on chin and jaw"),
    Field("moustache", 0.0, 1.0, "share", "density of the moustache"),
    Field("beard_cheek", 0.0, 1.0, "share", "chin beard only to full beard"),
    Field("line_depth", 0.4, 1.4, "factor", "how strongly age shows in lines"),
    Field("mole_x", -0.62, 0.62, "unit", "place of the first mole"),
    Field("mole_y", -0.95, 0.5, "unit", "place of the first mole"),
    Field("mole_size", 0.0, 1.0, "share", "size of the moles; 0 for half of the phantoms"),
)

ORDINARY_FIELDS: tuple[Field, ...] = (
    Field("yaw_deg", -45.0, 45.0, "deg", "head turn, positive to image right"),
    Field("pitch_deg", -20.0, 20.0, "deg", "head nod, positive looks up"),
    Field("roll_deg", -10.0, 10.0, "deg", "head tilt, positive clockwise in the image"),
    Field("light_azimuth_deg", -90.0, 90.0, "deg", "key light, positive from image right"),
    Field("light_elevation_deg", -10.0, 60.0, "deg", "key light, positive from above"),
    Field("light_ambient", 0.2, 0.7, "share", "share of soft light from everywhere"),
    Field("light_warmth", -1.0, 1.0, "share", "cool to warm key light"),
    Field("exposure", 0.8, 1.2, "factor", "overall brightness of the picture"),
    Field("smile", 0.0, 1.0, "share", "neutral to broad smile"),
    Field("mouth_open", 0.0, 1.0, "share", "closed to open mouth"),
    Field("brow_raise", 0.0, 1.0, "share", "neutral to raised brows"),
    Field("eye_close", 0.0, 0.5, "share", "neutral to narrowed eyes"),
    Field("gaze_x", -1.0, 1.0, "share", "gaze to image left .. right"),
    Field("gaze_y", -1.0, 1.0, "share", "gaze down .. up"),
    Field("glasses", 0.0, 1.0, "flag", "1 where glasses are worn"),
    Field("glasses_round", 0.0, 1.0, "share", "angular to round lenses"),
    Field("glasses_size", 0.0, 1.0, "share", "small to large lenses"),
    Field("glasses_dark", 0.0, 1.0, "share", "metal-light to black frame"),
    Field("background_r", 0.05, 0.9, "srgb", "background red at the centre"),
    Field("background_g", 0.05, 0.9, "srgb", "background green at the centre"),
    Field("background_b", 0.05, 0.9, "srgb", "background blue at the centre"),
    Field("background_gradient", -0.35, 0.35, "srgb", "brightness change across the picture"),
    Field("background_angle_deg", 0.0, 360.0, "deg", "direction of the brightness change"),
    Field("background_blobs", 0.0, 0.25, "srgb", "strength of out-of-focus shapes"),
    Field("background_phase", 0.0, 6.2832, "rad", "places of the out-of-focus shapes"),
    Field("cloth_r", 0.03, 0.85, "srgb", "clothing red"),
    Field("cloth_g", 0.03, 0.85, "srgb", "clothing green"),
    Field("cloth_b", 0.03, 0.85, "srgb", "clothing blue"),
    Field("collar", 0.0, 1.0, "share", "low to high collar"),
    Field("shift_x_px", -2.0, 2.0, "px", "crop error to the right, at 112 px"),
    Field("shift_y_px", -2.0, 2.0, "px", "crop error downwards, at 112 px"),
    Field("scale", 0.95, 1.05, "factor", "crop scale error"),
    Field("blur_px", 0.0, 2.5, "px", "Gaussian blur (standard deviation), applied by degrade only"),
    Field("noise_sigma", 0.0, 12.0, "levels", "sensor noise (of 255), applied by degrade only"),
)
"""What `sample_nuisances` draws, with the ranges it draws from; `WIDE_POSE` says how far a head can be turned."""

WIDE_FIELDS: tuple[Field, ...] = (
    Field("shadow", 0.0, 1.0, "share", "how much of the key light casts shadows"),
    Field("shadow_softness", 0.0, 1.0, "share", "edges of cast shadows: sharp to soft"),
    Field("glasses_tint", 0.0, 1.0, "share", "clear lenses to sunglasses, where glasses are worn"),
    Field("face_mask", 0.0, 2.0, "kind", "0 none, 1 pleated (surgical), 2 cloth"),
    Field("mask_drop", 0.0, 1.0, "share", "mask on the bridge of the nose to mask below its tip"),
    Field("mask_r", 0.0, 1.0, "srgb", "mask red"),
    Field("mask_g", 0.0, 1.0, "srgb", "mask green"),
    Field("mask_b", 0.0, 1.0, "srgb", "mask blue"),
    Field("hat", 0.0, 3.0, "kind", "0 none, 1 knitted cap, 2 peaked cap, 3 headscarf"),
    Field("hat_low", 0.0, 1.0, "share", "high on the forehead to low over the brows"),
    Field("hat_r", 0.0, 1.0, "srgb", "hat red"),
    Field("hat_g", 0.0, 1.0, "srgb", "hat green"),
    Field("hat_b", 0.0, 1.0, "srgb", "hat blue"),
    Field("hand", 0.0, 2.0, "kind", "0 none, 1 before the mouth, 2 at the cheek"),
    Field("hand_side", -1.0, 1.0, "side", "the side of the head the hand comes from: image left below 0, else right"),
    Field("hand_shift", -1.0, 1.0, "share", "hand lower to higher"),
    Field("age_offset_years", -20.0, 20.0, "years", "how much older than the identity the person is shown"),
)
"""The wide conditions. Every one is 0 in an ordinary picture and changes no pixel there; kinds are whole numbers."""

NUISANCE_FIELDS: tuple[Field, ...] = ORDINARY_FIELDS + WIDE_FIELDS
WIDE_POSE: dict[str, tuple[float, float]] = {"yaw_deg": (-90.0, 90.0), "pitch_deg": (-30.0, 30.0)}
"""How far the renderer turns a head, to profile; the ordinary draws stay inside `ORDINARY_FIELDS`."""

_IDENTITY_INDEX = {field.name: index for index, field in enumerate(IDENTITY_FIELDS)}
_NUISANCE_INDEX = {field.name: index for index, field in enumerate(NUISANCE_FIELDS)}


def identity_column(name: str) -> int:
    """The column of an identity value in the (N, T) table; KeyError for an unknown name."""
    return _IDENTITY_INDEX[name]


def nuisance_column(name: str) -> int:
    """The column of a nuisance value in the (N, C) table; KeyError for an unknown name."""
    return _NUISANCE_INDEX[name]


def _assemble(fields: tuple[Field, ...], values: dict[str, _Column]) -> FloatArray:
    columns = [np.clip(values[field.name], field.low, field.high) for field in fields]
    return np.stack(columns, axis=1).astype(np.float32)


def smooth(low: float, high: float, value: _Column) -> _Column:
    """Cubic step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float64)


ONSET_YEARS, GREYING_YEARS = (52.0, 9.0), 26.0
"""Mean and spread of the age of visible grey, which begins four years before; how long hair takes to turn."""


def recession_share(age: _Column) -> _Column:
    """How far recession at the temples has come by an age, as a factor."""
    return 0.35 + 0.9 * smooth(25, 65, age)


# One row per style: cap thickness, drop, body, fringe, bun (mean values; spread is added when drawn).
_STYLES: dict[str, tuple[float, float, float, float, float]] = {
    "bald": (0.0, 0.0, 0.0, 0.0, 0.0),
    "cropped": (0.03, 0.0, 0.0, 0.0, 0.0),
    "short": (0.10, 0.0, 0.0, 0.15, 0.0),
    "volume": (0.20, 0.0, 0.0, 0.1, 0.0),
    "bob": (0.11, 0.75, 0.5, 0.35, 0.0),
    "long": (0.10, 1.5, 0.5, 0.2, 0.0),
    "updo": (0.06, 0.0, 0.0, 0.1, 0.75),
    "round": (0.32, 0.0, 0.0, 0.0, 0.0),
}
_STYLE_TABLE = np.array(list(_STYLES.values()))
_MASCULINE_ODDS = np.array([0.11, 0.24, 0.34, 0.14, 0.03, 0.07, 0.02, 0.05])
_FEMININE_ODDS = np.array([0.015, 0.045, 0.11, 0.12, 0.25, 0.28, 0.11, 0.065])


def _hair(m: _Column, tone: _Column, age: _Column, rng: np.random.Generator) -> dict[str, _Column]:
    """Hair on the head: style by presentation, texture weakly by tone, colour weakly by tone, grey by age."""
    n = len(m)
    odds = _FEMININE_ODDS + m[:, None] * (_MASCULINE_ODDS - _FEMININE_ODDS)
    style = (rng.random(n)[:, None] > np.cumsum(odds / odds.sum(1, keepdims=True), axis=1)).sum(1).clip(0, 7)
    cap, drop, body, fringe, bun = _STYLE_TABLE[style].T
    curl = np.clip(rng.beta(0.8, 1.2, n) + 0.30 * smooth(5.0, 9.0, tone) * rng.random(n), 0, 1)
    curl = np.where(style == 7, np.maximum(curl, 0.55), curl)
    some = cap > 0
    cap = np.where(some, cap * np.exp(0.22 * rng.standard_normal(n)), 0.0)
    loose = drop > 0
    drop = np.where(loose, drop + 0.18 * rng.standard_normal(n), 0.0)
    body = np.where(loose, np.clip(rng.beta(2, 2, n) + 0.25 * curl, 0, 1), 0.0)
    fringe = np.where(some, np.clip(fringe * (1.0 - 0.7 * m) * 3.0 * rng.random(n) ** 2, 0, 1), 0.0)
    bun = np.where(bun > 0, rng.uniform(0.5, 1.0, n), 0.0)
    light_chance = 1.0 - 0.94 * smooth(3.0, 7.0, tone)
    colour = np.where(rng.random(n) < light_chance, rng.random(n), rng.beta(1.0, 3.0, n) * 0.6)
    onset = rng.normal(*ONSET_YEARS, n)
    grey = smooth(0.0, GREYING_YEARS, age - onset + 4) * rng.uniform(0.55, 1.0, n)
    recession = np.clip(m * rng.beta(1.2, 2.2, n) * recession_share(age), 0, 1)
    return {
        "hair_cap": cap, "hair_drop": drop, "hair_body": body, "hair_curl": curl, "hair_colour": colour,
        "hair_grey": grey, "hair_recession": recession, "hair_part": rng.uniform(-1, 1, n),
        "hair_fringe": fringe, "hair_bun": bun,
    }  # fmt: skip


def sample_identities(count: int, rng: np.random.Generator, tones_mst: tuple[float, float] = (1.0, 10.0)) -> FloatArray:
    """Draw `count` identities: float32 (count, len(IDENTITY_FIELDS)), every value inside its field's range.

    Skin tone is uniform on the Monk scale (or on a part of it), presentation bimodal and even, age uniform.
    """
    n = count
    masculine = rng.random(n) < 0.5
    presentation = np.where(masculine, 1.0, 0.0) + np.where(masculine, -1, 1) * 0.38 * rng.beta(1.3, 3.0, n)
    tone = rng.uniform(*tones_mst, n)
    age = rng.uniform(18.0, 80.0, n)
    side = 2.0 * presentation - 1.0
    values: dict[str, _Column] = {"presentation": presentation, "skin_tone_mst": tone, "age_years": age}
    for field in IDENTITY_FIELDS:
        if field.unit == "spread":
            values[field.name] = 0.72 * rng.standard_normal(n)
    # Soft differences of presentation: well inside the spread within each group, so the groups overlap.
    for name, pull in (
        ("jaw_width", 0.95), ("jaw_square", 0.85), ("brow_ridge", 0.65), ("brow_thickness", 0.6),
        ("brow_height", -0.4), ("brow_arch", -0.5), ("lip_upper", -0.35), ("lip_lower", -0.35), ("neck_width", 0.7),
        ("eye_opening", -0.4), ("cheek_fullness", -0.3), ("face_length", 0.25), ("chin_width", 0.7),
        ("nose_length", 0.15), ("ear_size", 0.2), ("face_width", 0.1),
    ):  # fmt: skip
        values[name] = values[name] + pull * side
    values["undertone"] = np.clip(0.45 * rng.standard_normal(n), -1, 1)
    values["blush"] = rng.beta(2, 2, n)
    freckled = rng.random(n) < 0.17
    values["freckles"] = np.where(freckled, rng.uniform(0.3, 1.0, n), 0.0)
    values["lid_crease"] = rng.beta(1.3, 1.0, n)
    light_eyes = rng.random(n) < 0.03 + 0.67 * (1.0 - smooth(2.0, 6.5, tone))
    values["eye_colour"] = np.where(light_eyes, rng.uniform(0.4, 1.0, n), rng.uniform(0.0, 0.45, n))
    values["lip_hue"] = rng.beta(2, 2, n)
    values.update(_hair(presentation, tone, age, rng))
    grows = (presentation > 0.5) & (rng.random(n) < 0.5)
    density = rng.choice(np.array([0.28, 0.45, 0.75, 1.0]), n, p=[0.35, 0.2, 0.25, 0.2])
    shape = rng.random(n)  # below 0.2: moustache alone; above 0.8: no moustache; between: both
    values["beard"] = np.where(grows & (shape > 0.2), density, 0.0)
    values["moustache"] = np.where(grows & (shape < 0.85), np.maximum(density, 0.3), 0.0)
    values["beard_cheek"] = rng.beta(1.2, 0.8, n)
    values["line_depth"] = rng.uniform(0.5, 1.3, n)
    values["mole_x"] = rng.uniform(-0.6, 0.6, n)
    values["mole_y"] = rng.uniform(-0.9, 0.45, n)
    values["mole_size"] = np.where(rng.random(n) < 0.5, rng.uniform(0.25, 1.0, n), 0.0)
    return _assemble(IDENTITY_FIELDS, values)


def sample_nuisances(count: int, rng: np.random.Generator) -> FloatArray:
    """Draw `count` nuisance rows: float32 (count, len(NUISANCE_FIELDS)), every value inside its field's range.

    The wide conditions are 0; `wide.widen` draws them.
    """
    n = count
    values: dict[str, _Column] = {f.name: rng.uniform(f.low, f.high, n) for f in ORDINARY_FIELDS}
    values.update({f.name: np.zeros(n) for f in WIDE_FIELDS})
    wide = rng.random(n) < 0.25
    values["yaw_deg"] = np.where(wide, rng.uniform(-45, 45, n), 14.0 * rng.standard_normal(n))
    values["pitch_deg"] = 6.5 * rng.standard_normal(n)
    values["roll_deg"] = 3.5 * rng.standard_normal(n)
    values["light_azimuth_deg"] = np.where(rng.random(n) < 0.3, rng.uniform(-90, 90, n), 35.0 * rng.standard_normal(n))
    values["light_elevation_deg"] = 25.0 + 15.0 * rng.standard_normal(n)
    values["light_ambient"] = 0.2 + 0.5 * rng.beta(2, 2, n)
    values["light_warmth"] = 0.4 * rng.standard_normal(n)
    values["exposure"] = 1.0 + 0.07 * rng.standard_normal(n)
    values["smile"] = np.where(rng.random(n) < 0.4, 0.1 * rng.random(n), rng.random(n))
    values["mouth_open"] = np.where(rng.random(n) < 0.62, 0.0, rng.random(n))
    values["brow_raise"] = np.where(rng.random(n) < 0.6, 0.15 * rng.random(n), rng.random(n))
    values["eye_close"] = 0.5 * rng.beta(1.0, 4.0, n)
    values["gaze_x"] = 0.45 * rng.standard_normal(n)
    values["gaze_y"] = 0.35 * rng.standard_normal(n)
    values["glasses"] = (rng.random(n) < 0.22).astype(np.float64)
    grey_level = rng.uniform(0.1, 0.85, n)
    for channel in "rgb":  # mostly muted walls: a grey level with some colour
        values[f"background_{channel}"] = grey_level + 0.13 * rng.standard_normal(n)
    values["background_gradient"] = 0.16 * rng.standard_normal(n)
    values["background_blobs"] = 0.25 * rng.beta(1, 2, n)
    cloth_level = rng.uniform(0.05, 0.8, n)
    for channel in "rgb":
        values[f"cloth_{channel}"] = cloth_level + 0.16 * rng.standard_normal(n)
    for name in ("shift_x_px", "shift_y_px"):
        values[name] = 0.7 * rng.standard_normal(n)
    values["scale"] = 1.0 + 0.018 * rng.standard_normal(n)
    blurred = rng.random(n) < 0.35
    values["blur_px"] = np.where(blurred, 2.2 * rng.beta(1.2, 2.0, n), 0.0)
    values["noise_sigma"] = 9.0 * rng.beta(1.0, 3.0, n)
    return _assemble(NUISANCE_FIELDS, values)
