"""Measures the shipped attribute model: readings of held-out renders beside what is true of them.

Draw E has ordinary pictures, EW those to profile and with covered faces. Neither was trained on.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks_readers import FLAG_TARGETS, SHARE_TARGETS, SPREAD_TARGETS
from pipeline.adapters.phantom.renderer import degrade
from pipeline.adapters.phantom.training.attributes import read, truth_of
from pipeline.adapters.phantom.training.augment import jpeg
from pipeline.adapters.phantom.training.bank import PRESENTATIONS, TONE_GROUPS, tone_group
from pipeline.adapters.phantom.training.config import Training
from pipeline.adapters.phantom.training.draws import Drawn, load_draws
from pipeline.adapters.phantom.training.groups import Array, Places, by_group, by_identity, groups_of, mean_of, rounded

Readings = dict[str, npt.NDArray[np.float32]]
WIDE_DRAW = "EW"
_ROUGH = ("blur_px", "noise_sigma")
_WORN = tuple(name for name in FLAG_TARGETS if name != "presentation")
_YAW_BANDS_deg = ((0.0, 15.0), (15.0, 45.0), (45.0, 70.0), (70.0, 90.0))
_HARDLY = 0.1
"""A reading of `occlusion` above this is a false alarm where nothing is hidden."""


def measure_attributes(
    config: Training, drawn: Drawn, stored: npt.NDArray[np.uint8]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures, and the confusion tables of what is read of people.

    Blur and noise are read from the pictures with the blur and noise that their rows state; all else from clear ones.

    Args:
        config: where the wide pictures come from.
        drawn: the held-out identities of draw E.
        stored: their pictures, stored as JPEG.
    """
    truth = truth_of(config, ("E",), drawn)
    found = _read_both(config, drawn, stored)
    figures: dict[str, Any] = {
        "presentation_accuracy": rounded(((found["presentation"] > 0.5) == (truth["presentation"] > 0.5)).mean()),
        "tone_group_accuracy": rounded(
            (tone_group(found["skin_tone_mst"]) == tone_group(truth["skin_tone_mst"])).mean()
        ),
        "glasses_accuracy": rounded(((found["glasses"] > 0.5) == (truth["glasses"] > 0.5)).mean()),
        "r": correlations(found, truth),
    }
    for name in sorted(set(SPREAD_TARGETS) - set(SHARE_TARGETS)):
        figures[f"{name}_mean_error"] = rounded(np.abs(found[name] - truth[name]).mean())
    figures["within_90_interval"] = coverage(found, truth)
    bare = ~np.isnan(truth["occlusion"])  # without the frames of glasses
    figures["false_alarms"] = {name: rounded((found[name] > 0.5).mean()) for name in _WORN if name != "glasses"} | {
        "occlusion": rounded((found["occlusion"][bare] > _HARDLY).mean())
    }
    groups = groups_of(drawn)
    for name in ("age_years", "yaw_deg", "skin_tone_mst"):
        off_I = by_identity(np.abs(found[name] - truth[name]), drawn.owner_N)
        figures[f"{name}_mean_error_by_group"] = by_group(groups, functools.partial(mean_of, off_I))
    told, confusion = _of_means(found, truth, drawn.owner_N)
    return figures | told | {"wide": _wide(config)}, confusion


def _read_both(config: Training, drawn: Drawn, stored: npt.NDArray[np.uint8]) -> Readings:
    """Return what is read of clear pictures, with blur and noise as read of the same pictures where they have some."""
    rng = config.rng("measure", 4)
    rough = degrade(drawn.faces_NHWC, drawn.truth("blur_px"), drawn.truth("noise_sigma"), rng)
    model = loading.load_attributes()
    found, found_rough = read(model, stored), read(model, jpeg(rough, 95))
    return found | {name: found_rough[name] for name in found if name.removesuffix("_sd") in _ROUGH}


def _of_means(found: Readings, truth: Readings, owner_N: Places) -> tuple[dict[str, Any], dict[str, Any]]:
    """How well people are read whose pictures are read together, and who is taken for what."""
    (read_p, read_t), (true_p, true_t) = (
        (by_identity(of["presentation"], owner_N) > 0.5, tone_group(by_identity(of["skin_tone_mst"], owner_N)))
        for of in (found, truth)
    )
    figures = {
        "presentation_accuracy_of_means": rounded((read_p == true_p).mean()),
        "tone_group_accuracy_of_means": rounded((read_t == true_t).mean()),
    }
    return figures, {
        "perceived_gender_presentation": _confusion(true_p.astype(int), read_p.astype(int), PRESENTATIONS),
        "est_skin_tone_group": _confusion(true_t, read_t, TONE_GROUPS),
    }


def _wide(config: Training) -> dict[str, Any]:
    """The same of wide pictures: heads to profile, faces that are partly covered, people at another age."""
    drawn = load_draws(config, (WIDE_DRAW,))
    truth = truth_of(config, (WIDE_DRAW,), drawn)
    found = read(loading.load_attributes(), jpeg(np.asarray(drawn.faces_NHWC), 95))
    clear = tuple(name for name in SPREAD_TARGETS if name not in _ROUGH)
    errors = {name: np.abs(found[name] - truth[name]) for name in clear}
    figures: dict[str, Any] = {
        "pictures": len(drawn.owner_N),
        "r": correlations(found, truth, (*clear, "presentation")),
        "mean_error": {name: rounded(np.nanmean(errors[name])) for name in clear},
        "within_90_interval": coverage(found, truth, clear),
        "presentation_accuracy": rounded(((found["presentation"] > 0.5) == (truth["presentation"] > 0.5)).mean()),
        "tone_group_accuracy": rounded(
            (tone_group(found["skin_tone_mst"]) == tone_group(truth["skin_tone_mst"])).mean()
        ),
        "worn": {name: _telling(found[name], truth[name] > 0.5) for name in _WORN},
        "by_yaw_deg": _by_yaw(errors, truth["yaw_deg"]),
    }
    groups = groups_of(drawn)
    for name in ("occlusion", "yaw_deg", "age_years"):
        off_I = by_identity(errors[name], drawn.owner_N)
        figures[f"{name}_mean_error_by_group"] = by_group(groups, functools.partial(mean_of, off_I))
    return figures


def correlations(found: Readings, truth: Readings, names: tuple[str, ...] = ()) -> dict[str, float]:
    """Return Pearson's r of what is read and what is true, of what varies. It is the most that adherence can show."""
    told = {}
    for name in sorted(names or truth):
        known = ~np.isnan(truth[name])
        if len(set(truth[name][known].tolist())) > 1:
            told[name] = rounded(np.corrcoef(found[name][known], truth[name][known])[0, 1])
    return told


def coverage(found: Readings, truth: Readings, names: tuple[str, ...] = SPREAD_TARGETS) -> dict[str, float]:
    """Return how many true values lie within 1.645 of the spread that each reading states: 0.9 of them, if it is so."""
    told = {}
    for name in names:
        known = ~np.isnan(truth[name])
        within = np.abs(found[name] - truth[name]) <= 1.645 * found[f"{name}_sd"]
        told[name] = rounded(within[known].mean())
    return told


def _by_yaw(errors: Readings, yaw_N: npt.NDArray[np.float32]) -> dict[str, dict[str, float]]:
    """Mean errors of pose, age and tone by how far heads are turned to either side."""
    told = {}
    for low, high in _YAW_BANDS_deg:
        mine = (np.abs(yaw_N) >= low) & (np.abs(yaw_N) <= high)
        if mine.any():
            names = ("yaw_deg", "pitch_deg", "roll_deg", "age_years", "skin_tone_mst")
            told[f"{low:.0f}-{high:.0f}"] = {name: rounded(errors[name][mine].mean()) for name in names}
    return told


def _telling(p_N: npt.NDArray[np.float32], is_N: npt.NDArray[np.bool_]) -> dict[str, float]:
    """How well a probability tells what is there: missed at one half, told where nothing is, and the area under the
    curve of the two.
    """
    told = {"pictures": float(is_N.sum())}
    if 0 < is_N.sum() < len(is_N):
        told |= {
            "auc": rounded(area_under_curve(p_N, is_N)),
            "missed": rounded((p_N[is_N] <= 0.5).mean()),
            "false_alarms": rounded((p_N[~is_N] > 0.5).mean()),
            "mean_squared_error": rounded(np.square(p_N - is_N).mean()),
        }
    return told


def area_under_curve(p_N: Array, is_N: npt.NDArray[np.bool_]) -> float:
    """Return how often something that is there gets a higher value than something that is not; ties count half.

    Source: Mann and Whitney 1947, by ranks.
    """
    yes, no = int(is_N.sum()), int((~is_N).sum())
    return float((rankdata(p_N)[is_N].sum() - yes * (yes + 1) / 2) / (yes * no))


def _confusion(
    true_N: npt.NDArray[Any], read_N: npt.NDArray[Any], names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """True value -> read value -> share, over means of an identity's rendered pictures."""
    out = {}
    for t, true_name in enumerate(names):
        mine = read_N[true_N == t]
        # not rounded: the shares of a row sum to one
        out[true_name] = {name: float((mine == r).mean()) if len(mine) else 0.0 for r, name in enumerate(names)}
    return out
