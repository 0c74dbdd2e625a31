"""Draws the wide conditions: heads to profile, hard shadows, faces that are partly covered, and other ages.

The draws are separate from those of `traits.sample_nuisances`, so that ordinary pictures stay what they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.traits import WIDE_FIELDS, WIDE_POSE, FloatArray, nuisance_column

_Column = npt.NDArray[np.float64]
# Typical colours, sRGB: disposable masks are pale blue, white, pale green or black.
_MASKS = np.array([[0.62, 0.80, 0.90], [0.93, 0.94, 0.94], [0.66, 0.85, 0.78], [0.10, 0.10, 0.12]])


def widen(nuisances_NC: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Ordinary nuisance rows with the wide conditions drawn on top: float32 (N, C), every value inside its range.

    Shares of the rows: 45 % turned evenly up to profile, 25 % nodding evenly up to the limit, 40 % with cast shadows,
    8 % with sunglasses and a third of other glasses tinted a little, 10 % with a mask, 12 % with a cap and 3 % with a
    headscarf, 8 % with a hand at the face, 40 % shown up to 20 years older or younger. Each is drawn on its own.
    """
    n = len(nuisances_NC)
    out = np.array(nuisances_NC, dtype=np.float32)
    values = _drawn(out, n, rng)
    ranges = {field.name: (field.low, field.high) for field in WIDE_FIELDS} | WIDE_POSE | {"glasses": (0.0, 1.0)}
    for name, column in values.items():
        out[:, nuisance_column(name)] = np.clip(column, *ranges[name])
    return out


def shown_at_other_ages(nuisances_NC: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Ordinary nuisance rows, every person up to 20 years older or younger, evenly: float32 (N, C)."""
    out = np.array(nuisances_NC, dtype=np.float32)
    out[:, nuisance_column("age_offset_years")] = rng.uniform(-20.0, 20.0, len(out))
    return out


def _drawn(rows: FloatArray, n: int, rng: np.random.Generator) -> dict[str, _Column]:
    values: dict[str, _Column] = {}
    for name, share in (("yaw_deg", 0.45), ("pitch_deg", 0.25)):
        ordinary = rows[:, nuisance_column(name)]
        values[name] = np.where(rng.random(n) < share, rng.uniform(*WIDE_POSE[name], n), ordinary)
    values["shadow"] = np.where(rng.random(n) < 0.4, rng.uniform(0.4, 1.0, n), 0.0)
    values["shadow_softness"] = rng.beta(1.0, 1.5, n)
    sunglasses, tinted = rng.random(n) < 0.08, rng.random(n) < 0.33
    worn = rows[:, nuisance_column("glasses")] > 0
    values["glasses"] = (worn | sunglasses).astype(np.float64)
    some, dark = rng.uniform(0.05, 0.5, n), rng.uniform(0.7, 1.0, n)
    values["glasses_tint"] = np.where(sunglasses, dark, np.where(worn & tinted, some, 0.0))
    masked, hat, hand = rng.random(n) < 0.10, rng.random(n), rng.random(n) < 0.08
    values["face_mask"] = np.where(masked, rng.choice([1.0, 1.0, 2.0], n), 0.0)
    values["mask_drop"] = np.where(rng.random(n) < 0.2, rng.random(n), 0.1 * rng.random(n))
    values["hat"] = np.select([hat < 0.05, hat < 0.12, hat < 0.15], [1.0, 2.0, 3.0], 0.0)
    values["hat_low"] = rng.random(n)
    values["hand"] = np.where(hand, rng.choice([1.0, 2.0], n), 0.0)
    values["hand_side"], values["hand_shift"] = rng.choice([-1.0, 1.0], n), rng.uniform(-1.0, 1.0, n)
    values["age_offset_years"] = np.where(rng.random(n) < 0.4, rng.uniform(-20.0, 20.0, n), 0.0)
    typical = _MASKS[rng.integers(len(_MASKS), size=n)]
    level, tint = rng.uniform(0.05, 0.8, (n, 1)), 0.18 * rng.standard_normal((n, 3))
    free = rng.uniform(0.05, 0.85, (n, 1)) + 0.15 * rng.standard_normal((n, 3))
    mask = np.where(values["face_mask"][:, None] == 1.0, typical, level + tint)
    for channel, letter in enumerate("rgb"):
        values[f"mask_{letter}"], values[f"hat_{letter}"] = mask[:, channel], free[:, channel]
    return values
