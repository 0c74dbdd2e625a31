"""The sketch world: a numpy-only generator, two recognisers, a measurer and a bank, for tests and dry runs.

A sketch is a 4 x 4 pattern of grey patches that spells an identity vector, dimmed towards one side by the yaw asked
for and disturbed by the noise handed in. It runs the whole flow in milliseconds, keeps every port's promise, and is
nobody's idea of a face. Its noise is strong enough that filters refuse some images and retries matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.domain.calibrating import calibrate
from pipeline.domain.calibration import Calibration
from pipeline.domain.calibration_file import RecogniserNode
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import Codec, LabelledFace, ModelCard
from pipeline.domain.recipe import MeasureNode, Node
from pipeline.domain.records import Conditions, Float32, UInt8, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space

SIDE = 32
PATCH = 8
DIMENSIONS = 16
YAW_RANGE_deg = 45.0
SHADES = ("light", "dark")
SHAPES = ("round", "square")


_LAST_WEIGHT = {"judge": 1.5, "auditor": 0.5, "screening": 1.0, "conditioning": 1.0}
"""How a role weighs the last patch, where the first weighs 1."""


class SketchGeneratorOptions(Node):
    """Patterns instead of faces: for tests and dry runs."""

    use: Literal["sketch"]
    noise: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Strength of the disturbance; 0 makes every image of an identity alike."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 8


class SketchRecogniserOptions(RecogniserNode):
    """Reads patterns back; judge, auditor and screening weigh the patches differently."""

    use: Literal["sketch-judge", "sketch-auditor", "sketch-screening", "sketch-conditioning"]
    batch: Annotated[int, Field(ge=1, le=1024)] = 8


class SketchMeasuresOptions(MeasureNode):
    """Yaw, and two attributes spelt by the first two patches."""

    use: Literal["sketch"]


class SketchBankOptions(Node):
    """A made-up population of patterns."""

    use: Literal["sketch"]
    rare: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Natural share of square, dark patterns; the bank then knows everyone alone, so that nothing steers to a cell."""


def _card(name: str) -> ModelCard:
    return ModelCard(f"sketch-{name}", sha256_hex(f"sketch-{name}-1".encode()), "Apache-2.0", "made up", True, True, 1)


def _space(name: str) -> Space:
    return Space(f"sketch-{name}", _card(name).sha256, "sketch-32", "unit", DIMENSIONS)


class SketchBank:
    """Implements `ports.Bank`: unit Gaussians whose first two coordinates say the cell."""

    def __init__(self, options: SketchBankOptions | None = None) -> None:
        """Take how rare a cell is; there is nothing to load."""
        self._rare = options.rare if options else None
        self.card = _card("bank")
        self.space = _space("conditioning")

    @property
    def gaussians(self) -> Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Return the Gaussian of everyone and those of the four cells, or that of everyone alone where one is rare."""
        factor = np.eye(DIMENSIONS)
        if self._rare is not None:
            # both first coordinates are above 0, which spells square and dark, with this probability
            mean = np.zeros(DIMENSIONS)
            mean[:2] = NormalDist().inv_cdf(self._rare**0.5)
            return {"all": (mean, factor)}
        out = {"all": (np.zeros(DIMENSIONS), factor)}
        for i, shape in enumerate(SHAPES):
            for j, shade in enumerate(SHADES):
                mean = np.zeros(DIMENSIONS)
                mean[:2] = (2 * i - 1, 2 * j - 1)
                out[f"{shape}/{shade}"] = (mean, factor)
        return out


class SketchGenerator:
    """Implements `ports.Generator`."""

    noise_shape = (1, SIDE, SIDE)
    condition_names = ("yaw_deg",)
    condition_ranges: Mapping[str, tuple[float, float]] = {"yaw_deg": (-90.0, 90.0)}
    image_px = SIDE

    def __init__(self, options: SketchGeneratorOptions) -> None:
        """Keep the strength of the noise."""
        self._noise = options.noise
        self.card = _card("generator")
        self.space = _space("conditioning")

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return patterns, uint8 RGB, shape (N, 32, 32, 3)."""
        yaw = np.array([c.get("yaw_deg", 0.0) for c in conditions], np.float64)
        patches = vectors_ND.astype(np.float64).reshape(-1, 4, 4)
        grey = 128 + 90 * np.clip(patches, -1, 1).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
        # low-frequency noise: what survives pooling over a patch and so moves the embedding
        coarse = noise_NCHW[:, 0, ::PATCH, ::PATCH].astype(np.float64).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
        grey += self._noise * 9 * coarse
        ramp = np.linspace(-0.5, 0.5, SIDE)[None, None, :, None] * np.array([1.0, 0.0, -1.0])
        tint = 80 * (yaw / YAW_RANGE_deg)[:, None, None, None] * ramp
        faces: UInt8 = np.clip(np.rint(grey[..., None] + tint), 0, 255).astype(np.uint8)
        return faces


class SketchRecogniser:
    """Implements `ports.Recogniser`."""

    def __init__(self, options: SketchRecogniserOptions) -> None:
        """Take the role."""
        self._role = options.use.removeprefix("sketch-")
        self.card = _card(self._role)
        self.space = _space(self._role)
        self._measured = options.calibration.calibration(self.space) if options.calibration else None
        self._weights = np.linspace(1.0, _LAST_WEIGHT[self._role], DIMENSIONS)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return emb_NE, float32 unit rows, shape (N, 16)."""
        grey = faces_NHWC.astype(np.float64).mean(axis=3).reshape(-1, 4, PATCH, 4, PATCH).mean(axis=(2, 4))
        return unit_rows((grey.reshape(-1, DIMENSIONS) - 128.0) * self._weights + 1e-6, self.space.name)

    @property
    def calibration(self) -> Calibration:
        """Return the calibration of the options' file, or else one on 150 made-up identities of six images each."""
        return self._measured or _calibration(self._role)


@cache
def _calibration(role: str) -> Calibration:
    recogniser = SketchRecogniser(SketchRecogniserOptions.model_validate({"use": f"sketch-{role}"}))
    generator = SketchGenerator(SketchGeneratorOptions(use="sketch"))
    people, images = 150, 6
    vectors, noise = [], []
    for identity in range(people):
        rng = Key(0, Stream.PREVIEW, identity).generator()
        vectors += [unit_rows(rng.standard_normal((1, DIMENSIONS)), "sketch")[0]] * images
        noise += list(rng.standard_normal((images, *SketchGenerator.noise_shape), dtype=np.float32))
    faces = generator.generate(np.stack(vectors), [{}] * len(vectors), np.stack(noise))
    labels = np.repeat(np.arange(people), images)
    return calibrate(recogniser.space, "sketches", recogniser.embed(faces), labels, template_sizes=(2, 3))


class SketchMeasures:
    """Implements `ports.Measurer`."""

    attributes: Mapping[str, tuple[str, ...]] = {"shape": SHAPES, "shade": SHADES}
    names = ("yaw_deg", *(f"{field}={value}" for field, values in attributes.items() for value in values))
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {
        "shape": {"round": {"round": 0.95, "square": 0.05}, "square": {"round": 0.05, "square": 0.95}},
        "shade": {"light": {"light": 0.9, "dark": 0.1}, "dark": {"light": 0.1, "dark": 0.9}},
    }

    def __init__(self, options: SketchMeasuresOptions | None = None) -> None:
        """Take the name; there is nothing to load."""
        self.card = _card("measures")

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one float64 array of shape (N,) per name."""
        pixels = faces_NHWC.astype(np.float64)
        tint = (pixels[..., 0] - pixels[..., 2]).mean(axis=1)
        slope = tint @ np.linspace(-0.5, 0.5, SIDE) / (np.linspace(-0.5, 0.5, SIDE) ** 2).sum()
        first = (
            pixels.mean(axis=3).reshape(-1, 4, PATCH, 4, PATCH).mean(axis=(2, 4)).reshape(-1, DIMENSIONS)[:, :2] - 128
        )
        square, dark = 1 / (1 + np.exp(-first / 10)).T
        return {
            "yaw_deg": slope / 160 * YAW_RANGE_deg,
            "shape=round": 1 - square,
            "shape=square": square,
            "shade=light": 1 - dark,
            "shade=dark": dark,
        }


class SketchFaces:
    """Implements `ports.LabelledFaces` over made-up people: what sketch recognisers are calibrated with in tests."""

    space: Space | None = None

    def __init__(self, codec: Codec, *, identities: int, images: int, seed: int, first: int = 0) -> None:
        """Take what to draw; arguments as those of rendered phantoms."""
        self.name = f"sketch://faces?first={first}&identities={identities}&images={images}&seed={seed}"
        self._codec, self._images, self._seed = codec, images, seed
        self._numbers = range(first, first + identities)
        self._generator = SketchGenerator(SketchGeneratorOptions(use="sketch"))

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield identity by identity; labels are numbers such as `s000012`."""
        for number in self._numbers:
            rng = Key(self._seed, Stream.CALIBRATION, number).generator()
            vector = unit_rows(rng.standard_normal((1, DIMENSIONS)), "sketch")
            noise = rng.standard_normal((self._images, *SketchGenerator.noise_shape), dtype=np.float32)
            faces = self._generator.generate(vector.repeat(self._images, axis=0), [{}] * self._images, noise)
            for image, face in enumerate(faces):
                stored = self._codec.decode(self._codec.encode(face))
                yield LabelledFace(label=f"s{number:06d}", name=f"s{number:06d}/{image:04d}", face_HWC=stored)
