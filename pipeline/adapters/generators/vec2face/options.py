"""What a recipe says of Vec2Face and Vec2Face+, and what follows from it without any file.

The published checkpoints:

    hf://BooBooWu/Vec2Face@COMMIT/weights/vec2face_generator.pth               Vec2Face
    hf://BooBooWu/Vec2Face_plus@COMMIT/vec2face_plus/pose_model.pth            Vec2Face+ with LoRA and pose model
    hf://BooBooWu/Vec2Face_plus@COMMIT/vec2face_plus/main_model.pth            Vec2Face+ without: `use: vec2face`, masks
                                                                               as those of Vec2FacePlusOptions
    hf://BooBooWu/Vec2Face@COMMIT/weights/arcface-r100-glint360k.pth           the recogniser whose vectors both take
    hf://BooBooWu/Vec2Face@COMMIT/weights/magface-r100-glint360k.pth           whose feature lengths are quality
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.adapters.generators.vec2face.drawing import DIMENSIONS, MaskLaw
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.recipe import Node, Section
from pipeline.domain.space import Space
from pipeline.domain.weights import WeightsRef

ALIGNMENT = "arcface-112"
RECOGNISER = "arcface-r100-glint360k"
Depth = Literal[18, 34, 50, 100, 200]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Gate = Annotated[float, Field(ge=0, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1000)]


class IdentityGoal(Section):
    """The picture's vector shall be near the one that it was asked for: loss 1 - cosine, by the space's recogniser.

    Attributes:
        recogniser: the weights that define the generator's space (an iResNet, read without flip).
        depth: its number of layers.
        gate: a row passes at this loss or less.
        weight: of this loss in what is minimised.
    """

    recogniser: WeightsRef
    depth: Depth = 100
    gate: Gate = 0.3
    weight: Weight = 100.0


class QualityGoal(Section):
    """The picture's feature shall be long, where length means quality (MagFace): loss max(0, target - length).

    Attributes:
        recogniser: an iResNet trained with MagFace's loss.
        depth: its number of layers.
        target: length from which there is nothing more to gain; upstream has 27, and 22 to 30 in its demo.
        gate: a row passes at this loss or less.
        weight: of this loss in what is minimised.
    """

    recogniser: WeightsRef
    depth: Depth = 100
    target: Annotated[float, Field(gt=0, le=1000)] = 27.0
    gate: Gate = 1.0
    weight: Weight = 1.0


class YawGoal(Section):
    """The head shall be turned as `yaw_deg` asks: loss is the distance in degrees, 0 where none is asked.

    Attributes:
        estimator: weights of 6DRepNet, folded, as its authors publish them (6DRepNet_300W_LP_AFLW2000.pth).
        size: of its network; `reduced` is for rehearsals, with made-up weights.
        positive: the side of the picture to which a head is turned that it gives a positive yaw. That of the published
            weights is taken from how its authors draw them, not measured: try `right` where heads turn the wrong way.
        gate: a row passes at this loss or less, in degrees.
        weight: of this loss in what is minimised.
    """

    estimator: WeightsRef
    size: Literal["repvgg-b1g2", "reduced"] = "repvgg-b1g2"
    positive: Literal["left", "right"] = "left"
    gate: Gate = 5.0
    weight: Weight = 1.0


class Optimisation(Section):
    """Attribute optimisation: the vector is moved by gradient until the picture meets its goals, image by image.

    An image that passes its gates is done, and is the picture that passed; one that does not within `iterations` is the
    best that was seen. What others in its batch do changes nothing. Runs in float32.

    Attributes:
        identity: keep the identity.
        quality: gain quality.
        yaw: turn the head as `yaw_deg` asks, which the generator then obeys, whichever it is.
        iterations: most pictures that are made and scored of one image.
        rate: step of Adam, in units of the vector's coordinates.
        rows: images that are worked on at once, the next one following as soon as one is done: 1, 2, 4 or a multiple
            of 8. 2 suits a CPU.
    """

    identity: IdentityGoal | None = None
    quality: QualityGoal | None = None
    yaw: YawGoal | None = None
    iterations: Annotated[int, Field(ge=1, le=1000)] = 30
    rate: Annotated[float, Field(gt=0, le=10)] = 0.1
    rows: Annotated[int, Field(ge=1, le=1024)] = 8

    @field_validator("rows")
    @classmethod
    def _even_blocks(cls, value: int) -> int:
        return value if value in (2, 4) else whole_eights(value)

    @model_validator(mode="after")
    def _has_a_goal(self) -> Optimisation:
        if self.identity is None and self.quality is None and self.yaw is None:
            raise ValueError("nothing to optimise; give `identity`, `quality`, `yaw` or several of them")
        return self


def whole_eights(value: int) -> int:
    """Return a number of rows that is 1 or a multiple of 8; raises ValueError for another."""
    if value != 1 and value % 8:
        raise ValueError(f"{value} is neither 1 nor a multiple of 8")
    return value


class Vec2FaceOptions(Node):
    """Vec2Face: one forward pass from a raw ArcFace vector to an aligned face."""

    rehearses: ClassVar[Mapping[str, Any]] = {
        "config": "reduced",
        "precision": "float32",
        "compile": "none",
        "optimise": {
            "iterations": 2,
            "rows": 1,
            "identity": {"depth": 18},
            "quality": {"depth": 18},
            "yaw": {"size": "reduced"},
        },
    }
    use: Literal["vec2face"]
    config: Literal["published", "reduced"] = "published"
    """`reduced`: a small network of the same kind, for rehearsals and tests, with made-up weights."""
    weights: WeightsRef
    """The checkpoint, as published or converted."""
    licence: Annotated[str, Field(min_length=2, max_length=500)] | None = None
    """Under which the weights may be used; left out: as their publication states."""
    commercial: bool = False
    """Whether the stated licence allows commercial use."""
    recogniser_sha256: Digest | None = None
    """SHA-256 of the weights of the recogniser (`arcface-r100-glint360k`) that vectors come from: what banks, identity
    files and maps name as their space. Vectors of another recogniser are refused."""
    masks: MaskLaw = MaskLaw()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the network. With weights by formula bfloat16 moves a picture by 2.3 levels of 255 on average (37 at most in a
    pixel), float16 by 0.3 (6); tests hold them to 3 (48) and 0.4 (8)."""
    compile: Literal["none", "default", "cuda-graphs"] = "none"
    """`torch.compile`; `cuda-graphs` replays kernels without launching them one by one."""
    tf32: bool = False
    """Whether an NVIDIA GPU may round the factors of float32 products to 10 bits."""
    levels: Literal["nearest", "truncated"] = "nearest"
    """How the network's -1..1 becomes 0..255: the nearest level, or cut off as upstream does, half a level darker."""
    optimise: Optimisation | None = None
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rows that the network sees: 1 or a multiple of 8."""

    @field_validator("batch")
    @classmethod
    def _whole_eights(cls, value: int) -> int:
        return whole_eights(value)

    @model_validator(mode="after")
    def _licence_says_so(self) -> Vec2FaceOptions:
        if self.commercial and self.licence is None:
            raise ValueError("commercial: true needs a licence that says so; state it in `licence`")
        return self

    @model_validator(mode="after")
    def _pleases_its_own_recogniser(self) -> Vec2FaceOptions:
        goal = self.optimise.identity if self.optimise is not None else None
        digests = {self.recogniser_sha256, goal.recogniser.sha256 if goal is not None else None} - {None}
        if len(digests) > 1:
            raise ValueError(
                "optimise.identity.recogniser and recogniser_sha256 are two recognisers; vectors of one are compared "
                "with its own features alone, so name the same"
            )
        return self

    @model_validator(mode="after")
    def _optimises_in_float32(self) -> Vec2FaceOptions:
        if self.optimise is not None and (self.precision != "float32" or self.compile != "none"):
            raise ValueError(
                f"optimise runs in float32 and uncompiled, and precision is {self.precision}, compile {self.compile}; "
                "leave these out, or drop optimise"
            )
        return self

    @property
    def space(self) -> Space:
        """Return where the vectors live that it takes: raw features, of crops aligned as ArcFace's are."""
        goal = self.optimise.identity if self.optimise is not None else None
        stated = self.recogniser_sha256 or (goal.recogniser.sha256 if goal is not None else None)
        digest = stated or sha256_hex(f"unpinned {RECOGNISER}".encode())
        return Space(RECOGNISER, digest, ALIGNMENT, "raw", DIMENSIONS)

    @property
    def digest(self) -> str:
        """Return one digest for all weights that decide pixels, without touching a file: of one file, that file's own.

        A reference that states no digest counts with its address: whoever starts a run states it first.
        """
        if self.optimise is None and self.weights.sha256 is not None:
            return self.weights.sha256
        named = {"network": self.weights}
        if self.optimise is not None:
            goals = {"identity": self.optimise.identity, "quality": self.optimise.quality}
            named |= {role: goal.recogniser for role, goal in goals.items() if goal is not None}
            named |= {"yaw": self.optimise.yaw.estimator} if self.optimise.yaw is not None else {}
        return sha256_hex(canonical_json({role: ref_digest(ref) for role, ref in named.items()}))


class Vec2FacePlusOptions(Vec2FaceOptions):
    """Vec2Face+: the same with LoRA, and a pose that is asked for as yaw and pitch."""

    use: Literal["vec2face-plus"]  # type: ignore[assignment]
    masks: MaskLaw = MaskLaw(mean=0.85, std=0.05, low=0.8, high=0.9)
    lora_rank: Annotated[int, Field(ge=1, le=256)] = 8
    lora_alpha: Annotated[float, Field(gt=0, le=1024)] = 32.0
    """LoRA is scaled by alpha / rank and merged into the weights when they load."""


def ref_digest(ref: WeightsRef) -> str:
    """Return the digest that a reference states, or what stands for one that states none."""
    return ref.sha256 or f"unpinned {ref.uri}"


__all__ = ["ALIGNMENT", "Optimisation", "Vec2FaceOptions", "Vec2FacePlusOptions"]
