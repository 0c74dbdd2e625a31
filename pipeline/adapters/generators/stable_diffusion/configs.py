"""The shapes of the networks, written down: nothing is looked up when a model is built.

`published` is Stable Diffusion 1.5. `reduced` keeps its width of text (768) and everything else small: for rehearsals
and tests with made-up weights, where a batch takes a fraction of a second on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ConfigName = Literal["published", "reduced"]

SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise levels that Stable Diffusion 1.x was trained with; steps are spaced evenly (`linspace`), as published
pipelines come to sample when they make their solver from this."""

TEXT_TOKENS = 77
TEXT_WIDTH = 768
ID_DIMENSIONS = 512
START, END = 49406, 49407
"""CLIP's tokens around a text; what is left of the 77 places is filled with END."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of CLIP's text network.

    Attributes:
        layers: transformer blocks.
        heads: attention heads.
        inner: width of the hidden layer of a block's perceptron.
        vocabulary: tokens that it knows.
        epsilon: of its layer norms.
    """

    layers: int
    heads: int
    inner: int
    vocabulary: int = 49408
    epsilon: float = 1e-5


@dataclass(frozen=True, slots=True)
class Shapes:
    """One configuration: what diffusers' classes are built with, and the sizes that follow.

    Attributes:
        unet, vae, small_vae, control: arguments of UNet2DConditionModel, AutoencoderKL, AutoencoderTiny and
            ControlNetModel.
        text: CLIP's text network.
        latent_px: side of a latent; it has four channels.
        frame_px: side of an image.
        lora_rank: of the low-rank updates that come with IP-Adapter-FaceID.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    small_vae: Mapping[str, Any]
    control: Mapping[str, Any]
    text: TextShape
    latent_px: int
    frame_px: int
    lora_rank: int


LATENT_CHANNELS = 4
LATENT_SCALE = 0.18215
"""Latents are divided by this before AutoencoderKL decodes them."""

_REDUCED_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_REDUCED = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 768}

SHAPES: Mapping[ConfigName, Shapes] = {
    "published": Shapes(
        unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        vae={
            "sample_size": 512,
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "scaling_factor": LATENT_SCALE,
        },
        small_vae={},
        control={"cross_attention_dim": 768, "attention_head_dim": 8},
        text=TextShape(layers=12, heads=12, inner=3072),
        latent_px=64,
        frame_px=512,
        lora_rank=128,
    ),
    "reduced": Shapes(
        unet={
            **_REDUCED,
            "sample_size": 8,
            "down_block_types": _REDUCED_DOWN,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 8,
        },
        vae={
            "sample_size": 16,
            "block_out_channels": (32, 64),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "scaling_factor": LATENT_SCALE,
        },
        small_vae={
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        control={
            **_REDUCED,
            "down_block_types": _REDUCED_DOWN,
            "attention_head_dim": 8,
            "conditioning_embedding_out_channels": (16, 32),
        },
        text=TextShape(layers=2, heads=12, inner=512),
        latent_px=8,
        frame_px=16,
        lora_rank=8,
    ),
}


def prompt_ids(*words: int) -> tuple[int, ...]:
    """Return the 77 tokens of a text whose words' tokens these are; CLIP pads with its last token."""
    if len(words) > TEXT_TOKENS - 2:
        raise ValueError(f"{len(words)} tokens; a text has at most {TEXT_TOKENS - 2}")
    return (START, *words, *(END,) * (TEXT_TOKENS - 1 - len(words)))


__all__ = [
    "ID_DIMENSIONS", "LATENT_CHANNELS", "LATENT_SCALE", "SCHEDULE", "SHAPES", "TEXT_TOKENS", "TEXT_WIDTH", "ConfigName",
    "Shapes", "TextShape", "prompt_ids",
]  # fmt: skip
