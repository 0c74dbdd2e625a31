"""What chance decides of one Vec2Face image, and how it follows from the noise row that the flow hands in.

A row holds `NOISE` standard normal numbers. The first gives the share of tokens that are masked (at the same quantile
of the truncated normal), the next 49 which ones (those with the smallest numbers), the other 512 the direction in which
the identity's vector is moved where `vector_sigma` asks for it. All is of the image's own key, so the image is the same
in any company; upstream draws one share per batch.

Legend: N rows, T feature tokens (49), K tokens that the encoder sees, D dimensions of an identity vector.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.domain.errors import BadVectorError, SpaceMismatchError
from pipeline.domain.recipe import Section
from pipeline.domain.records import Float32

Float64 = npt.NDArray[np.float64]
TOKENS = 49
DIMENSIONS = 512
NOISE = 1 + TOKENS + DIMENSIONS
"""Numbers in a noise row: one for the share, one per token, one per dimension."""
RAW_LENGTH = 21.9
"""Mean length of the vectors that Vec2Face was trained on."""
LEAST_LENGTH = 4.0
"""Vectors as short as that are of another norm convention: a unit vector gives a face, and nobody's."""


class MaskLaw(Section):
    """How many of an image's 49 feature tokens are masked: ceil(49 x rate), rate truncated normal, per image.

    Attributes:
        mean: of the normal that is truncated.
        std: of the same.
        low: least rate; as many tokens are dropped, so that the encoder never sees them.
        high: highest rate.
    """

    mean: Annotated[float, Field(ge=0, le=1)] = 0.15
    std: Annotated[float, Field(gt=0, le=10)] = 0.25
    low: Annotated[float, Field(ge=0, le=1)] = 0.1
    high: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> MaskLaw:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if not (self.mean - 8 * self.std < self.high and self.low < self.mean + 8 * self.std):
            raise ValueError(f"[{self.low:g}, {self.high:g}] lies over eight std from mean {self.mean:g}")
        return self

    @property
    def dropped(self) -> int:
        """Return how many tokens of every image the encoder does not see."""
        return math.ceil(TOKENS * self.low)

    def rates(self, normal_N: npt.ArrayLike) -> Float64:
        """Return the rates that standard normal numbers stand for: quantile for quantile."""
        from scipy.special import ndtr, ndtri

        below, above = ndtr((self.low - self.mean) / self.std), ndtr((self.high - self.mean) / self.std)
        share = ndtr(np.asarray(normal_N, np.float64))
        rates = self.mean + self.std * ndtri(below + share * (above - below))
        return np.asarray(np.clip(rates, self.low, self.high))

    def masked(self, normal_N: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return how many tokens are masked, for the same numbers; never fewer than are dropped."""
        return np.ceil(TOKENS * self.rates(normal_N)).astype(np.int64)


class TokenMasks(NamedTuple):
    """Which of each row's tokens are masked or dropped, as the network takes it.

    Attributes:
        masked_NT: bool, feature tokens that are replaced by the identity's; the dropped are among them.
        kept_NK: int64, rising indices among all T + 1 tokens of those that the encoder sees; the identity's is the
            first.
        source_NT: int64, (N, T + 1): for each token of the decoder the index of what fills it, among the K tokens that
            the encoder gave, and after them, at K, a pose condition.
    """

    masked_NT: npt.NDArray[np.bool_]
    kept_NK: npt.NDArray[np.int64]
    source_NT: npt.NDArray[np.int64]


def token_masks(
    token_NT: npt.NDArray[np.floating],
    masked_N: npt.NDArray[np.int64],
    dropped: int,
    posed_N: npt.NDArray[np.bool_] | None = None,
) -> TokenMasks:
    """Return the masks of N images.

    Args:
        token_NT: one number per feature token; those with the smallest are masked, the earlier of equals.
        masked_N: how many are masked.
        dropped: how many of these, again the smallest, the encoder does not see: as many in every row.
        posed_N: rows whose masked tokens are filled by a pose condition; the others are filled by the identity's token.
    """
    rows, tokens = token_NT.shape
    order = np.argsort(token_NT, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(tokens)[None, :].repeat(rows, axis=0), axis=1)
    masked = place < masked_N[:, None]
    kept = np.concatenate([np.ones((rows, 1), bool), place >= dropped], axis=1)
    kept_NK = np.nonzero(kept)[1].reshape(rows, tokens + 1 - dropped)
    seen_at = np.cumsum(kept, axis=1) - 1
    filler = np.zeros(rows, np.int64) if posed_N is None else np.where(posed_N, kept_NK.shape[1], 0)
    hidden = np.concatenate([np.zeros((rows, 1), bool), masked], axis=1)
    return TokenMasks(masked, kept_NK.astype(np.int64), np.where(hidden, filler[:, None], seen_at).astype(np.int64))


def moved(vectors_ND: npt.NDArray[np.floating], sigma_N: npt.ArrayLike, normal_ND: npt.ArrayLike) -> Float64:
    """Return vectors moved by normal noise of standard deviation sigma, rescaled to the lengths they had; float64.

    At a sigma of 0 a vector stays what it is, bit for bit. The cosine to the identity's own vector is nearly the same
    for every draw, 1 / sqrt(1 + D sigma^2 / length^2); where it has to be met exactly, ask for `vector_cos` instead.
    """
    own = np.asarray(vectors_ND, np.float64)
    sigma = np.asarray(sigma_N, np.float64)[:, None]
    away = own + sigma * np.asarray(normal_ND, np.float64)
    # the length is taken in the precision that the vectors came in, as upstream takes it
    length = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.where(sigma == 0, own, away * length / np.linalg.norm(away, axis=1, keepdims=True))


def require_raw(vectors_ND: Float32) -> None:
    """Refuse what the network would make a picture of although it means nobody.

    Raises:
        BadVectorError: a vector is not finite, or of other dimensions.
        SpaceMismatchError: a vector is as short as those of unit length are.
    """
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != DIMENSIONS:
        raise BadVectorError(f"identity vectors of shape {vectors_ND.shape}; Vec2Face takes (N, {DIMENSIONS})")
    lengths = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
    for row in np.flatnonzero(~np.isfinite(lengths)):
        raise BadVectorError(f"identity vectors: row {row} is not finite; nothing can be made of it")
    for row in np.flatnonzero(lengths < LEAST_LENGTH):
        raise SpaceMismatchError(
            f"identity vectors: row {row} has length {lengths[row]:.3g}; Vec2Face takes a recogniser's raw features, "
            f"about {RAW_LENGTH} long: give vectors that keep their length, or a map into its space"
        )


__all__ = [
    "DIMENSIONS",
    "NOISE",
    "RAW_LENGTH",
    "TOKENS",
    "MaskLaw",
    "TokenMasks",
    "moved",
    "require_raw",
    "token_masks",
]
