"""One suite for the generator port, run by every generator that ships: published ones at their reduced configuration.

`row_independent` is measured here: the same sample for any neighbours, position and padding at the fingerprinted batch
shape, for any number of batches in flight, and from another worker's copy of the part.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jobs.components import COMPONENTS
from jobs.wiring.parts import load
from pipeline.domain.errors import BadVectorError, SpaceMismatchError
from pipeline.domain.landmarks import alignment
from pipeline.domain.ports import Generator
from pipeline.domain.records import UInt8
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef
from tests.reduced import Remembered, ref, spread

BATCH = 8
SIX_PARTS = ("unet", "encoder", "vae", "controlnet", "expression_adapter", "lcm_lora")
ARC = {part: ref(part) for part in SIX_PARTS[:5]}
GENERATORS: Mapping[str, Mapping[str, Any]] = {
    "phantom": {"use": "phantom", "steps": 2},
    "sketch": {"use": "sketch"},
    "vec2face": {"use": "vec2face", "config": "reduced", "weights": ref("vec2face")},
    "vec2face-plus": {"use": "vec2face-plus", "config": "reduced", "weights": ref("vec2face")},
    "arc2face": {"use": "arc2face", "config": "reduced", "steps": 2, **ARC},
    "arc2face-lcm": {
        "use": "arc2face",
        "config": "reduced",
        "scheduler": "lcm",
        "steps": 3,
        "lcm_lora": ref("lcm"),
        **{part: ARC[part] for part in ("unet", "encoder", "vae", "controlnet")},
    },
    "arc2face-frames": {
        "use": "arc2face",
        "config": "reduced",
        "steps": 2,
        "output": "original",
        "precision": "bfloat16",
        "small_vae": ref("small"),
        **{part: ARC[part] for part in SIX_PARTS[:3]},
    },
    "ip-adapter-faceid": {
        "use": "ip-adapter-faceid",
        "config": "reduced",
        "steps": 2,
        **{part: ref(part) for part in ("unet", "text_encoder", "adapter", "vae")},
    },
}
PUBLISHED = tuple(name for name in GENERATORS if name not in ("phantom", "sketch"))
Rows = tuple[Any, list[dict[str, float]], Any]


class NoFiles:
    """Implements `domain.weights.Weights`, and fails whoever asks for any."""

    def path(self, ref: WeightsRef) -> Any:
        """Fail."""
        raise AssertionError(f"asked for the file of {ref.uri}")

    def sha256(self, ref: WeightsRef) -> str:
        """Fail."""
        raise AssertionError(f"asked for the digest of {ref.uri}")

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Any:
        """Fail."""
        raise AssertionError(f"asked for the tensors of {ref.uri}")


def build(name: str, weights: Any) -> Generator:
    """Return a part, as the wiring would build it."""
    raw = GENERATORS[name]
    options, part = (load(entry) for entry in COMPONENTS["generator"][raw["use"]])
    node = options.model_validate(raw)
    made: Generator = part(node, weights=weights) if name in PUBLISHED else part(node)
    return made


@functools.cache
def built(name: str) -> Generator:
    """Return a generator that this module's tests share."""
    return build(name, Remembered())


@pytest.fixture(params=list(GENERATORS))
def name(request: pytest.FixtureRequest) -> str:
    """Return each generator's name in turn."""
    return str(request.param)


@pytest.fixture
def generator(name: str) -> Generator:
    """Return each generator in turn."""
    return built(name)


@functools.cache
def rows(name: str, first: int = 0) -> Rows:
    """Return vectors of the generator's space, conditions over all their ranges, and noise, of eight identities."""
    generator = built(name)
    keys = [Key(8, Stream.CALIBRATION, first + n).generator() for n in range(BATCH)]
    vectors = np.stack([k.standard_normal(generator.space.dimensions, dtype=np.float32) for k in keys])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= (1.0 if generator.space.norm == "unit" else 21.9) / lengths
    noise = np.stack([k.standard_normal(generator.noise_shape, dtype=np.float32) for k in keys])
    return vectors, spread(generator, sorted(generator.condition_ranges), BATCH), noise


@functools.cache
def made(name: str) -> UInt8:
    """Return the images of `rows`."""
    return built(name).generate(*rows(name))


def picked(of: Rows, order: Any) -> Rows:
    """Return rows in another order, or some of them repeated."""
    vectors, conditions, noise = of
    return vectors[order].copy(), [conditions[n] for n in order], noise[order].copy()


def test_it_is_a_generator(generator: Generator) -> None:
    """It has the port's attributes; aligned images have their template's size."""
    assert isinstance(generator, Generator)
    assert set(generator.condition_ranges) <= set(generator.condition_names)
    if generator.alignment is not None:
        assert alignment(generator.alignment).side_px == generator.image_px


@pytest.mark.parametrize("name", PUBLISHED)
def test_building_it_touches_no_file(name: str) -> None:
    """Card, space and shapes are there before any weights are."""
    assert build(name, NoFiles()).card == built(name).card


def test_images_are_uint8_rgb_of_the_stated_size(name: str, generator: Generator) -> None:
    """Eight rows in, eight images out, with something on each, and all of them different."""
    faces = made(name)
    assert faces.shape == (BATCH, generator.image_px, generator.image_px, 3)
    assert faces.dtype == np.uint8
    assert faces.reshape(BATCH, -1).std(axis=1).min() > 5
    assert len({face.tobytes() for face in faces}) == BATCH


def test_it_draws_nothing_and_writes_into_no_argument(name: str, generator: Generator) -> None:
    """Equal arguments give equal bytes, whatever state torch's own generator is in, and leave it as it was."""
    import torch

    vectors, conditions, noise = rows(name)
    before = vectors.copy(), [dict(c) for c in conditions], noise.copy()
    torch.manual_seed(5)
    state = torch.get_rng_state().clone()
    assert_array_equal(generator.generate(vectors, conditions, noise), made(name))
    assert_array_equal(torch.get_rng_state(), state)
    for now, then in zip((vectors, noise), (before[0], before[2]), strict=True):
        assert_array_equal(now, then)
    assert conditions == before[1]


def test_vector_and_noise_each_matter(name: str, generator: Generator) -> None:
    """Another vector, or another noise, is another image, in every row."""
    vectors, conditions, noise = rows(name)
    for changed in ((np.roll(vectors, 1, 0), conditions, noise), (vectors, conditions, np.roll(noise, 1, 0))):
        different = (generator.generate(*changed) != made(name)).reshape(BATCH, -1).any(axis=1)
        assert different.all()


def test_every_condition_matters(name: str, generator: Generator) -> None:
    """Whatever a recipe may ask for changes the image, between the ends of its range."""
    vectors, noise = rows(name)[0][:1], rows(name)[2][:1]
    for condition in generator.condition_ranges:
        base = {"expression_draw": 0.25} if condition == "expression_strength" else {}
        low, high = (
            generator.generate(vectors, [{**base, condition: value}], noise)
            for value in generator.condition_ranges[condition]
        )
        assert (low != high).any(), condition


class TestRows:
    """A card that says `row_independent` is held to it, byte for byte."""

    @pytest.fixture(autouse=True)
    def _claims_it(self, generator: Generator) -> None:
        assert generator.card.row_independent, "it runs at batch 1, and this suite has to be told so"

    @pytest.mark.parametrize("order", [(5, 2, 7, 0, 1, 6, 3, 4), (7, 6, 5, 4, 3, 2, 1, 0)])
    def test_position(self, name: str, generator: Generator, order: tuple[int, ...]) -> None:
        """Rows in another order give the same images in that order."""
        assert_array_equal(generator.generate(*picked(rows(name), list(order))), made(name)[list(order)])

    def test_neighbours(self, name: str, generator: Generator) -> None:
        """A row among strangers is the row that it was, at each of three places."""
        strangers = rows(name, first=100)
        for place in (0, 3, 7):
            mixed = picked(strangers, list(range(BATCH)))
            for part, own in zip(mixed, rows(name), strict=True):
                part[place] = own[place]
            assert_array_equal(generator.generate(*mixed)[place], made(name)[place])

    def test_padding(self, name: str, generator: Generator) -> None:
        """A batch that is filled up with its first row gives what a full one does."""
        padded = [0, 1, 2, 0, 0, 0, 0, 0]
        assert_array_equal(generator.generate(*picked(rows(name), padded)), made(name)[padded])

    def test_batches_before_it(self, name: str, generator: Generator) -> None:
        """Nothing of one batch is left in the next: not a scheduler's state, not a buffer."""
        generator.generate(*rows(name, first=100))
        generator.generate(*picked(rows(name), [4] * BATCH))
        assert_array_equal(generator.generate(*rows(name)), made(name))

    def test_batches_beside_it(self, name: str, generator: Generator) -> None:
        """Batches in flight at once, in threads of their own, do not meet."""
        asked = [rows(name), rows(name, first=100), picked(rows(name), [4] * BATCH)]
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(lambda part: generator.generate(*part), asked))
        assert_array_equal(together[0], made(name))
        assert_array_equal(together[1], generator.generate(*asked[1]))
        assert_array_equal(together[2], made(name)[[4] * BATCH])

    def test_another_worker(self, name: str) -> None:
        """A copy that was built and loaded anew makes the same images."""
        assert_array_equal(build(name, Remembered()).generate(*rows(name)), made(name))


class TestRefusals:
    """Vectors that mean nobody are refused before anything is made of them."""

    @pytest.fixture(params=[n for n in GENERATORS if n != "sketch"])
    def name(self, request: pytest.FixtureRequest) -> str:
        """Return each generator of faces in turn."""
        return str(request.param)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, name: str, generator: Generator, value: float) -> None:
        """One number that is none refuses the batch."""
        vectors, conditions, noise = picked(rows(name), list(range(BATCH)))
        vectors[3, 7] = value
        with pytest.raises(BadVectorError):
            generator.generate(vectors, conditions, noise)

    def test_zero(self, name: str, generator: Generator) -> None:
        """A vector without a length is refused."""
        vectors, conditions, noise = picked(rows(name), list(range(BATCH)))
        vectors[3] = 0
        with pytest.raises((BadVectorError, SpaceMismatchError)):
            generator.generate(vectors, conditions, noise)

    def test_the_other_norm(self, name: str, generator: Generator) -> None:
        """Raw vectors are refused where unit ones are expected, and the other way round."""
        vectors, conditions, noise = rows(name)
        other = vectors * np.float32(21.9 if generator.space.norm == "unit" else 1 / 21.9)
        with pytest.raises((BadVectorError, SpaceMismatchError), match="length"):
            generator.generate(other, conditions, noise)

    def test_other_dimensions(self, name: str, generator: Generator) -> None:
        """Vectors of another recogniser's size are refused."""
        vectors, conditions, noise = rows(name)
        short = vectors[:, :-2] / np.linalg.norm(vectors[:, :-2], axis=1, keepdims=True)
        short *= np.linalg.norm(vectors, axis=1, keepdims=True)
        with pytest.raises((BadVectorError, SpaceMismatchError), match=r"dimensions|shape"):
            generator.generate(short.astype(np.float32), conditions, noise)

    def test_another_space(self, generator: Generator) -> None:
        """Vectors that come with the name of another recogniser are another space's."""
        from dataclasses import replace

        other = replace(generator.space, weights_sha256="0" * 64)
        with pytest.raises(SpaceMismatchError, match="weights_sha256"):
            generator.space.require_same(other, "identities.bank")
