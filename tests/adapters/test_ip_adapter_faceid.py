"""IP-Adapter-FaceID against diffusers' own adapter layers, and what a recipe says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from pipeline.adapters.generators.ip_adapter_faceid_model import Model
from pipeline.adapters.generators.stable_diffusion.attention import attention_layers, numbers
from pipeline.adapters.generators.stable_diffusion.loading import inference
from tests.reduced import Remembered, faceid, faceid_options, ref, rows


@pytest.fixture(scope="module")
def model() -> Model:
    """Return the reduced networks."""
    return Model(faceid_options(output="original"), Remembered())


def made_up(names: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return tensors by formula, copied so that diffusers may do with them as it likes."""
    reference = faceid_options().adapter
    return {name: tensor.clone() for name, tensor in Remembered().tensors(reference, names).items()}


def adapter_file(unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return the adapter's file as published ones are laid out, without its low-rank updates."""
    project = {"proj.0.weight": (1024, 512), "proj.0.bias": (1024,), "proj.2.weight": (3072, 1024)}
    project |= {"proj.2.bias": (3072,), "norm.weight": (768,), "norm.bias": (768,)}
    layers = {}
    for name, number in numbers(unet).items():
        channels = unet.get_submodule(name).to_q.in_features
        layers |= {f"{number}.{part}.weight": (channels, 768) for part in ("to_k_ip", "to_v_ip")}
    groups = {"image_proj": project, "ip_adapter": layers}
    found = {}
    for group, names in groups.items():
        tensors = made_up({f"{group}.{name}": shape for name, shape in names.items()})
        found[group] = {name.removeprefix(f"{group}."): tensor for name, tensor in tensors.items()}
    return found


def stock_unet(*, lora: bool) -> Any:
    """Return diffusers' UNet with weights by formula, its attention updated by explicit sums where `lora`."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**faceid_options().shapes.unet).eval().requires_grad_(requires_grad=False)
    unet.load_state_dict(made_up({n: tuple(t.shape) for n, t in unet.state_dict().items()}))
    rank = faceid_options().shapes.lora_rank
    for number, layer in enumerate(attention_layers(unet).values() if lora else ()):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            linear = layer.to_out[0] if part == "to_out" else getattr(layer, part)
            stem = f"ip_adapter.{number}.{part}_lora"
            down, up = made_up(
                {
                    f"{stem}.down.weight": (rank, linear.in_features),
                    f"{stem}.up.weight": (linear.out_features, rank),
                }
            ).values()
            # x W^T + (x down^T) up^T, as the published attention processors compute it
            linear.register_forward_hook(lambda _, x, y, down=down, up=up: y + (x[0] @ down.T) @ up.T)
    return unet


class TestAgainstDiffusers:
    """The same weights in diffusers' own classes."""

    @pytest.mark.parametrize("scale", [1.0, 0.6])
    def test_a_prediction(self, scale: float) -> None:
        """Merged updates and prepared keys see the noise that stock layers see, which do both at every call."""
        model = Model(faceid_options(adapter_scale=scale), Remembered())
        generator = faceid()
        vectors, _, noise = rows(generator, 4)
        unet = stock_unet(lora=True)
        unet._load_ip_adapter_weights([adapter_file(unet)], low_cpu_mem_usage=False)
        for processor in unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [scale]
        with inference():
            text = model.texts_2TC[:1].expand(4, -1, -1)
            given = {"image_embeds": [torch.from_numpy(vectors)[:, None]]}
            stock = unet(
                torch.from_numpy(noise), 300, encoder_hidden_states=text, added_cond_kwargs=given, return_dict=False
            )[0]
            told = model.told(torch.from_numpy(vectors), guided=False)
            found = model.sampler.predicted(torch.from_numpy(noise), torch.tensor(300), told, None)
        assert_allclose(found.numpy(), stock.numpy(), rtol=0, atol=2e-5)
        # what a wrong scale, or an update that is left out, would change
        assert float((stock - stock.roll(1, 0)).abs().max()) > 0.1

    def test_guidance_moves_away_from_zeros_and_the_other_text(self, model: Model) -> None:
        """The first half of the rows attends to the negative text and to the tokens of a zero vector."""
        vectors = torch.from_numpy(rows(faceid(), 4)[0])
        with inference():
            both, towards = model.told(vectors, guided=True), model.told(vectors, guided=False)
            zero = model.told(torch.zeros_like(vectors), guided=False)
        for name, pairs in both.items():
            for n, (key, value) in enumerate(pairs):
                assert torch.equal(key[4:], towards[name][n][0])
                assert torch.equal(value[4:], towards[name][n][1])
            assert torch.equal(pairs[1][0][:4], zero[name][1][0])
            assert not torch.equal(pairs[0][0][:4], towards[name][0][0])

    def test_scale_0_leaves_the_text_alone(self) -> None:
        """Without the adapter's share every identity gets the same picture of the same noise."""
        generator = faceid(adapter_scale=0.0)
        vectors, conditions, noise = rows(generator, 8)
        made = generator.generate(vectors, conditions, np.repeat(noise[:1], 8, axis=0))
        assert len({face.tobytes() for face in made}) == 1


class TestOptions:
    """What a recipe may say."""

    def test_defaults_are_the_published_settings(self) -> None:
        """Guidance 7.5 and "best quality, high quality"; with LCM no guidance."""
        options = faceid_options()
        assert options.guidance_scale == 7.5
        assert options.prompts[0][:8] == (49406, 949, 3027, 267, 1400, 3027, 49407, 49407)
        assert options.prompts[1] == (49406, *(49407,) * 76)
        assert faceid_options(scheduler="lcm", lcm_lora=ref("lcm")).guidance_scale == 1.0

    @pytest.mark.parametrize(
        "asked", [{"prompt": [49406]}, {"prompt": [1] * 76}, {"adapter_scale": -1}, {"negative": [-1]}]
    )
    def test_what_cannot_be_is_refused(self, asked: dict[str, Any]) -> None:
        """Tokens are CLIP's without its frame, at most 75 of them."""
        with pytest.raises(ValidationError):
            faceid_options(**asked)

    def test_texts_matter(self) -> None:
        """Another text, and another one to move away from, each make other pictures."""
        plain = faceid()
        arguments = rows(plain)
        made = plain.generate(*arguments)
        for other in (faceid(prompt=[1125, 539, 320, 2533]), faceid(negative=[1125])):
            assert (other.generate(*arguments) != made).any()

    def test_licence_and_space_are_its_own(self) -> None:
        """Its vectors are those of buffalo_l's recogniser, and its weights are for research only."""
        generator = faceid(recogniser_sha256="a" * 64)
        assert (generator.space.name, generator.space.weights_sha256) == ("buffalo-l-recogniser", "a" * 64)
        assert "non-commercial" in generator.card.licence
        assert not generator.card.commercial_use

    def test_many_identities_in_one_call(self) -> None:
        """A batch of eight gives what eight calls give, within one level of 255."""
        generator = faceid()
        vectors, conditions, noise = rows(generator)
        together = generator.generate(vectors, conditions, noise)
        alone = [generator.generate(vectors[n : n + 1], [{}], noise[n : n + 1])[0] for n in range(8)]
        assert np.abs(together.astype(int) - np.stack(alone)).max() <= 1
        assert_array_equal(together.shape, (8, 112, 112, 3))
