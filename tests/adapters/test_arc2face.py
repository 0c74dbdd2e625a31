"""Arc2Face around its networks: options, guidance, few steps, precision, heads, expressions, what upstream breaks."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from pipeline.adapters.generators.arc2face_model import Model
from pipeline.adapters.generators.stable_diffusion.expression import EXPRESSION_RANGES, expression_rows
from pipeline.adapters.generators.stable_diffusion.loading import inference
from pipeline.adapters.generators.stable_diffusion.poses import head_picture, head_pictures, rotation
from pipeline.adapters.generators.stable_diffusion.sampling import lcm_step, make_solver, require_equal_rows
from pipeline.domain.conditions import Uniform, slot_conditions
from pipeline.domain.errors import ModelError
from pipeline.domain.landmarks import MODEL_53, pose_deg
from pipeline.domain.records import Float32
from pipeline.domain.rng import Stream
from tests.reduced import Remembered, arc2face, arc2face_options, ref, rows

LCM = {"scheduler": "lcm", "lcm_lora": ref("lcm")}
UPRIGHT = ((0.377, 0.469), (0.623, 0.469), (0.501, 0.613), (0.393, 0.725), (0.612, 0.725))


@pytest.fixture(scope="module")
def model() -> Model:
    """Return the reduced networks."""
    return Model(arc2face_options(output="original"), Remembered())


def frames(model: Model, vectors: Float32, noise: Float32, guidance: Any = 3.0) -> torch.Tensor:
    """Return decoded frames before they are rounded to 8 bits."""
    with inference():
        told = model.told(model.encoded(torch.from_numpy(vectors)), guided=True)
        scale = torch.full((len(vectors),), float(guidance)) if np.isscalar(guidance) else torch.tensor(guidance)
        *_, last = model.sampler.latents(told, scale, torch.from_numpy(noise))
        return model.sampler.decoded(last)


class TestOptions:
    """What a recipe may say."""

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"scheduler": "lcm"}, "lcm_lora"),
            ({"lcm_lora": ref("lcm")}, "dpm-solver"),
            ({**LCM, "steps": 25}, "at most 8"),
            ({"batch": 12}, "multiple of 8"),
            ({"guidance": 0.5}, "greater than or equal to 1"),
            ({"steps": 0}, "greater than or equal to 1"),
            ({"crop": {"points": [[0.5, 0.5]] * 5}}, "one place"),
            ({"crop": {"points": [[0.4, 0.4], [0.6, 0.5], [0.5, 0.6], [0.4, 0.7], [0.6, 0.8]]}}, "tilted"),
            ({"precision": "int8"}, "float32"),
        ],
    )
    def test_what_cannot_be_is_refused(self, asked: dict[str, Any], said: str) -> None:
        """Options that contradict each other, or leave the networks' ground, say so when the recipe is read."""
        with pytest.raises(ValidationError, match=said):
            arc2face_options(**asked)

    def test_defaults_are_the_published_settings(self) -> None:
        """25 steps of DPM-Solver++ with guidance 3; with LCM four steps and none, and then no condition `guidance`."""
        usual = arc2face_options(steps=None)
        few = arc2face_options(steps=None, **LCM)
        assert (usual.step_count, usual.guidance_scale, usual.scheduler) == (25, 3.0, "dpm-solver++")
        assert (few.step_count, few.guidance_scale) == (4, 1.0)
        assert "guidance" in arc2face().condition_names
        assert arc2face(**LCM).condition_names == ()

    def test_the_digest_is_that_of_the_weights_that_decide_pixels(self) -> None:
        """Every reference that is read changes the card's digest; the VAE that a small one replaces does not."""
        plain = arc2face().card.sha256
        for part in ("unet", "encoder", "vae"):
            assert arc2face(**{part: ref("other")}).card.sha256 != plain
        small = arc2face(small_vae=ref("small")).card.sha256
        assert small != plain
        assert arc2face(small_vae=ref("small"), vae=ref("other")).card.sha256 == small
        stated = [arc2face(unet={"uri": uri, "sha256": "a" * 64}).card.sha256 for uri in ("here.bin", "there.bin")]
        assert stated[0] == stated[1]

    def test_published_networks_are_stable_diffusion_1_5(self) -> None:
        """The published shapes have the tensors and parameters of the published checkpoints, without any file."""
        from diffusers import AutoencoderKL, UNet2DConditionModel

        from pipeline.adapters.generators.stable_diffusion.configs import SHAPES
        from pipeline.adapters.generators.stable_diffusion.text import names_of

        shapes = SHAPES["published"]
        with torch.device("meta"):
            unet, vae = UNet2DConditionModel(**shapes.unet), AutoencoderKL(**shapes.vae)
        assert len(unet.state_dict()) == 686
        assert [sum(p.numel() for p in n.parameters()) for n in (unet, vae)] == [859_520_964, 83_653_863]
        text = names_of(shapes.text)
        assert len(text) == 196
        assert sum(int(np.prod(shape)) for shape in text.values()) == 123_060_480

    def test_needs_no_transformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Upstream's encoder breaks on current transformers; ours runs where the package cannot even be imported."""
        monkeypatch.setitem(sys.modules, "transformers", None)
        generator = arc2face(steps=1, output="original")
        assert generator.generate(*rows(generator, 1)).shape == (1, 16, 16, 3)


class TestGuidance:
    """Scales of rows that share a batch."""

    def test_each_row_has_its_own(self, model: Model) -> None:
        """A batch of eight scales gives what batches with one scale each give."""
        vectors, _, noise = rows(arc2face())
        scales = np.linspace(1, 8, 8, dtype=np.float32)
        mixed = frames(model, vectors, noise, scales)
        for n in (0, 3, 7):
            # equal bits: the shape of the batch is the same, and the scale is a row's own
            assert torch.equal(frames(model, vectors, noise, scales[n])[n], mixed[n])

    def test_a_condition_sets_it(self) -> None:
        """`guidance` as a condition is the recipe's option for that row; at 1 the identity alone is looked at."""
        generator, strong = arc2face(), arc2face(guidance=6.0)
        vectors, conditions, noise = rows(generator)
        asked = generator.generate(vectors, [{"guidance": 6.0}] * 8, noise)
        assert_array_equal(asked, strong.generate(vectors, conditions, noise))
        alone = generator.generate(vectors, [{"guidance": 1.0}] * 8, noise)
        without = arc2face(guidance=1.0).generate(vectors, conditions, noise)
        assert np.abs(alone.astype(int) - without).max() <= 1


class TestFewSteps:
    """Latent consistency: noise of every step is the row's own."""

    def test_a_step_is_the_published_formula(self) -> None:
        """One step, written out from the paper: the boundary scalings, the clean latent, and noise added again."""
        solver = make_solver("lcm")
        solver.set_timesteps(3)
        first, second = solver.timesteps[:2]
        rng = np.random.Generator(np.random.Philox(3))
        x, eps, noise = (rng.standard_normal((2, 4, 8, 8)) for _ in range(3))
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        alphas = np.cumprod(1 - betas)
        a, b = alphas[int(first)], alphas[int(second)]
        scaled = 10.0 * int(first)
        c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        clean = c_out * (x - (1 - a) ** 0.5 * eps) / a**0.5 + c_skip * x
        found = lcm_step(
            solver,
            *(torch.from_numpy(eps), first, torch.from_numpy(x), solver.timesteps[1:2], torch.from_numpy(noise)),
        )
        assert_allclose(found.numpy(), b**0.5 * clean + (1 - b) ** 0.5 * noise, rtol=0, atol=2e-5)

    def test_every_part_of_the_noise_matters(self) -> None:
        """The noise of a row is the first latent and one draw for each later step; each changes that row alone."""
        generator = arc2face(**{**LCM, "steps": 3})
        vectors, conditions, noise = rows(generator)
        assert noise.shape == (8, 12, 8, 8)
        before = generator.generate(vectors, conditions, noise)
        for part in range(3):
            other = noise.copy()
            other[5, 4 * part : 4 * part + 4] *= -1
            changed = (generator.generate(vectors, conditions, other) != before).reshape(8, -1).any(axis=1)
            assert_array_equal(np.flatnonzero(changed), [5])

    def test_the_last_step_adds_none(self) -> None:
        """One step takes one draw, and nothing is added to what it ends with."""
        assert arc2face(**{**LCM, "steps": 1}).noise_shape == (4, 8, 8)


class TestState:
    """Upstream's scheduler remembers; nothing here does."""

    def test_two_batches_taken_in_turns_do_not_meet(self, model: Model) -> None:
        """Two loops that advance step by step in turns end where each ends alone, bit by bit."""
        vectors, _, noise = rows(arc2face())
        with inference():
            told = model.told(model.encoded(torch.from_numpy(vectors)), guided=True)
            scale = torch.full((8,), 3.0)
            tensors = [torch.from_numpy(noise), torch.from_numpy(noise[::-1].copy())]
            alone = [list(model.sampler.latents(told, scale, t)) for t in tensors]
            turns = list(zip(*(model.sampler.latents(told, scale, t) for t in tensors), strict=True))
        for n in (0, 1):
            assert all(torch.equal(step[n], was) for step, was in zip(turns, alone[n], strict=True))

    def test_a_device_that_mixes_rows_is_found_out(self) -> None:
        """Rows that lean on their neighbours by one bit end the run with the way out, before any image is kept."""
        one = torch.ones(8, 4)
        other = one.clone()
        other[3, 2] += 2.0**-23
        require_equal_rows(one, one.clone())
        with pytest.raises(ModelError, match=r"generator\.batch: 1"):
            require_equal_rows(one, other)

    def test_a_network_that_mixes_rows_is_found_out(self) -> None:
        """The check runs before the first batch of a shape: a UNet with a figure of the whole batch fails it."""
        generator = arc2face(steps=1)
        unet = generator._model.sampler.unet
        plain = unet.forward

        def leaning(x: torch.Tensor, *args: Any, **more: Any) -> Any:
            (seen,) = plain(x, *args, **more)
            return (seen + 1e-3 * seen[:1],)

        unet.forward = leaning
        with pytest.raises(ModelError, match="places"):
            generator.generate(*rows(generator))

    def test_numbers_that_are_none_make_no_picture(self) -> None:
        """Weights or a precision that overflow end with a line, not with a black face."""
        generator = arc2face(steps=1)
        vectors, conditions, noise = rows(generator)
        noise[2, 0, 0, 0] = np.nan
        generator._model.sampler._proven.add(8)
        with pytest.raises(ModelError, match="no numbers"):
            generator.generate(vectors, conditions, noise)


class TestSpeed:
    """Options that make it faster, and by how much they may change what comes out."""

    @pytest.mark.parametrize(
        ("options", "mean", "most"),
        [
            ({"precision": "float16"}, 0.002, 0.015),
            ({"precision": "bfloat16"}, 0.015, 0.12),
            ({"channels_last": False}, 5e-6, 3e-5),
            ({"decode_alone": True}, 5e-6, 3e-5),
        ],
    )
    def test_within_a_stated_distance_of_float32(
        self, model: Model, options: dict[str, Any], mean: float, most: float
    ) -> None:
        """Frames in [-1, 1] stay within `mean` on average and `most` at worst of float32's, over five steps.

        The made-up networks amplify: latents reach 45, where trained ones stay below 5.
        """
        vectors, _, noise = rows(arc2face())
        other = Model(arc2face_options(output="original", **options), Remembered())
        apart = (frames(other, vectors, noise) - frames(model, vectors, noise)).abs()
        assert float(apart.mean()) <= mean
        assert float(apart.max()) <= most

    @pytest.mark.soak
    # torch.compile imports torch.jit, which warns of its own end
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_compiled_within_a_stated_distance(self, model: Model) -> None:
        """Compiled networks stay within 1e-4 of uncompiled ones, and rows of a batch stay apart."""
        vectors, conditions, noise = rows(arc2face())
        other = Model(arc2face_options(output="original", compile="default"), Remembered())
        assert float((frames(other, vectors, noise) - frames(model, vectors, noise)).abs().max()) <= 1e-4
        generator = arc2face(compile="default")
        made = generator.generate(vectors, conditions, noise)
        turned = generator.generate(vectors[::-1].copy(), conditions, noise[::-1].copy())
        assert_array_equal(turned[::-1], made)

    def test_prepared_keys_and_values_are_those_of_every_step(self, model: Model) -> None:
        """A stock UNet of diffusers, which projects the text at each call, sees the same noise."""
        from diffusers import UNet2DConditionModel

        vectors, _, noise = rows(arc2face())
        stock = UNet2DConditionModel(**arc2face_options().shapes.unet).eval()
        stock.load_state_dict(model.sampler.unet.state_dict())
        with inference():
            text = model.encoded(torch.from_numpy(vectors))
            plain = stock(torch.from_numpy(noise), 500, encoder_hidden_states=text, return_dict=False)[0]
            told = model.told(text, guided=False)
            found = model.sampler.predicted(torch.from_numpy(noise), torch.tensor(500), told, None)
        assert_allclose(found.numpy(), plain.numpy(), rtol=0, atol=2e-5)

    def test_nothing_is_kept_for_gradients(self, model: Model) -> None:
        """Upstream's loops record every step for a gradient that nobody takes; here no weight asks for one."""
        networks = (model.sampler.unet, model.sampler._vae)
        assert not any(weight.requires_grad for network in networks for weight in network.parameters())
        made = frames(model, *rows(arc2face(), 2)[::2])
        assert made.grad_fn is None
        assert not made.requires_grad

    def test_the_empty_text_is_encoded_once(self, model: Model) -> None:
        """Upstream encodes it at every call; here later batches share its keys and values with the first."""
        before = model._negative
        frames(model, *rows(arc2face())[::2])
        assert model._negative is before


class TestHeads:
    """Poses as pictures for the ControlNet."""

    @pytest.mark.parametrize("pose", [(0, 0, 0), (30, 0, 0), (-45, 10, 0), (20, -15, 10), (0, 25, -20)])
    def test_angles_mean_what_they_mean_everywhere(self, pose: tuple[float, float, float]) -> None:
        """A head that is turned so is measured so, by the domain's own reading of five landmarks."""
        turned = MODEL_53 @ rotation(*pose).T
        assert_allclose(pose_deg(turned[None, :, :2] * [1, -1])[0], pose, atol=1e-6)

    def test_normals_are_of_unit_length_and_face_the_viewer(self) -> None:
        """Every pixel of the head holds a unit normal that does not look away; around it is black."""
        picture = head_picture((25.0, -10.0, 5.0), 64, UPRIGHT)
        seen = picture.max(axis=0) > 0
        normals = picture[:, seen] * 2 - 1
        assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
        assert (normals[2] > -1e-6).all()
        assert 0.2 < seen.mean() < 0.8
        assert not seen[0].any()

    def test_a_frontal_head_is_symmetric_and_a_turned_one_looks_aside(self) -> None:
        """The frontal picture mirrors onto itself; yaw to the right moves the nose's side to the right."""
        eyes = ((0.4, 0.47), (0.6, 0.47), *UPRIGHT[2:])
        front, right = (head_picture((yaw, 0.0, 0.0), 64, eyes) for yaw in (0.0, 40.0))
        mirrored = front[:, :, ::-1].copy()
        mirrored[0] = np.where(mirrored.max(axis=0) > 0, 1 - mirrored[0], 0)
        assert_allclose(mirrored, front, atol=1e-5)
        towards = [picture[0][picture.max(axis=0) > 0].mean() for picture in (front, right)]
        assert towards[0] == pytest.approx(0.5, abs=1e-3)
        assert (right != front).any()

    def test_rows_that_ask_for_no_pose_are_left_free(self) -> None:
        """Beside rows with a pose, one without is what it is where there is no ControlNet at all."""
        generator, without = arc2face(controlnet=ref("control")), arc2face()
        vectors, conditions, noise = rows(generator)
        posed = [{"yaw_deg": 30.0} if n % 2 else {} for n in range(8)]
        found, plain = generator.generate(vectors, posed, noise), without.generate(vectors, conditions, noise)
        same = (found == plain).reshape(8, -1).all(axis=1)
        assert_array_equal(same, [n % 2 == 0 for n in range(8)])
        assert_array_equal(head_pictures(posed, 16, UPRIGHT)[1], [0, 1] * 4)


class TestExpressions:
    """Fifty-five numbers from a slot's key."""

    def test_a_slot_keeps_its_expression_and_others_have_others(self) -> None:
        """The draw follows from identity and slot alone: retries keep it, neighbours differ."""
        target = {"expression_draw": Uniform(use="uniform", low=0.0, high=1.0)}
        asked = [slot_conditions(target, 7, Stream.SAMPLE_CONDITION, i, s) for i in range(4) for s in range(4)]
        vectors, given_rows = expression_rows(asked)
        again, _ = expression_rows([slot_conditions(target, 7, Stream.SAMPLE_CONDITION, 2, 3)])
        assert vectors.shape == (16, 55)
        assert given_rows.all()
        assert len({v.tobytes() for v in vectors}) == 16
        assert_array_equal(again[0], vectors[11])
        assert abs(float(vectors[:, :50].mean())) < 0.15
        assert float(vectors[:, :50].std()) == pytest.approx(1, abs=0.1)
        assert not vectors[:, 50:].any()

    @given(draw=st.floats(0, 1), strength=st.floats(0, 3), eyes=st.floats(0, 1), jaw=st.floats(0, 30))
    def test_each_number_is_where_the_adapter_reads_it(
        self, draw: float, strength: float, eyes: float, jaw: float
    ) -> None:
        """Strength scales the components, eyelids and jaw stand behind them, and the row is marked."""
        names = dict(zip(EXPRESSION_RANGES, (draw, strength, eyes, jaw), strict=True))
        (vector,), (mark,) = expression_rows([names])
        (unit,), _ = expression_rows([{"expression_draw": draw}])
        assert mark == 1
        assert_allclose(vector[:50], np.float32(strength) * unit[:50], rtol=1e-6)
        assert_allclose(vector[50:], [eyes, eyes, np.deg2rad(jaw), 0, 0], rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("layout", ["two-layers", "linear"])
    def test_rows_that_ask_for_none_are_left_free(self, layout: str) -> None:
        """Beside rows with an expression, one without is what it is where there is no adapter at all."""
        generator = arc2face(expression_adapter=ref("expression"), expression_layout=layout)
        vectors, conditions, noise = rows(generator)
        asked = [{"expression_draw": 0.3} if n % 2 else {} for n in range(8)]
        found, plain = generator.generate(vectors, asked, noise), arc2face().generate(vectors, conditions, noise)
        same = (found == plain).reshape(8, -1).all(axis=1)
        assert_array_equal(same, [n % 2 == 0 for n in range(8)])
