"""Arc2Face: faces of 512 px from ArcFace vectors, by Stable Diffusion 1.5 with a text encoder that reads identities.

F. P. Papantoniou et al., "Arc2Face: A Foundation Model for ID-Consistent Human Faces", ECCV 2024. An identity takes the
place of a token in "photo of a id person"; guidance moves away from the empty text, through the same encoder. Pose may
be steered by the published ControlNet, expression by the published adapter over 55 numbers of the FLAME head model.

A row's image follows from its own vector, conditions and noise: place, neighbours and padding change no bit in float32
on a CPU, at equal batch shapes (measured by the contract suite and `tests/benchmarks/bench_arc2face.py`).

Legend: N rows, D 512 identity dimensions, K rows that the UNet sees (2 N with guidance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.adapters.generators.stable_diffusion.conditions import guidance_of, guidance_range, unit_vectors
from pipeline.adapters.generators.stable_diffusion.configs import prompt_ids
from pipeline.adapters.generators.stable_diffusion.expression import EXPRESSION_RANGES, expression_rows
from pipeline.adapters.generators.stable_diffusion.options import SamplingOptions, card_of, unit_space
from pipeline.adapters.generators.stable_diffusion.poses import POSE_RANGES, head_pictures
from pipeline.domain.records import Conditions, Float32, UInt8
from pipeline.domain.weights import Weights, WeightsRef

if TYPE_CHECKING:
    from pipeline.adapters.generators.arc2face_model import Model

PROMPT = prompt_ids(1125, 539, 320, 1014, 2533)
"""The tokens of "photo of a id person"."""
IDENTITY_PLACE = 4
NEGATIVE = prompt_ids()
RECOGNISER = "arc2face-recogniser"
"""The recogniser whose unit vectors it takes: `arcface.onnx` beside the weights, an R100 of WebFace42M, and not the one
of antelopev2 that its place is taken of."""
SOURCE = "https://github.com/foivospar/Arc2Face"
SCALE_RANGE = Field(ge=0, le=2)


class Arc2FaceOptions(SamplingOptions):
    """Arc2Face, with its published weights."""

    use: Literal["arc2face"]
    encoder: WeightsRef
    """The fine-tuned text encoder; the one of Stable Diffusion is another."""
    guidance: Annotated[float, Field(ge=1, le=20)] | None = None
    """Classifier-free guidance, by default 3 with `dpm-solver++` and 1, which is none, with `lcm`."""
    controlnet: WeightsRef | None = None
    """Lets recipes ask for `yaw_deg`, `pitch_deg` and `roll_deg`."""
    controlnet_scale: Annotated[float, SCALE_RANGE] = 1.0
    expression_adapter: WeightsRef | None = None
    """Lets recipes ask for `expression_draw` and what belongs to it."""
    expression_layout: Literal["two-layers", "linear"] = "two-layers"
    """How the adapter's file projects its vector: `two-layers` like IP-Adapter-FaceID, `linear` like IP-Adapter."""
    expression_scale: Annotated[float, SCALE_RANGE] = 1.0
    licence: Annotated[str, Field(min_length=2, max_length=500)] = (
        "MIT; trained on WebFace42M (non-commercial research), over Stable Diffusion 1.5 (CreativeML OpenRAIL-M)"
    )

    @property
    def guidance_scale(self) -> float:
        """Return the scale of rows that ask for none."""
        return self.guidance or (1.0 if self.scheduler == "lcm" else 3.0)


class Arc2Face:
    """Implements `ports.Generator`. Building it touches no file; weights load at the first batch."""

    def __init__(self, options: Arc2FaceOptions, weights: Weights) -> None:
        """Take the options, and who brings the weights."""
        self._options, self._weights = options, weights
        roles = ("encoder", "controlnet", "expression_adapter")
        self.card = card_of(options, {role: getattr(options, role) for role in roles}, SOURCE)
        self.space = unit_space(options, RECOGNISER)
        self.noise_shape = options.noise_shape
        self.image_px = options.image_px
        self.alignment = options.alignment
        ranges = dict(guidance_range(options.guidance_scale))
        ranges |= POSE_RANGES if options.controlnet is not None else {}
        ranges |= EXPRESSION_RANGES if options.expression_adapter is not None else {}
        self.condition_ranges: Mapping[str, tuple[float, float]] = ranges
        self.condition_names = tuple(ranges)

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC, uint8 RGB, shape (N, image_px, image_px, 3). A condition that is not given is left free.

        Raises:
            BadVectorError, SpaceMismatchError: a vector is none of this generator's space.
            ModelError: weights are missing or of another model.
        """
        vectors = unit_vectors(vectors_ND, self.space)
        options, side_px = self._options, self._options.shapes.frame_px
        heads = None if options.controlnet is None else head_pictures(conditions, side_px, options.crop.points)
        faces = None if options.expression_adapter is None else expression_rows(conditions)
        return self._model.images(
            vectors, guidance_of(conditions, options.guidance_scale), noise_NCHW, heads=heads, expressions=faces
        )

    @cached_property
    def _model(self) -> Model:
        from pipeline.adapters.generators.arc2face_model import Model

        return Model(self._options, self._weights)


__all__ = ["IDENTITY_PLACE", "NEGATIVE", "PROMPT", "Arc2Face", "Arc2FaceOptions"]
