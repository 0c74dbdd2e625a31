"""The phantom attribute model behind the port: perceived presentation and skin tone, pose to profile, light,
expression, blur, and what hides the face.

What it gives are a model's estimates of appearance. Names follow the field's wording: *perceived*, *apparent*, *est*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.recognisers import as_pictures
from pipeline.adapters.phantom.shipped import check_digest, model_card, model_facts
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

PRESENTATION = "perceived_gender_presentation"
TONE = "est_skin_tone_group"
TONE_EDGES_MST = (3.5, 6.5)
"""Between light (Monk 1-3), medium (4-6) and dark (7-10)."""
TONE_SD, AGE_SD = "est_skin_tone_mst_sd", "apparent_age_years_sd"
REGIONS = ("forehead", "eyes", "nose", "mouth", "cheeks", "chin")
OCCLUSION = ("occlusion", *(f"occlusion_{region}" for region in REGIONS))
"""How much of the face, and of each of its regions, something hides: 0 none, 1 all of what the camera would see."""
WORN = ("glasses", "sunglasses", "face_mask", "hat", "hand")
"""What may be before a face, each with a probability `<name>_p`; a hat may be a headscarf."""
PLAIN = (
    "yaw_deg",
    "pitch_deg",
    "roll_deg",
    "light_azimuth_deg",
    "light_elevation_deg",
    "smile",
    "mouth_open",
    "blur_px",
    *OCCLUSION,
)
"""What is given as it is read, each with `<name>_sd` beside it."""


class PhantomAttributesOptions(MeasureNode):
    """The attribute model that ships with facemint."""

    use: Literal["phantom-attributes"]


class PhantomAttributes:
    """Implements `ports.Measurer`."""

    attributes: Mapping[str, tuple[str, ...]] = {
        PRESENTATION: ("feminine", "masculine"),
        TONE: ("light", "medium", "dark"),
    }
    names = (
        *(f"{field}={value}" for field, values in attributes.items() for value in values),
        "est_skin_tone_mst",
        TONE_SD,
        "apparent_age_years",
        AGE_SD,
        *(f"{name}_p" for name in WORN),
        *(f"{name}{end}" for name in PLAIN for end in ("", "_sd")),
    )

    def __init__(self, options: PhantomAttributesOptions) -> None:
        """Read the card; weights load at the first batch."""
        self.card = model_card("attributes")
        facts = model_facts("attributes")
        self.confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = facts["confusion"]

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one float64 array of shape (N,) per name.

        `est_skin_tone_mst` is on the Monk scale 1..10; yaw is positive to image right (-90..90), pitch upwards, roll
        clockwise; light comes from image right and from above where it is positive; `smile`, `mouth_open` and
        `occlusion*` are shares, `blur_px` the standard deviation of a Gaussian at 112 px, `*_p` and `field=value`
        probabilities. `occlusion` is the mean over the regions in sight: forehead, eyes, nose, mouth, cheeks, chin.
        Under `<name>_sd` stands how far off the model expects to be: two thirds of all faces within one, 90 % within
        1.645. How far that holds is in the card.
        """
        raw = self._read(faces_NHWC)
        masculine = np.clip(raw["presentation"], 0.0, 1.0)
        out = {f"{PRESENTATION}=feminine": 1.0 - masculine, f"{PRESENTATION}=masculine": masculine}
        out |= self._tone_posterior(raw["skin_tone_mst"], raw["skin_tone_mst_sd"])
        out |= {"est_skin_tone_mst": raw["skin_tone_mst"], TONE_SD: raw["skin_tone_mst_sd"]}
        out |= {"apparent_age_years": raw["age_years"], AGE_SD: raw["age_years_sd"]}
        out |= {f"{name}_p": raw[name] for name in WORN}
        return out | {f"{name}{end}": raw[f"{name}{end}"] for name in PLAIN for end in ("", "_sd")}

    def _tone_posterior(
        self, tone_N: npt.NDArray[np.float64], sd_N: npt.NDArray[np.float64]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Return the probability of each tone group: the truth is normal around the reading, as wide as it says."""
        scale_N = sd_N * math.sqrt(2.0)
        below = [
            np.array([0.5 * (1 + math.erf((edge - t) / s)) for t, s in zip(tone_N, scale_N, strict=True)])
            for edge in TONE_EDGES_MST
        ]
        return {f"{TONE}=light": below[0], f"{TONE}=medium": below[1] - below[0], f"{TONE}=dark": 1.0 - below[1]}

    def _read(self, faces_NHWC: UInt8) -> dict[str, npt.NDArray[np.float64]]:
        """Return the network's readings in their natural units, flags as probabilities, shares within 0..1."""
        import torch

        from pipeline.adapters.phantom.networks_readers import (
            ATTRIBUTE_TARGETS,
            FLAG_TARGETS,
            SHARE_TARGETS,
            SPREAD_TARGETS,
        )

        with torch.inference_mode():
            standard, _, spreads = (part.numpy().astype(np.float64) for part in self._network(as_pictures(faces_NHWC)))
        out = {}
        for column, (name, centre, spread) in enumerate(ATTRIBUTE_TARGETS):
            value = standard[:, column]
            out[name] = 1 / (1 + np.exp(-value)) if name in FLAG_TARGETS else centre + spread * value
            if name in SHARE_TARGETS:
                out[name] = out[name].clip(0.0, 1.0)
            if name in SPREAD_TARGETS:
                out[f"{name}_sd"] = spread * np.exp(spreads[:, SPREAD_TARGETS.index(name)])
        return out

    @cached_property
    def _network(self) -> Any:
        from pipeline.adapters.phantom.loading import load_attributes

        check_digest("attributes")
        return load_attributes()
