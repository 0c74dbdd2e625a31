"""The transformer of Vec2Face and Vec2Face+: identity vectors and token masks in, 112 x 112 RGB pictures out.

Wu et al., "Vec2Face: Scaling Face Dataset Generation with Loosely Constrained Vectors" (ICLR 2025), and "Vec2Face+ for
Face Dataset Generation" (arXiv 2507.17192); written from the papers and from recorded outputs. Attributes are named as
in the published checkpoints. What these hold and no output depends on (`center_token`, `patch_embed`) is not built.

Legend: N rows, T feature tokens (49), K tokens that the encoder sees, W width; token 0 is the identity's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.generators.vec2face.pictures import PictureDecoder

NORM_EPS = 1e-6
CPU_ROWS = 4


class Shape(NamedTuple):
    """The sizes that make a network; `PUBLISHED` are those of the checkpoints, others are for tests and rehearsals."""

    width: int = 768
    encoder_blocks: int = 12
    encoder_heads: int = 12
    decoder_blocks: int = 8
    decoder_heads: int = 16
    vector: int = 512
    grid: int = 7
    """Feature tokens are `grid` x `grid` places of the picture; the picture decoder doubles them four times."""
    picture_channels: int = 128
    """Channels of the picture decoder at full size; deeper levels have 1, 2, 2 and 4 times as many."""
    picture_latent: int = 256

    @property
    def tokens(self) -> int:
        """Return how many feature tokens there are."""
        return self.grid * self.grid


PUBLISHED = Shape()


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        """Make the projections."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_NKW: Tensor) -> Tensor:
        """Return the attended tokens, (N, K, W)."""
        rows, tokens, width = x_NKW.shape
        parts = self.qkv(x_NKW).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, tokens, width))
        return out


class Mlp(nn.Module):
    """Two layers with the exact (erf) GELU between them."""

    def __init__(self, width: int) -> None:
        """Make the layers, four times as wide inside."""
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_NKW: Tensor) -> Tensor:
        """Return the tokens, each changed by itself."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x_NKW)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        """Make attention, MLP and the norms before them."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, x_NKW: Tensor) -> Tensor:
        """Return the tokens after attention and MLP, each added to what came in."""
        x_NKW = x_NKW + self.attn(self.norm1(x_NKW))
        out: Tensor = x_NKW + self.mlp(self.norm2(x_NKW))
        return out


class TokenEmbedding(nn.Module):
    """Learned positions and a norm."""

    def __init__(self, tokens: int, width: int) -> None:
        """Make one position per token, that of the identity included."""
        super().__init__()
        self.position_embeddings = nn.Embedding(tokens + 1, width)
        self.LayerNorm = nn.LayerNorm(width, NORM_EPS)

    def forward(self, x_NTW: Tensor) -> Tensor:
        """Return the tokens with their positions, normalised."""
        out: Tensor = self.LayerNorm(x_NTW + self.position_embeddings.weight)
        return out


class Masks(NamedTuple):
    """Which feature tokens of each row are masked, and which of these the encoder does not see.

    Attributes:
        masked_NT: bool; masked tokens are replaced by the identity's.
        kept_NK: int64 indices among all tokens, 0 and rising, of what the encoder sees; as many in every row.
        source_NT: int64 index, for each of the tokens 0..T of the decoder, into what the encoder gave: of a masked one
            0, or K where a pose condition fills in.
        posed_N: bool; rows with a pose condition, whose tokens the decoder takes as the encoder gave them.
    """

    masked_NT: Tensor
    kept_NK: Tensor
    source_NT: Tensor
    posed_N: Tensor

    def to(self, device: torch.device) -> Masks:
        """Return the masks on another device."""
        return Masks(*(part.to(device, non_blocking=True) for part in self))

    def rows(self, rows: Sequence[int]) -> Masks:
        """Return the masks of some rows."""
        return Masks(*(part[list(rows)] for part in self))


class Vec2FaceNetwork(nn.Module):
    """Turns identity vectors into pictures; LoRA, where a checkpoint has it, is merged into the weights before."""

    def __init__(self, shape: Shape = PUBLISHED) -> None:
        """Make the layers."""
        super().__init__()
        width, tokens = shape.width, shape.tokens
        self.shape = shape
        self.latent_prior_proj_f = nn.Linear(shape.vector, width)
        self.feature_token = nn.Linear(1, tokens)
        self.token_emb = TokenEmbedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, shape.encoder_heads) for _ in range(shape.encoder_blocks))
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.decoder_embed = nn.Linear(width, width)
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.decoder_blocks = nn.ModuleList(Block(width, shape.decoder_heads) for _ in range(shape.decoder_blocks))
        self.decoder_norm = nn.LayerNorm(width, NORM_EPS)
        self.im_decoder_proj = nn.Linear(width, shape.picture_latent)
        self.im_decoder = PictureDecoder(shape.picture_latent, shape.picture_channels)

    def forward(self, vectors_ND: Tensor, masks: Masks, pose_N1W: Tensor | None = None) -> Tensor:
        """Return pictures_NCHW, RGB, nominally in -1..1 and not clipped.

        Args:
            vectors_ND: raw identity vectors.
            masks: of these rows.
            pose_N1W: what the pose model says of each row's landmark picture (Vec2Face+); of rows without a pose it
                does not matter.
        """
        encoded = self.encode(vectors_ND, masks)
        return self.pictures(self.decode(encoded, masks, pose_N1W))

    def encode(self, vectors_ND: Tensor, masks: Masks) -> Tensor:
        """Return the encoder's tokens, (N, K, W): the identity's first, then those kept."""
        own_N1W = self.latent_prior_proj_f(vectors_ND).unsqueeze(1)
        spread = own_N1W.transpose(1, 2) * self.feature_token.weight[:, 0] + self.feature_token.bias
        features = torch.where(masks.masked_NT.unsqueeze(-1), own_N1W, spread.transpose(1, 2))
        tokens = self.token_emb(torch.cat([own_N1W, features], dim=1))
        x_NKW = _taken(tokens, masks.kept_NK)
        for block in self.blocks:
            x_NKW = block(x_NKW)
        out: Tensor = self.norm(x_NKW)
        return out

    def decode(self, encoded_NKW: Tensor, masks: Masks, pose_N1W: Tensor | None = None) -> Tensor:
        """Return the decoder's tokens, (N, T + 1, W); masked places are filled before it."""
        known = self.decoder_embed(encoded_NKW)
        if pose_N1W is not None:
            known = torch.where(masks.posed_N[:, None, None], encoded_NKW, known)
            known = torch.cat([known, pose_N1W], dim=1)
        x_NTW = _taken(known, masks.source_NT) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            x_NTW = block(x_NTW)
        out: Tensor = self.decoder_norm(x_NTW)
        return out

    def pictures(self, decoded_NTW: Tensor) -> Tensor:
        """Return pictures_NCHW of the decoder's tokens."""
        grid = self.shape.grid
        latent = self.im_decoder_proj(decoded_NTW[:, 1:])
        # rows of tokens are rows of the picture; the channels stay last in memory, as convolutions like it
        latent_NCHW = latent.view(len(latent), grid, grid, -1).permute(0, 3, 1, 2)
        if latent_NCHW.device.type == "cuda":
            out: Tensor = self.im_decoder(latent_NCHW)
            return out
        # a CPU's cache holds the layers of a few pictures: more at once are slower
        return torch.cat([self.im_decoder(part) for part in latent_NCHW.split(CPU_ROWS)])


def _taken(tokens_NTW: Tensor, places_NK: Tensor) -> Tensor:
    """Return of each row the tokens at its places, (N, K, W)."""
    return tokens_NTW.gather(1, places_NK.unsqueeze(-1).expand(-1, -1, tokens_NTW.shape[2]))
