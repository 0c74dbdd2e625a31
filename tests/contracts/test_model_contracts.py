"""One suite per model port, run by every world that ships: the sketches and the phantoms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.ports import Generator, IdentitySampler, Measurer, Recogniser
from pipeline.domain.records import Cell, Float32, UInt8
from pipeline.domain.rng import Key, Stream
from pipeline.flow.parts import Parts, embed_fixed, measure_fixed
from tests.worlds import sketches

BATCH = 8


@pytest.fixture(scope="module", params=["sketch", "phantom"])
def parts(request: pytest.FixtureRequest) -> Parts:
    """Return the parts of each world in turn."""
    recipe = sketches() if request.param == "sketch" else wiring.load_recipe("tiny")
    return wiring.build_parts(recipe, MemoryStore(), None, "test")


def inputs(parts: Parts, count: int = BATCH) -> tuple[Any, Any, Any]:
    """Return vectors, conditions and noise of some identities."""
    keys = [Key(3, Stream.SAMPLE_NOISE, i) for i in range(count)]
    vectors = np.stack([parts.sampler.draw(0, Cell(()), k.generator()) for k in keys])
    conditions = [{"yaw_deg": 4.0 * i - 14} for i in range(count)]
    noise = np.stack([k.generator().standard_normal(parts.generator.noise_shape, dtype=np.float32) for k in keys])
    return vectors, conditions, noise


@pytest.fixture(scope="module")
def faces(parts: Parts) -> UInt8:
    """Return eight images of eight identities."""
    return parts.generator.generate(*inputs(parts))


def require_independent_images(generator: Generator, parts: Parts, faces: UInt8) -> None:
    """Fail unless rows in another order give the same images in that order, byte for byte."""
    vectors, conditions, noise = inputs(parts)
    order = np.array([5, 2, 7, 0, 1, 6, 3, 4])
    shuffled = generator.generate(vectors[order], [conditions[i] for i in order], noise[order])
    np.testing.assert_array_equal(shuffled, faces[order])


def require_independent_rows(recogniser: Recogniser, faces: UInt8) -> None:
    """Fail unless position, neighbours and padding change no bit of an embedding."""
    emb = embed_fixed(recogniser, faces, BATCH)
    np.testing.assert_array_equal(embed_fixed(recogniser, faces[::-1].copy(), BATCH), emb[::-1])
    np.testing.assert_array_equal(embed_fixed(recogniser, faces[:3], BATCH), emb[:3])


class TestGenerator:
    """What a generator promises."""

    def test_it_is_one(self, parts: Parts) -> None:
        """It has the port's attributes, and its vectors are in the space of its sampler."""
        assert isinstance(parts.generator, Generator)
        parts.generator.space.require_same(parts.sampler.space, "sampler")

    def test_images_are_uint8_rgb_of_the_stated_size(self, parts: Parts, faces: UInt8) -> None:
        """Eight rows in, eight images out, with something on them."""
        side = parts.generator.image_px
        assert faces.shape == (BATCH, side, side, 3)
        assert faces.dtype == np.uint8
        assert faces.reshape(BATCH, -1).std(axis=1).min() > 5

    def test_equal_arguments_give_equal_bytes_and_stay_as_they_were(self, parts: Parts, faces: UInt8) -> None:
        """It draws nothing itself and writes into no argument."""
        vectors, conditions, noise = inputs(parts)
        before = vectors.copy(), noise.copy()
        np.testing.assert_array_equal(parts.generator.generate(vectors, conditions, noise), faces)
        np.testing.assert_array_equal(vectors, before[0])
        np.testing.assert_array_equal(noise, before[1])

    def test_noise_identity_and_condition_each_matter(self, parts: Parts, faces: UInt8) -> None:
        """Changing one of the three changes the image."""
        vectors, conditions, noise = inputs(parts)
        for changed in (
            (vectors[::-1].copy(), conditions, noise),
            (vectors, [{"yaw_deg": 30.0}] * BATCH, noise),
            (vectors, conditions, noise[::-1].copy()),
        ):
            assert (parts.generator.generate(*changed) != faces).any()

    def test_a_row_does_not_depend_on_its_neighbours_where_the_card_says_so(self, parts: Parts, faces: UInt8) -> None:
        """Rows in another order give the same images in that order, byte for byte."""
        if not parts.generator.card.row_independent:
            pytest.skip(f"{parts.generator.card.name} is not row independent, and runs at batch 1")
        require_independent_images(parts.generator, parts, faces)

    def test_a_card_that_claims_independence_and_lies_is_found_out(self, parts: Parts, faces: UInt8) -> None:
        """A generator whose rows lean on their neighbours fails the check above."""
        inner = parts.generator

        class Leaning:
            def generate(self, *args: Any) -> UInt8:
                made = inner.generate(*args)
                made[1:, 0, 0] = made[:-1, 0, 0]
                return made

        liar: Any = Leaning()
        with pytest.raises(AssertionError):
            require_independent_images(liar, parts, liar.generate(*inputs(parts)))


class TestRecognisers:
    """What judge and auditor promise."""

    @pytest.fixture(params=["judge", "auditor"])
    def recogniser(self, request: pytest.FixtureRequest, parts: Parts) -> Recogniser:
        """Return each recogniser in turn."""
        return parts.judge if request.param == "judge" else parts.auditor

    def test_embeddings_are_unit_float32_rows(self, recogniser: Recogniser, faces: UInt8) -> None:
        """Each image becomes one vector of the stated length, and of length one."""
        assert isinstance(recogniser, Recogniser)
        emb = embed_fixed(recogniser, faces, BATCH)
        assert emb.dtype == np.float32
        assert emb.shape == (BATCH, recogniser.space.dimensions)
        np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1, atol=1e-5)

    def test_a_row_does_not_depend_on_its_neighbours_where_the_card_says_so(
        self, recogniser: Recogniser, faces: UInt8
    ) -> None:
        """Position, neighbours and padding change no bit of an embedding."""
        if not recogniser.card.row_independent:
            pytest.skip(f"{recogniser.card.name} is not row independent, and runs at batch 1")
        require_independent_rows(recogniser, faces)

    def test_a_card_that_claims_independence_and_lies_is_found_out(self, parts: Parts, faces: UInt8) -> None:
        """A recogniser with a figure of the whole batch in its rows, as dynamic int8 has, fails the check above."""
        inner = parts.judge

        class Leaning:
            card, space = replace(inner.card, row_independent=True), inner.space

            def embed(self, images: UInt8) -> Float32:
                emb = inner.embed(images)
                emb = emb + np.float32(1e-3) * emb.mean(axis=0)
                return np.asarray(emb / np.linalg.norm(emb, axis=1, keepdims=True), np.float32)

        liar: Any = Leaning()
        with pytest.raises(AssertionError):
            require_independent_rows(liar, faces)

    def test_its_calibration_is_its_own_and_rises(self, recogniser: Recogniser) -> None:
        """Thresholds rise as the false match rate falls, in every unit compared, in this recogniser's space."""
        recogniser.space.require_same(recogniser.calibration.space, "calibration")
        for pair in recogniser.calibration.pairs.values():
            assert list(pair.cos) == sorted(pair.cos)
            assert list(pair.fmr) == sorted(pair.fmr, reverse=True)
            assert pair.genuine_mean_cos > pair.impostor_mean_cos

    def test_judge_and_auditor_are_different_models(self, parts: Parts) -> None:
        """Their weights differ, so the auditor can contradict the judge."""
        assert parts.judge.card.sha256 != parts.auditor.card.sha256
        assert parts.judge.space.weights_sha256 != parts.generator.space.weights_sha256


class TestMeasurers:
    """What every measurer promises."""

    def test_the_same_finite_names_for_every_face(self, parts: Parts, faces: UInt8) -> None:
        """Each declared name has one finite number per face, and the values of a field sum to one."""
        for measurer in parts.measurers:
            assert isinstance(measurer, Measurer)
            found = measure_fixed((measurer,), faces, BATCH)
            assert tuple(found) == measurer.names
            assert all(v.shape == (BATCH,) and v.dtype == np.float64 and np.isfinite(v).all() for v in found.values())
            for field, values in measurer.attributes.items():
                total = np.sum([found[f"{field}={value}"] for value in values], axis=0)
                np.testing.assert_allclose(total, 1, atol=1e-9)

    def test_confusion_rows_are_shares(self, parts: Parts) -> None:
        """Where a measurer knows its confusion, every true value's reads sum to one."""
        for measurer in parts.measurers:
            for field, rows in measurer.confusion.items():
                assert set(rows) == set(measurer.attributes[field])
                for reads in rows.values():
                    assert sum(reads.values()) == pytest.approx(1, abs=1e-6)


class TestSampler:
    """What an identity sampler promises."""

    def test_a_key_gives_one_unit_vector(self, parts: Parts) -> None:
        """Equal keys give equal vectors of the space's length, other keys others."""
        assert isinstance(parts.sampler, IdentitySampler)
        cells = [Cell(()), *parts.targets.cells]
        for cell in cells:
            first, again, other = (
                parts.sampler.draw(n, cell, Key(1, Stream.CANDIDATE_VECTOR, n).generator()) for n in (4, 4, 5)
            )
            np.testing.assert_array_equal(first, again)
            assert first.dtype == np.float32
            assert first.shape == (parts.sampler.space.dimensions,)
            assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
            assert abs(float(first @ other)) < 0.999
