"""What the Stable Diffusion family shares apart from networks: fixed crops, low-rank updates, framed texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from pipeline.adapters.generators.stable_diffusion.configs import prompt_ids
from pipeline.adapters.generators.stable_diffusion.frames import Framing, axis_weights
from pipeline.adapters.generators.stable_diffusion.lora import merge_lora
from pipeline.adapters.generators.stable_diffusion.options import FixedCrop
from pipeline.domain.errors import ModelError
from pipeline.domain.landmarks import alignment
from tests.reduced import arc2face, rows

CPU = torch.device("cpu")


class TestCrop:
    """One square for every image."""

    @given(scale=st.floats(1.5, 8), left=st.floats(0, 100), top=st.floats(0, 100))
    def test_points_land_on_the_template(self, scale: float, left: float, top: float) -> None:
        """Points that are the template's, scaled and moved, are cut so that they are the template's again."""
        template = alignment("arcface-112")
        frame = 112 * scale + 200
        places = (np.array(template.points) + 0.5) * scale + [left, top]
        crop = FixedCrop(points=tuple(map(tuple, places / frame)))
        found = np.array(crop.square()) * frame
        # the square has no turn: the template is not quite symmetric, and stays within a hundredth of a pixel of itself
        assert_allclose(found, [left, top, 112 * scale], atol=1e-6 * frame)

    def test_the_default_cuts_inside_the_frame(self) -> None:
        """FFHQ's mean points ask for about seven tenths of the frame, and for nothing outside of it."""
        left, top, side = FixedCrop().square()
        assert 0 < left < 0.3
        assert 0 < top < 0.3
        assert 0.6 < side < 0.8
        assert left + side < 1
        assert top + side < 1

    @given(frame=st.integers(4, 96), side=st.integers(1, 64), first=st.floats(-0.2, 0.9), share=st.floats(0.05, 1.2))
    def test_weights_are_shares(self, frame: int, side: int, first: float, share: float) -> None:
        """Each pixel of a crop is an average of the frame's, or black where it lies outside."""
        weights = axis_weights(first * frame, share * frame, frame, side)
        assert weights.shape == (side, frame)
        assert (weights >= 0).all()
        centres = first * frame + (np.arange(side) + 0.5) * share * frame / side
        inside = (centres >= 0) & (centres <= frame)
        assert_allclose(weights.sum(axis=1), inside, atol=1e-5)

    def test_a_ramp_stays_a_ramp(self) -> None:
        """A picture that rises evenly is cut to one that rises evenly, from one edge of the square to the other."""
        across = torch.linspace(-1, 1, 512).expand(1, 3, 512, 512)
        (made,) = Framing(512, (0.25, 0.1, 0.5), 112, CPU).images(across)
        steps = (np.arange(112) + 0.5) / 112 * 256 + 128
        expected = (steps - 0.5) / 511 * 255
        assert np.abs(made[:, :, 0] - expected[None, :]).max() <= 0.51
        assert_array_equal(made[:, :, 0], made[:, :, 2])

    def test_levels_are_rounded_and_clipped(self) -> None:
        """-1 and below is 0, 1 and beyond is 255, and what lies between goes to the nearest level."""
        values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 7.0, 2 * 100.4 / 255 - 1]).reshape(1, 1, 1, 6).expand(1, 3, 6, 6)
        (made,) = Framing(6, None, 112, CPU).images(values)
        assert_array_equal(made[0, :, 0], [0, 0, 128, 255, 255, 100])

    def test_originals_and_crops_are_of_the_same_frame(self) -> None:
        """`output: original` gives the frame that `crop` is cut from."""
        whole, cut = arc2face(output="original"), arc2face()
        assert (whole.image_px, whole.alignment) == (16, None)
        assert (cut.image_px, cut.alignment) == (112, "arcface-112")
        frames = torch.from_numpy(whole.generate(*rows(whole)).transpose(0, 3, 1, 2) / 127.5 - 1)
        again = Framing(16, FixedCrop().square(), 112, CPU).images(frames)
        assert np.abs(again.astype(int) - cut.generate(*rows(cut))).max() <= 1


class Small(nn.Module):
    """Two layers to update."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3)
        self.block = nn.ModuleDict({"to_q": nn.Linear(8, 6, bias=False)})


def update(*, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    """Return an update of both layers, of rank 4."""
    rng = np.random.Generator(np.random.Philox(1))
    shapes = {
        "lora_unet_conv_in.lora_down.weight": (4, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": (8, 4, 1, 1),
        "lora_unet_block_to_q.lora_down.weight": (4, 8),
        "lora_unet_block_to_q.lora_up.weight": (6, 4),
    }
    out = {name: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for name, shape in shapes.items()}
    for layer in ("conv_in", "block_to_q") if alpha is not None else ():
        out[f"lora_unet_{layer}.alpha"] = torch.tensor(alpha)
    return out


class TestLowRank:
    """Updates that are merged when a network loads."""

    @pytest.mark.parametrize(("alpha", "strength"), [(2.0, 0.5), (None, 1.0)])
    def test_merged_is_what_a_branch_beside_the_layer_gives(self, alpha: float | None, strength: float) -> None:
        """Both layers give what they gave, plus the update's own two layers one after the other, times alpha / rank."""
        parts, network = update(alpha=alpha), Small()
        x, y = torch.arange(4 * 25).reshape(1, 4, 5, 5) / 50 - 1, torch.arange(16.0).reshape(2, 8) / 8 - 1
        with torch.inference_mode():
            conv = nn.functional.conv2d(x, parts["lora_unet_conv_in.lora_down.weight"])
            conv = nn.functional.conv2d(conv, parts["lora_unet_conv_in.lora_up.weight"])
            line = y @ parts["lora_unet_block_to_q.lora_down.weight"].T @ parts["lora_unet_block_to_q.lora_up.weight"].T
            expected = network.conv_in(x) + strength * conv, network.block["to_q"](y) + strength * line
        merge_lora(network, parts, "file")
        with torch.inference_mode():
            assert_allclose(network.conv_in(x).numpy(), expected[0].numpy(), atol=1e-4)
            assert_allclose(network.block["to_q"](y).numpy(), expected[1].numpy(), atol=1e-4)

    def test_both_ways_of_naming(self) -> None:
        """kohya's names and diffusers' say the same."""
        one, other = Small(), Small()
        other.load_state_dict(one.state_dict())
        theirs = {
            f"unet.{'conv_in' if 'conv_in' in name else 'block.to_q'}.lora_{'A' if 'down' in name else 'B'}.weight": t
            for name, t in update(alpha=None).items()
        }
        merge_lora(one, update(alpha=None), "kohya")
        merge_lora(other, theirs, "diffusers")
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"lora_unet_mid.lora_up.weight": torch.ones(2, 2)}, "names no layer"),
            ({"te_text_model.lora_up.weight": torch.ones(2, 2)}, "names no layer"),
            ({"lora_unet_conv_in.lora_down.weight": None}, "other half"),
            ({"lora_unet_block_to_q.lora_up.weight": torch.ones(5, 4)}, "shape"),
        ],
    )
    def test_a_file_of_another_network_is_refused(self, change: dict[str, torch.Tensor | None], said: str) -> None:
        """Layers that are not there, halves that are missing and shapes that do not fit each have one line."""
        parts = {name: t for name, t in {**update(), **change}.items() if t is not None}
        with pytest.raises(ModelError, match=said):
            merge_lora(Small(), parts, "lora.safetensors")

    def test_an_empty_file_is_refused(self) -> None:
        """A file without updates would leave the network as it is, silently."""
        with pytest.raises(ModelError, match="no update"):
            merge_lora(Small(), {}, "lora.safetensors")


def test_a_text_is_framed_and_filled_up() -> None:
    """CLIP's text begins with its first token and is filled up with its last; one that is too long is refused."""
    assert prompt_ids(5, 6) == (49406, 5, 6, *(49407,) * 74)
    with pytest.raises(ValueError, match="at most 75"):
        prompt_ids(*range(76))
