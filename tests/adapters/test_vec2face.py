"""Vec2Face and Vec2Face+ as generators: what chance decides, what rows share, what is refused. Small networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from pipeline.adapters.generators.vec2face.drawing import NOISE, RAW_LENGTH, TOKENS, MaskLaw, moved, token_masks
from pipeline.adapters.generators.vec2face.generator import VECTOR_SIGMA, Vec2Face, Vec2FacePlus
from pipeline.adapters.generators.vec2face.loading import load_network
from pipeline.adapters.generators.vec2face.options import Vec2FaceOptions, Vec2FacePlusOptions
from pipeline.adapters.generators.vec2face.pose import landmark_picture, landmarks_of
from pipeline.adapters.models import FormulaWeights
from pipeline.domain.conditions import Choice, slot_conditions
from pipeline.domain.errors import BadVectorError, ModelError, SpaceMismatchError
from pipeline.domain.landmarks import alignment, pose_deg
from pipeline.domain.ports import Generator
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef

REF = WeightsRef(uri="formula:vec2face")
SAMPLING = Path(__file__).resolve().parent.parent / "golden" / "vec2face_sampling.npz"
PLUS = MaskLaw(mean=0.85, std=0.05, low=0.8, high=0.9)
PUBLISHED_MIX = {VECTOR_SIGMA: Choice(use="choice", values=(0.3, 0.5, 0.7), shares=(0.4, 0.4, 0.2))}


def plain(**options: Any) -> Vec2Face:
    """Return a small Vec2Face."""
    return Vec2Face(Vec2FaceOptions(use="vec2face", config="reduced", weights=REF, **options), weights=FormulaWeights())


def plus(**options: Any) -> Vec2FacePlus:
    """Return a small Vec2Face+."""
    given = Vec2FacePlusOptions(use="vec2face-plus", config="reduced", weights=REF, **options)
    return Vec2FacePlus(given, weights=FormulaWeights())


def rows_of(identities: range, slot: int = 0) -> tuple[Any, Any]:
    """Return vectors and noise of some identities, as the flow draws them."""
    keys = [Key(5, Stream.SAMPLE_NOISE, i, slot) for i in identities]
    noise = np.stack([k.generator().standard_normal((1, 1, NOISE), dtype=np.float32) for k in keys])
    away = [Key(5, Stream.CANDIDATE_VECTOR, i).generator().standard_normal(512) for i in identities]
    vectors = np.stack([v * RAW_LENGTH / np.linalg.norm(v) for v in away]).astype(np.float32)
    return vectors, noise


class TestChance:
    """What a noise row decides."""

    @pytest.mark.parametrize(
        ("law", "name"),
        [(MaskLaw(), "vec2face"), (MaskLaw(high=0.5), "vec2face_demo"), (PLUS, "vec2face_plus")],
    )
    def test_the_number_of_masked_tokens_follows_the_published_law(self, law: MaskLaw, name: str) -> None:
        """Over evenly spaced quantiles, each number of masked tokens comes up in its exact share."""
        from scipy.special import ndtri

        expected = np.load(SAMPLING)[f"n_masked_pmf_{name}"]
        share = (np.arange(200_000) + 0.5) / 200_000
        found = np.bincount(law.masked(ndtri(share)), minlength=50) / len(share)
        assert_allclose(found, expected, atol=1.5e-5)
        assert law.dropped <= np.flatnonzero(found)[0]

    def test_drawn_rates_differ_from_row_to_row(self) -> None:
        """A batch has as many rates as rows, where upstream has one."""
        _, noise = rows_of(range(64))
        counts = MaskLaw().masked(noise[:, 0, 0, 0])
        assert len(set(counts.tolist())) > 10
        assert abs(counts.mean() - 16.1) < 3

    @given(st.integers(5, 49), st.integers(0, 2**32 - 1))
    def test_masks_are_nested(self, masked: int, seed: int) -> None:
        """Of 49 tokens exactly so many are masked, the five dropped among them; what is kept is filled by itself."""
        token = np.random.default_rng(seed).standard_normal((1, TOKENS))
        found = token_masks(token, np.array([masked]), 5)
        kept = set(found.kept_NK[0].tolist())
        assert found.masked_NT.sum() == masked
        assert len(kept) == 45
        assert 0 in kept
        assert all(found.masked_NT[0, place - 1] for place in set(range(50)) - kept)
        seen = np.flatnonzero(~np.concatenate([[False], found.masked_NT[0]]))
        assert_array_equal(found.kept_NK[0][found.source_NT[0, seen]], seen)
        assert not found.source_NT[0, np.flatnonzero(found.masked_NT[0]) + 1].any()

    def test_moved_vectors_are_the_published_ones(self) -> None:
        """Base and recorded noise give the recorded vector, at the base's length."""
        arrays = np.load(SAMPLING)
        noise = arrays["perturb_noise"] / arrays["perturb_sigma"][:, None]
        found = moved(arrays["perturb_base"], arrays["perturb_sigma"], noise)
        assert_allclose(found, arrays["perturb_out_f64"], atol=1e-9, rtol=0)
        assert_allclose(found.astype(np.float32), arrays["perturb_out"], atol=1e-6, rtol=0)

    def test_cosines_of_moved_vectors_follow_the_published_law(self) -> None:
        """Mean and spread of the cosine to the own vector, and between two siblings, are those of the table."""
        rng = np.random.default_rng(3)
        own = rng.standard_normal((4000, 512))
        own *= 21.89 / np.linalg.norm(own, axis=1, keepdims=True)
        for sigma, mean, std, siblings, _ in np.load(SAMPLING)["cos_table"]:
            one, other = (moved(own, np.full(4000, sigma), rng.standard_normal((4000, 512))) for _ in range(2))
            cos = (own * one).sum(1) / 21.89**2
            assert abs(cos.mean() - mean) < 5 * std / math.sqrt(4000)
            assert cos.std() == pytest.approx(std, rel=0.1)
            assert ((one * other).sum(1) / 21.89**2).mean() == pytest.approx(siblings, abs=2e-3)

    def test_a_sigma_of_nought_moves_nothing(self) -> None:
        """The vector is handed on bit for bit."""
        vectors, noise = rows_of(range(3))
        assert_array_equal(moved(vectors, np.zeros(3), noise[:, 0, 0, 50:]).astype(np.float32), vectors)

    @pytest.mark.parametrize("slots", [1, 4, 7, 13, 50])
    def test_the_published_mix_holds_for_every_identity(self, slots: int) -> None:
        """Any number of images works, and each identity has its 40, 40 and 20 % as nearly as whole images allow."""
        for identity in range(6):
            asked = [
                slot_conditions(PUBLISHED_MIX, 9, Stream.SAMPLE_CONDITION, identity, k)[VECTOR_SIGMA]
                for k in range(slots)
            ]
            for sigma, share in ((0.3, 0.4), (0.5, 0.4), (0.7, 0.2)):
                assert abs(asked.count(sigma) - share * slots) <= max(1.5, 0.06 * slots)


class TestPose:
    """Landmark pictures of Vec2Face+."""

    @given(st.floats(-85, 85), st.floats(-45, 45))
    def test_landmarks_have_the_pose_asked_for(self, yaw_deg: float, pitch_deg: float) -> None:
        """The pose read from the five points is the one that was asked, and they lie inside the crop."""
        template = alignment("arcface-112")
        points = landmarks_of(yaw_deg, pitch_deg)
        read = pose_deg(points[None], template.head_53())[0]
        assert_allclose(read[:2], [yaw_deg, pitch_deg], atol=1e-6)
        assert (points > 20).all()
        assert (points < 112).all()

    def test_a_frontal_head_has_the_template_s_landmarks(self) -> None:
        """Nobody turned, nothing moved: to within half a pixel."""
        assert_allclose(landmarks_of(0, 0), alignment("arcface-112").points, atol=0.5)

    def test_discs_beyond_the_edge_are_cut(self) -> None:
        """A landmark at a corner leaves a quarter of its disc, and one outside leaves nothing."""
        picture = landmark_picture([(0, 0), (-9, 0), (200, 9), (9, -30), (1e6, 0)])
        assert (picture[..., 0] > 0).sum() == 11
        assert not picture[..., 1:].any()

    def test_each_row_has_its_own_pose(self) -> None:
        """Any number of poses share a batch of any size, and a row without one is made without."""
        generator = plus()
        vectors, noise = rows_of(range(3))
        asked: list[Mapping[str, float]] = [{"yaw_deg": -40.0, "pitch_deg": 5.0}, {}, {"yaw_deg": 62.0}]
        together = generator.generate(vectors, asked, noise)
        for n in range(3):
            alone = generator.generate(vectors[[n] * 3], [asked[n]] * 3, noise[[n] * 3])
            assert_array_equal(alone[0], together[n])
        free = generator.generate(vectors, [{}] * 3, noise)
        assert (free[1] == together[1]).all()
        assert (free[0] != together[0]).any()
        assert (free[2] != together[2]).any()


class TestRows:
    """An image is its own: what upstream's global draws and slices break."""

    @pytest.mark.parametrize("make", [plain, plus])
    def test_an_image_is_the_same_in_any_company(self, make: Any) -> None:
        """Position, neighbours and padding at a batch of eight change no byte."""
        generator, (vectors, noise) = make(), rows_of(range(8))
        asked = [{VECTOR_SIGMA: 0.3} if n % 2 else {} for n in range(8)]
        faces = generator.generate(vectors, asked, noise)
        order = [6, 1, 1, 1, 0, 3, 3, 2]
        again = generator.generate(vectors[order], [asked[n] for n in order], noise[order])
        assert_array_equal(again, faces[order])

    def test_slices_of_a_run_make_the_whole(self) -> None:
        """Identities 3 and 5 made elsewhere, and in another order, are what they are in one go."""
        generator = plain(batch=1)
        whole = [generator.generate(*_row(n))[0] for n in range(6)]
        elsewhere = plain(batch=1)
        for n in (5, 3):
            assert_array_equal(elsewhere.generate(*_row(n))[0], whole[n])
        assert len({face.tobytes() for face in whole}) == 6

    def test_a_device_that_mixes_rows_is_found_out(self) -> None:
        """A trial batch is computed in three orders before the first image; what differs is refused with a way out."""

        class Mixing(Vec2Face):
            def _pictures(self, *arguments: Any, **options: Any) -> Any:
                made = super()._pictures(*arguments, **options)
                return made + 1e-7 * made.mean(dim=0, keepdim=True)

        liar = Mixing(Vec2FaceOptions(use="vec2face", config="reduced", weights=REF), weights=FormulaWeights())
        vectors, noise = rows_of(range(8))
        with pytest.raises(ModelError, match=r"generator\.batch: 1"):
            liar.generate(vectors, [{}] * 8, noise)
        assert liar.generate(vectors[:1], [{}], noise[:1]).shape == (1, 112, 112, 3)

    def test_nothing_is_recorded_for_a_backward_pass(self) -> None:
        """No weight asks for a gradient, and pictures come without a graph, where upstream keeps both."""
        generator = plain()
        vectors, noise = rows_of(range(1))
        picture = generator._pictures(vectors, [{}], noise)
        assert picture.is_inference()
        assert not any(p.requires_grad for p in generator._network.parameters())

    def test_building_touches_no_weights(self, tmp_path: Path) -> None:
        """Card and space are there although the file is not; the first image says what is missing."""
        from pipeline.adapters.models import ModelWeights

        ref = WeightsRef(uri=str(tmp_path / "absent.pth"))
        absent = Vec2Face(Vec2FaceOptions(use="vec2face", weights=ref), weights=ModelWeights(tmp_path))
        assert isinstance(absent, Generator)
        assert absent.space.norm == "raw"
        assert absent.alignment == "arcface-112"
        vectors, noise = rows_of(range(1))
        with pytest.raises(ModelError, match="absent"):
            absent.generate(vectors, [{}], noise)


@pytest.mark.soak
@pytest.mark.parametrize("make", [Vec2Face, Vec2FacePlus])
def test_rows_are_independent_at_full_size(make: type[Vec2Face]) -> None:
    """At the published sizes too, a batch of eight in another order is the same eight pictures, bit for bit."""
    options: dict[str, Any] = {"weights": REF, "batch": 8}
    generator = (
        make(Vec2FaceOptions(use="vec2face", **options), FormulaWeights())
        if make is Vec2Face
        else Vec2FacePlus(Vec2FacePlusOptions(use="vec2face-plus", **options), FormulaWeights())
    )
    vectors, noise = rows_of(range(8))
    order = [4, 1, 1, 7, 0, 2, 6, 5]
    pictures = generator._pictures(vectors, [{}] * 8, noise)
    assert torch.equal(generator._pictures(vectors[order], [{}] * 8, noise[order]), pictures[order])


class TestRefusals:
    """What no picture is made of."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_vectors_that_are_no_numbers(self, bad: float) -> None:
        """NaN and infinity are refused by row."""
        vectors, noise = rows_of(range(2))
        vectors[1, 7] = bad
        with pytest.raises(BadVectorError, match="row 1 is not finite"):
            plain().generate(vectors, [{}] * 2, noise)

    def test_unit_vectors_are_of_another_convention(self) -> None:
        """A unit vector would give a face, and nobody's."""
        vectors, noise = rows_of(range(2))
        with pytest.raises(SpaceMismatchError, match=r"row 0 has length 1; .* raw features"):
            plain().generate(vectors / np.float32(RAW_LENGTH), [{}] * 2, noise)

    def test_vectors_of_other_dimensions(self) -> None:
        """Only 512 fit."""
        with pytest.raises(BadVectorError, match=r"takes \(N, 512\)"):
            plain().generate(np.ones((1, 128), np.float32) * 9, [{}], np.zeros((1, 1, 1, NOISE), np.float32))

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        """A file of a published size does not fit the reduced network, and the message says so."""
        from safetensors.torch import save_file

        from pipeline.adapters.models import ModelWeights

        path = tmp_path / "other.safetensors"
        save_file({"latent_prior_proj_f.weight": torch.zeros(768, 512)}, path)
        wrong = Vec2FaceOptions(use="vec2face", config="reduced", weights=WeightsRef(uri=str(path)))
        vectors, noise = rows_of(range(1))
        with pytest.raises(ModelError, match="another model"):
            Vec2Face(wrong, weights=ModelWeights(tmp_path)).generate(vectors, [{}], noise)

    def test_pictures_that_are_no_numbers(self) -> None:
        """Weights that overflow are an error with a way out, and no black face."""

        class Broken(FormulaWeights):
            def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
                found = dict(super().tensors(ref, names))
                return found | {"norm.bias": torch.full_like(found["norm.bias"], math.nan)}

        options = Vec2FaceOptions(use="vec2face", config="reduced", weights=REF, batch=1)
        vectors, noise = rows_of(range(1))
        with pytest.raises(ModelError, match="came out as no numbers"):
            Vec2Face(options, weights=Broken()).generate(vectors, [{}], noise)

    @pytest.mark.parametrize(
        "options",
        [
            {"batch": 12},
            {"masks": {"low": 0.9, "high": 0.8}},
            {"precision": "float8"},
            {"precision": "bfloat16", "optimise": {"identity": {"recogniser": {"uri": "x"}}}},
            {"optimise": {}},
        ],
    )
    def test_options_that_mean_nothing(self, options: dict[str, Any]) -> None:
        """Each is refused when the recipe is read."""
        with pytest.raises(ValidationError):
            Vec2FaceOptions.model_validate({"use": "vec2face", "weights": {"uri": "x"}, **options})


class TestFolding:
    """Upsampling on the small picture."""

    def test_folded_upsampling_is_the_plain_one(self) -> None:
        """In float64 the two ways differ by rounding alone."""
        network = load_network(FormulaWeights(), REF, "reduced").double()
        latent = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 64, 7, 7)))
        with torch.inference_mode():
            plainly = network.im_decoder(latent)
            network.im_decoder.fold()
            folded = network.im_decoder(latent)
        assert_allclose(folded, plainly, atol=1e-12)


class TestPrecision:
    """bfloat16, float16 and compiled networks against float32."""

    @pytest.mark.parametrize(("precision", "mean", "most"), [("bfloat16", 3.0, 48), ("float16", 0.4, 8)])
    def test_half_precision_lies_within_a_stated_distance(self, precision: str, mean: float, most: int) -> None:
        """Mean and largest difference to float32, in levels of 255, on the reduced network."""
        vectors, noise = rows_of(range(1))
        exact = plain().generate(vectors, [{}], noise).astype(int)
        half = plain(precision=precision).generate(vectors, [{}], noise).astype(int)
        apart = np.abs(half - exact)
        assert 0 < apart.mean() < mean
        assert apart.max() <= most

    @pytest.mark.soak
    @pytest.mark.parametrize(("precision", "mean", "most"), [("bfloat16", 3.0, 48), ("float16", 0.4, 8)])
    def test_the_same_distance_holds_at_full_size(self, precision: str, mean: float, most: int) -> None:
        """The published sizes lie no further apart than the reduced ones."""
        vectors, noise = rows_of(range(1))
        made = [
            Vec2Face(
                Vec2FaceOptions.model_validate({"use": "vec2face", "weights": REF, "batch": 1, "precision": each}),
                weights=FormulaWeights(),
            ).generate(vectors, [{}], noise)
            for each in ("float32", precision)
        ]
        apart = np.abs(made[0].astype(int) - made[1])
        assert 0 < apart.mean() < mean
        assert apart.max() <= most

    @pytest.mark.soak
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_compiled_network_gives_the_same_levels(self) -> None:
        """torch.compile moves float32 by rounding: at most one level, in at most one of a thousand places."""
        vectors, noise = rows_of(range(8))
        exact = plain().generate(vectors, [{}] * 8, noise).astype(int)
        compiled = plain(compile="default").generate(vectors, [{}] * 8, noise).astype(int)
        assert np.abs(compiled - exact).max() <= 1
        assert (compiled != exact).mean() < 1e-3

    def test_truncated_levels_are_upstream_s(self) -> None:
        """Truncation is never above the nearest level, never more than one below, and half a level darker."""
        vectors, noise = rows_of(range(1))
        near = plain().generate(vectors, [{}], noise).astype(int)
        cut = plain(levels="truncated").generate(vectors, [{}], noise).astype(int)
        assert set(np.unique(near - cut)) <= {0, 1}
        between = (cut > 0) & (cut < 255)
        assert (near - cut)[between].mean() == pytest.approx(0.5, abs=0.02)


def _row(identity: int) -> tuple[Any, Any, Any]:
    """Return what makes the first image of an identity."""
    vectors, noise = rows_of(range(identity, identity + 1))
    return vectors, [{}], noise
