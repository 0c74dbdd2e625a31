"""The phantom generator behind the port: identity vector, conditions and noise in, 112 x 112 faces out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.adapters.phantom.shipped import check_digest, model_card, model_facts, phantom_space
from pipeline.adapters.phantom.traits import NUISANCE_FIELDS
from pipeline.domain.errors import BadVectorError
from pipeline.domain.recipe import Node
from pipeline.domain.records import Conditions, Float32, UInt8, require_unit_rows

CONDITION_NAMES = (
    "yaw_deg",
    "pitch_deg",
    "roll_deg",
    "light_azimuth_deg",
    "light_elevation_deg",
    "light_ambient",
    "smile",
    "mouth_open",
    "glasses",
    "age_offset_years",
)
"""Conditions in the order of the network's inputs (a test holds this list to the network's)."""
CONDITION_RANGES: Mapping[str, tuple[float, float]] = {
    field.name: (field.low, field.high) for field in NUISANCE_FIELDS if field.name in CONDITION_NAMES
}
"""What the renderer drew for its training: beyond, it has seen nothing, and no profile at all."""
_UNASKED: Mapping[str, float] = {"age_offset_years": 0.0}
"""What is asked for where a recipe asks for nothing: people are as old as they are. Everything else is left free."""

IMAGE_PX = 112


def checked_batch(value: int) -> int:
    """Return a batch size that is 1 or a multiple of 8."""
    if value != 1 and value % 8:
        raise ValueError(f"{value} is neither 1 nor a multiple of 8")
    return value


class PhantomGeneratorOptions(Node):
    """Latent flow matching conditioned on an identity vector, pose, light, expression, glasses and age."""

    use: Literal["phantom"]
    steps: Annotated[int, Field(ge=1, le=64)] = 6
    """Euler steps from noise to latent."""
    guidance: Annotated[float, Field(ge=1, le=10)] = 2.0
    """Classifier-free guidance; 1 switches it off and halves the cost."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows that the network sees: 1 or a multiple of 8."""

    _batch = field_validator("batch")(checked_batch)


class PhantomGenerator:
    """Implements `ports.Generator`."""

    condition_names = CONDITION_NAMES
    condition_ranges = CONDITION_RANGES
    unseen_conditions = ("age_offset_years",)
    """A difference from the person's own age, which a picture does not show: no measure is held against it."""
    image_px = IMAGE_PX
    alignment: str | None = "phantom-112"

    def __init__(self, options: PhantomGeneratorOptions) -> None:
        """Read the card; weights load at the first batch."""
        self._options = options
        self.card = model_card("generator")
        self.space = phantom_space("conditioning")
        side = IMAGE_PX // 8
        self.noise_shape = (int(model_facts("generator")["latent_channels"]), side, side)

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC, uint8 RGB, shape (N, 112, 112, 3). A condition that is not given is left free.

        People are shown at their own age unless `age_offset_years` is given, and never below 18 or above 80 years.

        Raises:
            BadVectorError: a vector is not finite, not of unit length, or of other dimensions.
        """
        if require_unit_rows(vectors_ND, "identity vectors").shape[1] != self.space.dimensions:
            raise BadVectorError(
                f"identity vectors of shape {vectors_ND.shape}; {self.space.name!r} has {self.space.dimensions} "
                "dimensions"
            )
        import torch

        from pipeline.adapters.phantom.networks import sample_latents, scale_conditions, sigma_schedule

        flow, decoder = self._networks
        wanted = torch.tensor(
            [[c.get(name, _UNASKED.get(name, 0.0)) for name in CONDITION_NAMES] for c in conditions],
            dtype=torch.float32,
        )
        given = torch.tensor([[float(name in c or name in _UNASKED) for name in CONDITION_NAMES] for c in conditions])
        with torch.inference_mode():
            latents = sample_latents(
                flow,
                torch.from_numpy(noise_NCHW),
                torch.from_numpy(vectors_ND),
                scale_conditions(wanted) * given,
                given,
                sigmas=sigma_schedule(self._options.steps),
                guidance=self._options.guidance,
            )
            pictures = decoder(latents.contiguous(memory_format=torch.channels_last))
            levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        faces: UInt8 = np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
        return faces

    @cached_property
    def _networks(self) -> tuple[Any, Any]:
        from pipeline.adapters.phantom.loading import load_decoder, load_flow

        check_digest("generator")
        return load_flow(), load_decoder()
