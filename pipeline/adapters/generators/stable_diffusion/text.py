"""CLIP's text network for many identities at once.

An identity enters a text as one token: its vector, padded with zeros to the width of a token, takes the place of the
token's embedding before positions are added (Arc2Face, section 3). Attention is causal, so what comes before that place
is the same for everybody: it is computed once per model, as keys and values of every layer. In the first layer queries,
keys and values of what comes after it are the same for everybody too. A batch computes what is left. Source: A. Radford
et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; F. P. Papantoniou et al.,
"Arc2Face", ECCV 2024.

Legend: N rows, T tokens, C text width (768), D identity dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapters.generators.stable_diffusion.configs import TEXT_TOKENS, TEXT_WIDTH, TextShape

PREFIX = "text_model."
"""Before every tensor's name in published files."""


class _Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(TEXT_WIDTH, TEXT_WIDTH) for _ in range(4))

    def project(self, x_NTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, shape (N, heads, T, C / heads) each."""

        def split(y: Tensor) -> Tensor:
            return y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)

        return split(self.q_proj(x_NTC)), split(self.k_proj(x_NTC)), split(self.v_proj(x_NTC))


class _Perceptron(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(TEXT_WIDTH, inner), nn.Linear(inner, TEXT_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        # the quick GELU, not the exact one: x * sigmoid(1.702 x)
        out: Tensor = self.fc2(h * torch.sigmoid(1.702 * h))
        return out


class _Layer(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.self_attn = _Attention(shape.heads)
        self.layer_norm1 = nn.LayerNorm(TEXT_WIDTH, eps=shape.epsilon)
        self.mlp = _Perceptron(shape.inner)
        self.layer_norm2 = nn.LayerNorm(TEXT_WIDTH, eps=shape.epsilon)

    def project(self, x_NTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the layer's input."""
        return self.self_attn.project(self.layer_norm1(x_NTC))

    def close(self, x_NTC: Tensor, seen: Tensor) -> Tensor:
        """Return the layer's output from its input and what attention saw, shape (N, heads, T, C / heads)."""
        x = x_NTC + self.self_attn.out_proj(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class TextEncoder(nn.Module):
    """CLIP's text network up to its last hidden state, in inference; tensors are named as in published files."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(shape.vocabulary, TEXT_WIDTH),
                "position_embedding": nn.Embedding(TEXT_TOKENS, TEXT_WIDTH),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(shape) for _ in range(shape.layers))})
        self.final_layer_norm = nn.LayerNorm(TEXT_WIDTH, eps=shape.epsilon)

    @property
    def layers(self) -> list[_Layer]:
        """Return the layers in their order."""
        blocks: Any = self.encoder["layers"]
        return list(blocks)

    def tokens(self, ids: Sequence[int]) -> Tensor:
        """Return token embeddings without positions, shape (T, C)."""
        table = self._table("token_embedding")
        return table[torch.tensor(list(ids), device=table.device)]

    def positions(self) -> Tensor:
        """Return the embeddings of places, shape (T, C)."""
        return self._table("position_embedding")

    def _table(self, name: str) -> Tensor:
        embedding: Any = self.embeddings[name]
        weight: Tensor = embedding.weight
        return weight

    def forward(self, tokens_NTC: Tensor) -> Tensor:
        """Return the last hidden state after the final norm, shape (N, T, C), of token embeddings without positions."""
        x = tokens_NTC + self.positions()[: tokens_NTC.shape[1]]
        for layer in self.layers:
            q, k, v = layer.project(x)
            x = layer.close(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        out: Tensor = self.final_layer_norm(x)
        return out


class IdentityPrompt:
    """A text with one place for an identity; everything about it that no identity changes is computed once."""

    def __init__(self, encoder: TextEncoder, ids: Sequence[int], place: int) -> None:
        """Compute what precedes the place in every layer, and the first layer's share of what follows.

        Args:
            encoder: with its weights.
            ids: the tokens, 77 of them.
            place: of the identity among them, from 0; its own token is not looked at.
        """
        self._encoder, self._place = encoder, place
        self._layers = encoder.layers
        tokens = encoder.tokens(ids)[None]
        # a text with any token at the place: causal attention keeps what precedes it from knowing
        self._before: list[tuple[Tensor, Tensor]] = []
        x = tokens + encoder.positions()
        self._common = x[:, place + 1 :]
        self._first = tuple(part[:, :, place + 1 :] for part in self._layers[0].project(x))
        before = x[:, :place]
        for layer in self._layers:
            q, k, v = layer.project(before)
            self._before.append((k, v))
            before = layer.close(before, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        self._head = encoder.final_layer_norm(before)
        length = len(ids)
        visible = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        self._mask = visible[place:]

    def encode(self, vectors_ND: Tensor) -> Tensor:
        """Return prompt embeddings of N identities, shape (N, T, C), in the encoder's precision.

        Row i depends on vector i alone.
        """
        rows = len(vectors_ND)
        place = self._place
        own = F.pad(vectors_ND, (0, TEXT_WIDTH - vectors_ND.shape[1]))[:, None] + self._encoder.positions()[place]
        x = torch.cat([own, self._common.expand(rows, -1, -1)], dim=1)
        for n, layer in enumerate(self._layers):
            if n == 0:
                alone = layer.project(own)
                q, k, v = (
                    torch.cat([mine, shared.expand(rows, -1, -1, -1)], dim=2)
                    for mine, shared in zip(alone, self._first, strict=True)
                )
            else:
                q, k, v = layer.project(x)
            k, v = (
                torch.cat([past.expand(rows, -1, -1, -1), mine], dim=2)
                for past, mine in zip(self._before[n], (k, v), strict=True)
            )
            x = layer.close(x, F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask))
        tail = self._encoder.final_layer_norm(x)
        return torch.cat([self._head.expand(rows, -1, -1), tail], dim=1)


def names_of(shape: TextShape) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of a published text encoder that is read."""
    with torch.device("meta"):
        state: dict[str, Any] = TextEncoder(shape).state_dict()
    return {PREFIX + name: tuple(tensor.shape) for name, tensor in state.items()}
