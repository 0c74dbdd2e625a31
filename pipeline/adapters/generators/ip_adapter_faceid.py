"""IP-Adapter-FaceID on Stable Diffusion 1.5: faces of 512 px from ArcFace vectors and a text.

H. Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", arXiv 2308.06721,
and the FaceID weights published after it. An identity becomes four tokens, which every cross-attention layer attends to
beside the text; low-rank updates that belong to it are merged into the UNet. Guidance moves away from zeros and another
text.

A row's image follows from its own vector, conditions and noise: place, neighbours and padding change no bit in float32
on a CPU, at equal batch shapes (measured by the contract suite).

Legend: N rows, D 512 identity dimensions, K rows that the UNet sees (2 N with guidance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.adapters.generators.stable_diffusion.conditions import guidance_of, guidance_range, unit_vectors
from pipeline.adapters.generators.stable_diffusion.configs import TEXT_TOKENS, prompt_ids
from pipeline.adapters.generators.stable_diffusion.options import SamplingOptions, card_of, unit_space
from pipeline.domain.records import Conditions, Float32, UInt8
from pipeline.domain.weights import Weights, WeightsRef

if TYPE_CHECKING:
    from pipeline.adapters.generators.ip_adapter_faceid_model import Model

RECOGNISER = "buffalo-l-recogniser"
"""The recogniser whose unit vectors it takes: `w600k_r50.onnx` of InsightFace's pack buffalo_l."""
SOURCE = "https://huggingface.co/h94/IP-Adapter-FaceID"
TokenId = Annotated[int, Field(ge=0, le=49_405)]


class IpAdapterFaceIdOptions(SamplingOptions):
    """IP-Adapter-FaceID, with its published weights."""

    use: Literal["ip-adapter-faceid"]
    text_encoder: WeightsRef
    """The text encoder of Stable Diffusion 1.5."""
    adapter: WeightsRef
    """`ip-adapter-faceid_sd15`: projection, keys and values, and low-rank updates of the attention."""
    adapter_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    prompt: Annotated[tuple[TokenId, ...], Field(max_length=TEXT_TOKENS - 2)] = (949, 3027, 267, 1400, 3027)
    """CLIP's tokens of the text; the default is "best quality, high quality"."""
    negative: Annotated[tuple[TokenId, ...], Field(max_length=TEXT_TOKENS - 2)] = ()
    """Of the text that guidance moves away from; the default is the empty one."""
    guidance: Annotated[float, Field(ge=1, le=20)] | None = None
    """Classifier-free guidance, by default 7.5 with `dpm-solver++` and 1, which is none, with `lcm`."""
    licence: Annotated[str, Field(min_length=2, max_length=500)] = (
        "non-commercial research only, over Stable Diffusion 1.5 (CreativeML OpenRAIL-M)"
    )

    @property
    def guidance_scale(self) -> float:
        """Return the scale of rows that ask for none."""
        return self.guidance or (1.0 if self.scheduler == "lcm" else 7.5)

    @property
    def prompts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return all 77 tokens of the text and of the one that guidance moves away from."""
        return prompt_ids(*self.prompt), prompt_ids(*self.negative)


class IpAdapterFaceId:
    """Implements `ports.Generator`. Building it touches no file; weights load at the first batch."""

    def __init__(self, options: IpAdapterFaceIdOptions, weights: Weights) -> None:
        """Take the options, and who brings the weights."""
        self._options, self._weights = options, weights
        self.card = card_of(options, {"text_encoder": options.text_encoder, "adapter": options.adapter}, SOURCE)
        self.space = unit_space(options, RECOGNISER)
        self.noise_shape = options.noise_shape
        self.image_px = options.image_px
        self.alignment = options.alignment
        self.condition_ranges: Mapping[str, tuple[float, float]] = dict(guidance_range(options.guidance_scale))
        self.condition_names = tuple(self.condition_ranges)

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC, uint8 RGB, shape (N, image_px, image_px, 3).

        Raises:
            BadVectorError, SpaceMismatchError: a vector is none of this generator's space.
            ModelError: weights are missing or of another model.
        """
        vectors = unit_vectors(vectors_ND, self.space)
        return self._model.images(vectors, guidance_of(conditions, self._options.guidance_scale), noise_NCHW)

    @cached_property
    def _model(self) -> Model:
        from pipeline.adapters.generators.ip_adapter_faceid_model import Model

        return Model(self._options, self._weights)


__all__ = ["IpAdapterFaceId", "IpAdapterFaceIdOptions"]
