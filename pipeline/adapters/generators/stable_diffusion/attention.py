"""Cross-attention whose keys and values are computed once per image instead of once per step.

What a text or an identity says does not change while an image is denoised, so its keys and values do not either; those
of the text that guidance moves away from never change at all. A batch's are made before the first step and handed to
the network in the place of the text.

Image prompts (H. Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter", arXiv 2308.06721) add keys and values
of their own beside those of the text: what attention sees in either is added, the second one times a scale.

Legend: N rows, T tokens, C text width (768), h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[Tensor, Tensor]
"""Keys and values, shape (N, h, T, d) each."""
Prepared = Mapping[str, tuple[Pair, ...]]
"""Layer -> what it attends to: the text first, then each image prompt, already scaled."""

CROSS = "attn2"
"""What diffusers calls the attention to a text, after the one of an image to itself."""


class PreparedAttention:
    """A diffusers attention processor that reads its keys and values from what was prepared."""

    def __init__(self, layer: str) -> None:
        """Take the layer's name, under which its keys and values are found."""
        self._layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Prepared,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return the layer's output, shape (N, pixels, channels)."""
        query = _heads(attn.to_q(hidden_states), attn.heads)
        seen = None
        for key, value in encoder_hidden_states[self._layer]:
            part = F.scaled_dot_product_attention(query, key, value)
            seen = part if seen is None else seen + part
        assert seen is not None
        out: Tensor = attn.to_out[0](seen.transpose(1, 2).flatten(2))
        return out


class ImagePrompt(nn.Module):
    """An IP-Adapter over a vector: a projection into tokens, and keys and values for every cross-attention layer."""

    def __init__(self, layers: Mapping[str, int], project: nn.Module, names: Mapping[str, int]) -> None:
        """Build it empty.

        Args:
            layers: cross-attention layer -> its channels.
            project: vector -> tokens, shape (N, tokens, C).
            names: cross-attention layer -> its number in published files.
        """
        super().__init__()
        self.image_proj = project
        self.ip_adapter = nn.ModuleDict(
            {
                str(names[layer]): nn.ModuleDict(
                    {part: nn.Linear(768, channels, bias=False) for part in ("to_k_ip", "to_v_ip")}
                )
                for layer, channels in layers.items()
            }
        )
        self._names = dict(names)

    def pair(self, layer: str, tokens_NTC: Tensor, heads: int) -> Pair:
        """Return keys and values of a layer."""
        of = self.ip_adapter[str(self._names[layer])]
        return _heads(of["to_k_ip"](tokens_NTC), heads), _heads(of["to_v_ip"](tokens_NTC), heads)  # type: ignore[index]


class VectorTokens(nn.Module):
    """Projects a vector into tokens: two linear layers with a GELU between, and a norm, as IP-Adapter-FaceID does."""

    def __init__(self, dimensions: int, tokens: int = 4, width: int = 768) -> None:
        super().__init__()
        self._tokens = tokens
        self.proj = nn.Sequential(
            nn.Linear(dimensions, 2 * dimensions), nn.GELU(), nn.Linear(2 * dimensions, tokens * width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Return tokens, shape (N, tokens, C)."""
        out: Tensor = self.norm(self.proj(vectors_ND).reshape(len(vectors_ND), self._tokens, -1))
        return out


class LinearTokens(nn.Module):
    """Projects a vector into tokens: one linear layer and a norm, as the first IP-Adapters do."""

    def __init__(self, dimensions: int, tokens: int = 4, width: int = 768) -> None:
        super().__init__()
        self._tokens = tokens
        self.proj = nn.Linear(dimensions, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Return tokens, shape (N, tokens, C)."""
        out: Tensor = self.norm(self.proj(vectors_ND).reshape(len(vectors_ND), self._tokens, -1))
        return out


def attention_layers(network: Any) -> dict[str, Any]:
    """Return name -> attention module, in the order in which published IP-Adapter files number them, from 0."""
    names = [name.removesuffix(".processor") for name in network.attn_processors]
    return {name: network.get_submodule(name) for name in names}


def cross_layers(network: Any) -> dict[str, Any]:
    """Return name -> attention module of a network's attention to its text."""
    return {name: module for name, module in attention_layers(network).items() if name.endswith(f".{CROSS}")}


def numbers(network: Any) -> dict[str, int]:
    """Return cross-attention layer -> its number in published IP-Adapter files, which count every attention layer."""
    order = list(attention_layers(network))
    return {name: order.index(name) for name in cross_layers(network)}


def channels_of(network: Any) -> dict[str, int]:
    """Return cross-attention layer -> its channels."""
    return {name: module.to_k.out_features for name, module in cross_layers(network).items()}


def prepare_attention(network: Any) -> None:
    """Let a UNet or a ControlNet take prepared keys and values in the place of its text."""
    present = network.attn_processors
    chosen = {
        name: PreparedAttention(name.removesuffix(".processor")) if f".{CROSS}." in name else processor
        for name, processor in present.items()
    }
    network.set_attn_processor(chosen)


def prepared_text(network: Any, text_NTC: Tensor) -> dict[str, Pair]:
    """Return layer -> keys and values of a text."""
    return {
        name: (_heads(module.to_k(text_NTC), module.heads), _heads(module.to_v(text_NTC), module.heads))
        for name, module in cross_layers(network).items()
    }


def prepared_prompt(network: Any, prompt: ImagePrompt, vectors_ND: Tensor, scale_N: Tensor) -> dict[str, Pair]:
    """Return layer -> keys and values of an image prompt; values carry its scale, one per row."""
    tokens = prompt.image_proj(vectors_ND)
    out = {}
    for name, module in cross_layers(network).items():
        key, value = prompt.pair(name, tokens, module.heads)
        out[name] = key, value * scale_N.to(value.dtype)[:, None, None, None]
    return out


def joined(first: Pair, then: Pair) -> Pair:
    """Return the rows of one pair followed by those of another."""
    return torch.cat([first[0], then[0]]), torch.cat([first[1], then[1]])


def repeated(pair: Pair, rows: int) -> Pair:
    """Return the one row of a pair so many times, without copying it."""
    key, value = pair
    return key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)


def _heads(x_NTC: Tensor, heads: int) -> Tensor:
    """Return (N, T, h d) as (N, h, T, d)."""
    return x_NTC.reshape(*x_NTC.shape[:2], heads, -1).transpose(1, 2)
