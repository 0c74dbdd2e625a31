"""The sketch world: a numpy-only generator, two recognisers, a measurer and a bank, for tests and dry runs.

A sketch is a 4 x 4 pattern of grey patches that spells an identity vector, dimmed towards one side by the yaw asked
for and disturbed by the noise handed in. It runs the whole flow in milliseconds, keeps every port's promise, and is
nobody's idea of a face. Its noise is strong enough that filters refuse some images and retries matter.
"""

from __future__ import annotations

import math
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
from pipeline.domain.detection import Detections
from pipeline.domain.landmarks import ALIGNMENTS
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.ports import Codec, LabelledFace, ModelCard
from pipeline.domain.recipe import MeasureNode, Node
from pipeline.domain.records import Conditions, Float32, UInt8, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space

SIDE = 32
SCENE_px = 96
SCENE_BACKGROUND = (0, 255, 0)
"""No pattern has this colour: its patches are grey, and its tint moves red and blue apart."""
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
    alignment: str | None = "sketch-32"

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


class SketchSceneOptions(SketchGeneratorOptions):
    """Patterns somewhere in a larger picture, or nowhere: what has to be found and cut before it can be judged."""

    use: Literal["sketch-scene"]  # type: ignore[assignment]
    empty: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the pictures in which there is none."""


class SketchScene(SketchGenerator):
    """Implements `ports.Generator`: pictures of 96 pixels, with a pattern of another size and place in each."""

    image_px = SCENE_px
    alignment: str | None = None

    def __init__(self, options: SketchSceneOptions) -> None:
        """Keep the strength of the noise, and how many pictures are empty."""
        super().__init__(SketchGeneratorOptions(use="sketch", noise=options.noise))
        self._empty_z = NormalDist().inv_cdf(options.empty) if options.empty else -math.inf
        self.card = _card("scene")

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return pictures, uint8 RGB, shape (N, 96, 96, 3)."""
        patterns = super().generate(vectors_ND, conditions, noise_NCHW)
        out = np.empty((len(patterns), SCENE_px, SCENE_px, 3), np.uint8)
        out[:] = SCENE_BACKGROUND
        for n, pattern in enumerate(patterns):
            # pixels of the noise that no pattern is disturbed by say where it lies, how large it is, and if it is there
            z = noise_NCHW[n, 0, 1, 1:5].astype(np.float64)
            side = SIDE if z[0] < 0 else 2 * SIDE
            left, top = (int((SCENE_px - side) * NormalDist().cdf(float(v))) for v in z[1:3])
            if z[3] >= self._empty_z:
                out[n, top : top + side, left : left + side] = pattern.repeat(side // SIDE, 0).repeat(side // SIDE, 1)
        return out


class SketchFinderOptions(Node):
    """Finds the pattern of a sketch scene."""

    use: Literal["sketch"]


class SketchFinder:
    """Implements `detection.Detector` over sketch scenes: whatever is not background is the pattern."""

    size_px = SCENE_px

    def __init__(self, options: SketchFinderOptions | None = None) -> None:
        """Take the name; there is nothing to load."""
        self.card = _card("finder")

    def detect(self, image_HWC: UInt8) -> Detections:
        """Return the pattern, with points as the alignment `sketch-32` has them, or nothing."""
        ys, xs = np.nonzero((image_HWC != np.array(SCENE_BACKGROUND, np.uint8)).any(axis=2))
        if not len(xs):
            return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))
        left, top, right, bottom = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
        points_52 = ALIGNMENTS["sketch-32"].points_in(right - left, bottom - top) + np.array([left, top])
        box_14 = np.array([[left, top, right, bottom]], np.float32)
        return Detections(box_14, np.ones(1, np.float32), points_52[None].astype(np.float32))


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
