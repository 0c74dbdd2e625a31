"""What a recipe says of a generator of the Stable Diffusion 1.5 family, and what follows from it without any file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.adapters.generators.stable_diffusion.configs import (
    ID_DIMENSIONS,
    LATENT_CHANNELS,
    SHAPES,
    ConfigName,
    Shapes,
)
from pipeline.domain.detection import similarity
from pipeline.domain.landmarks import alignment
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import Node, Section
from pipeline.domain.space import Space
from pipeline.domain.weights import WeightsRef

Fraction = Annotated[float, Field(ge=-0.5, le=1.5)]
Place = tuple[Fraction, Fraction]

FFHQ_POINTS: tuple[Place, Place, Place, Place, Place] = (
    (0.377, 0.469), (0.623, 0.469), (0.501, 0.613), (0.393, 0.725), (0.612, 0.725),
)  # fmt: skip
"""Where FFHQ's crops have eyes, nose and mouth corners, as shares of the side (T. Karras et al., CVPR 2019)."""
MAX_TILT_deg = 2.0
_UNSTATED = "not stated"


class FixedCrop(Section):
    """One square for every image: calibrated once, because a generator puts faces at one place.

    Attributes:
        points: the mean places of left eye, right eye, nose, left and right mouth corner in the generator's images, as
            shares of their side. Measure them with a detector on some hundred images; the default is FFHQ's.
        alignment: the template that the square is fitted to, in least squares.
    """

    points: tuple[Place, Place, Place, Place, Place] = FFHQ_POINTS
    alignment: Literal["arcface-112", "phantom-112"] = "arcface-112"

    @model_validator(mode="after")
    def _upright(self) -> FixedCrop:
        self.square()
        return self

    @property
    def side_px(self) -> int:
        """Return the side of the crop."""
        return alignment(self.alignment).side_px

    def square(self) -> tuple[float, float, float]:
        """Return left edge, top edge and side of the square, as shares of the image's side.

        Raises:
            ValueError: the points lie in one place, or are tilted: a square that is not turned cannot align them.
        """
        template = alignment(self.alignment)
        # both count from the edges of pixels: a share of a side knows no pixel centres
        points = [(x * 1000.0 - 0.5, y * 1000.0 - 0.5) for x, y in self.points]
        matrix = similarity(points, template, template.side_px)
        if matrix is None:
            raise ValueError("the five points of the crop lie in one place; give those of a face")
        scale, tilt = float(matrix[0, 0]), float(matrix[1, 0])
        if scale <= 0 or abs(tilt) > scale * MAX_TILT_deg * 0.0175:
            raise ValueError(f"the crop's points are tilted by more than {MAX_TILT_deg:g} degrees; give upright ones")
        edge = [(-0.5 - float(shift)) / scale + 0.5 for shift in (matrix[0, 2], matrix[1, 2])]
        return edge[0] / 1000.0, edge[1] / 1000.0, template.side_px / scale / 1000.0


class SamplingOptions(Node):
    """What all generators of this family share."""

    rehearses: ClassVar[Mapping[str, Any]] = {
        "config": "reduced",
        "steps": 2,
        "precision": "float32",
        "compile": "none",
    }
    config: ConfigName = "published"
    """`reduced`: tiny networks for rehearsals, with made-up weights."""
    unet: WeightsRef
    vae: WeightsRef
    licence: Annotated[str, Field(min_length=2, max_length=500)] = _UNSTATED
    """Under which the weights may be used."""
    commercial: bool = False
    """Whether that licence allows commercial use."""
    recogniser_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the weights of the recogniser that vectors come from: what banks, identity files and maps name as
    their space. Vectors of another recogniser are refused."""
    small_vae: WeightsRef | None = None
    """An AutoencoderTiny, which decodes in place of `vae` at a fraction of its cost."""
    scheduler: Literal["dpm-solver++", "lcm"] = "dpm-solver++"
    lcm_lora: WeightsRef | None = None
    """Latent-consistency LoRA, merged into the UNet; needed by `scheduler: lcm`."""
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    """By default 25 with `dpm-solver++` and 4 with `lcm`."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the networks; latents stay float32 between steps."""
    compile: Literal["none", "default", "cuda-graphs"] = "none"
    """`torch.compile` of UNet and decoder; `cuda-graphs` replays them without launching kernels one by one."""
    channels_last: bool = True
    decode_alone: bool = False
    """Decode image by image: less memory, and slower."""
    output: Literal["crop", "original"] = "crop"
    """`original` gives whole frames, which are aligned later."""
    crop: FixedCrop = FixedCrop()
    batch: Annotated[int, Field(ge=1, le=1024)] = 8
    """Images that the network sees: 1 or a multiple of 8. With guidance the UNet sees twice as many rows."""

    @field_validator("batch")
    @classmethod
    def _whole_eights(cls, value: int) -> int:
        if value != 1 and value % 8:
            raise ValueError(f"{value} is neither 1 nor a multiple of 8")
        return value

    @model_validator(mode="after")
    def _fits_scheduler(self) -> SamplingOptions:
        if self.scheduler == "lcm" and self.lcm_lora is None:
            raise ValueError("scheduler lcm needs `lcm_lora`, the weights that were distilled for it")
        if self.scheduler != "lcm" and self.lcm_lora is not None:
            raise ValueError(
                f"lcm_lora changes what the UNet predicts, and scheduler {self.scheduler} expects it not to"
            )
        if self.scheduler == "lcm" and (self.steps or 4) > 8:
            raise ValueError(f"{self.steps} steps; scheduler lcm is made for 2 to 4, and takes at most 8")
        return self

    @property
    def shapes(self) -> Shapes:
        """Return the sizes of the configuration."""
        return SHAPES[self.config]

    @property
    def step_count(self) -> int:
        """Return how many steps are taken."""
        return self.steps or (4 if self.scheduler == "lcm" else 25)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return the noise of one image: the first latent and, for `lcm`, one more for each step but the last."""
        draws = self.step_count if self.scheduler == "lcm" else 1
        side = self.shapes.latent_px
        return LATENT_CHANNELS * draws, side, side

    @property
    def image_px(self) -> int:
        """Return the side of the images that come out."""
        return self.crop.side_px if self.output == "crop" else self.shapes.frame_px

    @property
    def alignment(self) -> str | None:
        """Return the template that they are aligned to; None for whole frames, in which a face has yet to be found."""
        return self.crop.alignment if self.output == "crop" else None


def unit_space(options: SamplingOptions, name: str) -> Space:
    """Return the space of a recogniser of the ArcFace kind whose unit vectors a generator takes."""
    digest = options.recogniser_sha256 or sha256_hex(f"unpinned {name}".encode())
    return Space(name, digest, "arcface-112", "unit", ID_DIMENSIONS)


def card_of(options: SamplingOptions, refs: Mapping[str, WeightsRef | None], source: str) -> ModelCard:
    """Return the card of a generator whose pixels these weights decide."""
    refs = {**refs, "unet": options.unet, "lcm_lora": options.lcm_lora, "vae": options.small_vae or options.vae}
    return ModelCard(
        name=options.use if options.config == "published" else f"{options.use} ({options.config})",
        sha256=weights_digest(refs),
        licence=options.licence,
        source=source,
        commercial_use=options.commercial,
        # measured by the contract suite, and again by `Sampler.prove` on the machine that is to compute
        row_independent=True,
        epoch=1,
    )


def weights_digest(refs: Mapping[str, WeightsRef | None]) -> str:
    """Return one digest for all weights of a generator, by role, without touching a file.

    A reference that states no digest counts with its address: whoever starts a run states it first.
    """
    named = {role: ref.sha256 or f"unpinned {ref.uri}" for role, ref in refs.items() if ref is not None}
    return sha256_hex(canonical_json(named))


__all__ = ["FFHQ_POINTS", "FixedCrop", "SamplingOptions", "card_of", "unit_space"]
