"""Arc2Face's text encoder and sampling against what the published programs gave on weights made by formula.

Tolerances are those that the recordings state: 2e-5 for texts, predictions and pictures, 3e-4 for latents (which reach
45), and 1e-9 in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from pipeline.adapters.generators.arc2face import IDENTITY_PLACE, NEGATIVE, PROMPT
from pipeline.adapters.generators.arc2face_model import Model
from pipeline.adapters.generators.stable_diffusion.configs import ID_DIMENSIONS
from pipeline.adapters.generators.stable_diffusion.loading import Loader, inference
from pipeline.adapters.generators.stable_diffusion.sampling import make_solver
from pipeline.adapters.generators.stable_diffusion.text import IdentityPrompt
from tests.reduced import Remembered, arc2face, arc2face_options

HERE = Path(__file__).resolve().parent.parent / "golden"
WHOLE = HERE.parent.parent.parent / "shared" / "golden"
"""Every array that was recorded, where it is there; beside the tests are texts with every eighth of their columns."""
EACH = 8
TEXT, PICTURE, LATENT, EXACT = 2e-5, 2e-5, 3e-4, 1e-9


def read(path: Path) -> Mapping[str, np.ndarray]:
    """Return recorded arrays."""
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def texts() -> Mapping[str, np.ndarray]:
    """Return what was recorded of the encoder."""
    return read(HERE / "arc2face_encoder.npz")


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, np.ndarray]:
    """Return what was recorded of sampling."""
    return read(HERE / "arc2face_sd.npz")


@pytest.fixture(scope="module")
def model() -> Model:
    """Return Arc2Face as it runs, at the configuration of the recordings."""
    return Model(arc2face_options(output="original"), Remembered())


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array))


class TestEncoder:
    """Identities as text."""

    def test_tokens_are_the_recorded_ones(self, texts: Mapping[str, np.ndarray]) -> None:
        """Both texts, and the identity's place in the first, are those of the published program."""
        assert_array_equal(PROMPT, texts["input_ids"])
        assert_array_equal(NEGATIVE, texts["uncond_input_ids"])
        assert int(texts["id_token_index"]) == IDENTITY_PLACE

    def test_many_identities_in_one_call_give_what_upstream_gives_one_by_one(
        self, model: Model, texts: Mapping[str, np.ndarray]
    ) -> None:
        """Upstream fails for more than one identity in a call (its mask has one row); here each row is its own."""
        with inference():
            found = model.encoded(tensor(texts["id_embs"])).numpy()

        assert found.shape == (3, 77, 768)
        assert_allclose(found[..., ::EACH], texts["prompt_embeds_f32"], rtol=0, atol=TEXT)

    def test_what_precedes_the_identity_is_the_same_for_everybody(
        self, model: Model, texts: Mapping[str, np.ndarray]
    ) -> None:
        """Attention is causal: the first four places know no identity, all others do."""
        with inference():
            found = model.encoded(tensor(texts["id_embs"])).numpy()

        assert_array_equal(found[0, :IDENTITY_PLACE], found[1, :IDENTITY_PLACE])
        assert (np.abs(found[0, IDENTITY_PLACE:] - found[1, IDENTITY_PLACE:]).max(axis=1) > 1e-3).all()

    def test_the_empty_text(self, model: Model, texts: Mapping[str, np.ndarray]) -> None:
        """What guidance moves away from is the empty text through the same encoder, computed once."""
        assert_allclose(model.negative_1TC.numpy()[..., ::EACH], texts["uncond_embeds"], rtol=0, atol=TEXT)

    def test_text_without_an_identity(self, texts: Mapping[str, np.ndarray]) -> None:
        """The plain network gives the text as CLIP does, and a vector at the place changes it."""
        with inference():
            encoder = Loader(arc2face_options(), Remembered()).text(arc2face_options().encoder)
            tokens = encoder.tokens(PROMPT)[None]
            plain = encoder(tokens).numpy()
            padded = torch.nn.functional.pad(tensor(texts["id_embs"][0]), (0, 768 - ID_DIMENSIONS))
            tokens = tokens.clone()
            tokens[0, IDENTITY_PLACE] = padded
            whole = encoder(tokens).numpy()

        assert_allclose(plain[..., ::EACH], texts["no_id"], rtol=0, atol=TEXT)
        assert_allclose(whole[..., ::EACH], texts["prompt_embeds_f32"][:1], rtol=0, atol=TEXT)

    def test_float64(self, texts: Mapping[str, np.ndarray]) -> None:
        """In float64 the batched encoder agrees with the recording to nine places."""
        with inference():
            encoder = Loader(arc2face_options(), Remembered()).text(arc2face_options().encoder).double()
            found = IdentityPrompt(encoder, PROMPT, IDENTITY_PLACE).encode(tensor(texts["id_embs"][:1]).double())

        assert_allclose(found.numpy()[..., ::EACH], texts["f64"], rtol=0, atol=EXACT)

    def test_every_column_where_the_whole_recording_is_there(self, model: Model) -> None:
        """Texts agree in all 768 columns."""
        path = WHOLE / "arc2face_encoder.npz"
        if not path.exists():
            pytest.skip(f"{path}: the whole recording is not on this machine")
        whole = read(path)
        with inference():
            found = model.encoded(tensor(whole["id_embs"])).numpy()
        assert_allclose(found, whole["prompt_embeds"], rtol=0, atol=TEXT)


class TestSampling:
    """From texts and noise to pictures."""

    @pytest.mark.parametrize(("steps", "name"), [(5, "timesteps"), (25, "timesteps_25")])
    def test_steps_are_those_of_upstream(self, drawn: Mapping[str, np.ndarray], steps: int, name: str) -> None:
        """Steps and noise levels are spaced as the published pipeline comes to space them."""
        solver = make_solver("dpm-solver++")
        solver.set_timesteps(steps)

        assert_array_equal(solver.timesteps.numpy(), drawn[name])
        assert_allclose(solver.sigmas.numpy(), drawn[name.replace("timesteps", "sigmas")], rtol=1e-6)

    @pytest.mark.parametrize(("scale", "name"), [(1.0, "eps_cond_t999"), (0.0, "eps_uncond_t999")])
    def test_the_first_prediction(
        self, model: Model, texts: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], scale: float, name: str
    ) -> None:
        """The UNet sees the recorded noise, towards the identity and away from it."""
        with inference():
            told = model.told(model.encoded(tensor(texts["id_embs"][:2])), guided=True)
            scales = torch.full((2, 1, 1, 1), scale)
            found = model.sampler.predicted(tensor(drawn["latents"]), torch.tensor(999), told, scales)

        assert_allclose(found.numpy(), drawn[name], rtol=0, atol=PICTURE)

    def test_every_step_and_the_pictures(
        self, model: Model, texts: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
    ) -> None:
        """From identity vectors to pictures, all of it ours: latents after each step, decoded values, and pixels."""
        with inference():
            told = model.told(model.encoded(tensor(texts["id_embs"][:2])), guided=True)
            steps = list(model.sampler.latents(told, torch.full((2,), 3.0), tensor(drawn["latents"])))
            raw = model.sampler.decoded(steps[-1])

        assert_allclose(torch.stack(steps).numpy(), drawn["latents_after_step"], rtol=0, atol=LATENT)
        assert_allclose(raw.numpy(), drawn["vae_raw"], rtol=0, atol=PICTURE)
        pictures = (raw / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        assert_allclose(pictures, drawn["images"], rtol=0, atol=PICTURE)

    def test_without_guidance(
        self, model: Model, texts: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
    ) -> None:
        """Guidance 1 leaves the empty text out, at half the cost, and gives the recorded pictures."""
        with inference():
            told = model.told(model.encoded(tensor(texts["id_embs"][:2])), guided=False)
            *_, last = model.sampler.latents(told, None, tensor(drawn["latents"]))
            pictures = (model.sampler.decoded(last) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

        assert_allclose(pictures.numpy(), drawn["images_guidance1"], rtol=0, atol=PICTURE)

    @pytest.mark.parametrize(("guidance", "name"), [(3.0, "images"), (1.0, "images_guidance1")])
    def test_through_the_port(
        self, texts: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], guidance: float, name: str
    ) -> None:
        """What the flow is handed is the recorded picture, rounded to 8 bits."""
        generator = arc2face(output="original", guidance=guidance)
        made = generator.generate(texts["id_embs"][:2], [{}, {}], drawn["latents"])

        assert made.dtype == np.uint8
        # a level may tip over where the recorded value lies within the tolerance of a half
        assert np.abs(made - drawn[name] * 255).max() <= 0.5 + 255 * PICTURE
