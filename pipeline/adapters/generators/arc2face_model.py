"""The networks of Arc2Face around one UNet: what is said of identities, heads and expressions, prepared for a batch."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.adapters.generators.arc2face import IDENTITY_PLACE, NEGATIVE, PROMPT
from pipeline.adapters.generators.stable_diffusion.attention import (
    ImagePrompt,
    LinearTokens,
    Pair,
    VectorTokens,
    channels_of,
    joined,
    numbers,
    prepared_prompt,
    prepared_text,
    repeated,
)
from pipeline.adapters.generators.stable_diffusion.expression import EXPRESSION_DIMENSIONS
from pipeline.adapters.generators.stable_diffusion.loading import Loader, inference
from pipeline.adapters.generators.stable_diffusion.sampling import Control, Sampler, require_equal_rows
from pipeline.adapters.generators.stable_diffusion.text import IdentityPrompt

if TYPE_CHECKING:
    from pipeline.adapters.generators.arc2face import Arc2FaceOptions
    from pipeline.domain.records import Float32, UInt8
    from pipeline.domain.weights import Weights


class Model:
    """Arc2Face's networks, loaded."""

    def __init__(self, options: Arc2FaceOptions, weights: Weights) -> None:
        """Load them; what no identity changes is computed here."""
        self._options = options
        self._proven = {1}
        loader = Loader(options, weights)
        self.sampler = Sampler(options, loader, loader.unet())
        with inference():
            encoder = loader.text(options.encoder)
            self.prompt = IdentityPrompt(encoder, PROMPT, IDENTITY_PLACE)
            self.negative_1TC = encoder(encoder.tokens(NEGATIVE)[None])
        self._control = loader.control(options.controlnet) if options.controlnet is not None else None
        self._expression = self._load_expression(loader)

    def images(
        self,
        vectors_ND: Float32,
        guidance_N: Float32 | None,
        noise_NCHW: Float32,
        heads: tuple[Float32, Float32] | None = None,
        expressions: tuple[Float32, Float32] | None = None,
    ) -> UInt8:
        """Return faces_NHWC.

        Args:
            vectors_ND: unit vectors.
            guidance_N: scale per row; None runs without guidance.
            noise_NCHW: the noise of each row.
            heads: pictures (N, 3, frame, frame) for the ControlNet, and which rows have one (N,).
            expressions: vectors (N, 55) for the adapter, and which rows have one (N,).
        """
        with inference():
            guided = guidance_N is not None
            vectors = self._tensor(vectors_ND)
            text = self.encoded(vectors)
            if len(vectors) not in self._proven:
                self._proven.add(len(vectors))
                require_equal_rows(text, self.encoded(vectors.flip(0)).flip(0))
            told = self.told(text, guided=guided, expressions=expressions)
            control = None if heads is None else self._controlled(text, heads, guided=guided)
            scale = None if guidance_N is None else self._tensor(guidance_N)
            return self.sampler.images(told, scale, self._tensor(noise_NCHW), control)

    def encoded(self, vectors_ND: Tensor) -> Tensor:
        """Return the text of each identity, float32, shape (N, 77, 768)."""
        return self.prompt.encode(vectors_ND)

    def told(
        self, text_NTC: Tensor, *, guided: bool, expressions: tuple[Float32, Float32] | None = None
    ) -> dict[str, tuple[Pair, ...]]:
        """Return what the UNet attends to, K rows, in its precision."""
        unet, rows = self.sampler.unet, len(text_NTC)
        pairs = prepared_text(unet, text_NTC.to(self.sampler.dtype))
        out: dict[str, tuple[Pair, ...]]
        out = {n: (joined(repeated(self._negative[n], rows), p) if guided else p,) for n, p in pairs.items()}
        if expressions is None or self._expression is None:
            return out
        asked, given = (self._tensor(part) for part in expressions)
        scale = given * self._options.expression_scale
        if guided:
            # guidance moves away from the adapter's answer to zeros
            asked, scale = torch.cat([torch.zeros_like(asked), asked]), torch.cat([scale, scale])
        added = prepared_prompt(unet, self._expression, asked.to(self.sampler.dtype), scale)
        return {name: (*parts, added[name]) for name, parts in out.items()}

    @cached_property
    def _negative(self) -> dict[str, Pair]:
        return prepared_text(self.sampler.unet, self.negative_1TC.to(self.sampler.dtype))

    @cached_property
    def _control_negative(self) -> dict[str, Pair]:
        return prepared_text(self._control, self.negative_1TC.to(self.sampler.dtype))

    def _controlled(self, text_NTC: Tensor, heads: tuple[Float32, Float32], *, guided: bool) -> Control:
        pictures, given = (self._tensor(part) for part in heads)
        scale, rows = given * self._options.controlnet_scale, len(text_NTC)
        pairs = prepared_text(self._control, text_NTC.to(self.sampler.dtype))
        if guided:
            negative = self._control_negative
            pairs = {name: joined(repeated(negative[name], rows), pair) for name, pair in pairs.items()}
            pictures, scale = torch.cat([pictures, pictures]), torch.cat([scale, scale])
        return Control(self._control, {name: (pair,) for name, pair in pairs.items()}, pictures, scale)

    def _load_expression(self, loader: Loader) -> ImagePrompt | None:
        options = self._options
        if options.expression_adapter is None:
            return None
        tokens = VectorTokens if options.expression_layout == "two-layers" else LinearTokens
        unet = self.sampler.unet
        with torch.device("meta"):
            empty = ImagePrompt(channels_of(unet), tokens(EXPRESSION_DIMENSIONS), numbers(unet))
        filled: Any = loader.filled(empty, options.expression_adapter)
        return filled.to(loader.dtype)  # type: ignore[no-any-return]

    def _tensor(self, array: Float32) -> Tensor:
        return torch.from_numpy(array).to(self.sampler.device)
