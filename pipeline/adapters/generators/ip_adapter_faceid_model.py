"""The networks of IP-Adapter-FaceID around one UNet: two texts, prepared once, and identities, prepared for a batch."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.adapters.generators.stable_diffusion.attention import (
    ImagePrompt,
    Pair,
    VectorTokens,
    attention_layers,
    channels_of,
    joined,
    numbers,
    prepared_prompt,
    prepared_text,
    repeated,
)
from pipeline.adapters.generators.stable_diffusion.configs import ID_DIMENSIONS
from pipeline.adapters.generators.stable_diffusion.loading import Loader, inference
from pipeline.adapters.generators.stable_diffusion.lora import add_update
from pipeline.adapters.generators.stable_diffusion.sampling import Sampler

if TYPE_CHECKING:
    from pipeline.adapters.generators.ip_adapter_faceid import IpAdapterFaceIdOptions
    from pipeline.domain.records import Float32, UInt8
    from pipeline.domain.weights import Weights

_UPDATED = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}


class Model:
    """IP-Adapter-FaceID's networks, loaded."""

    def __init__(self, options: IpAdapterFaceIdOptions, weights: Weights) -> None:
        """Load them; what no identity changes is computed here."""
        self._options = options
        loader = Loader(options, weights)
        unet = loader.unet(lambda network: self._merge(network, loader))
        self.sampler = Sampler(options, loader, unet)
        with torch.device("meta"):
            empty = ImagePrompt(channels_of(unet), VectorTokens(ID_DIMENSIONS), numbers(unet))
        prompt: Any = loader.filled(empty, options.adapter)
        self._prompt: ImagePrompt = prompt.to(loader.dtype)
        with inference():
            encoder = loader.text(options.text_encoder)
            self.texts_2TC = encoder(torch.stack([encoder.tokens(ids) for ids in options.prompts]))

    def images(self, vectors_ND: Float32, guidance_N: Float32 | None, noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC of unit vectors, a scale per row (None runs without guidance) and the noise of each row."""
        with inference():
            told = self.told(self._tensor(vectors_ND), guided=guidance_N is not None)
            scale = None if guidance_N is None else self._tensor(guidance_N)
            return self.sampler.images(told, scale, self._tensor(noise_NCHW))

    def told(self, vectors_ND: Tensor, *, guided: bool) -> dict[str, tuple[Pair, ...]]:
        """Return what the UNet attends to, K rows, in its precision: the text, and the identity beside it."""
        rows, vectors = len(vectors_ND), vectors_ND.to(self.sampler.dtype)
        if guided:
            vectors = torch.cat([torch.zeros_like(vectors), vectors])
        scale = torch.full((len(vectors),), self._options.adapter_scale, device=vectors.device)
        added = prepared_prompt(self.sampler.unet, self._prompt, vectors, scale)
        out: dict[str, tuple[Pair, ...]] = {}
        for name, (key, value) in self._texts.items():
            text, negative = (repeated((key[n : n + 1], value[n : n + 1]), rows) for n in (0, 1))
            out[name] = (joined(negative, text) if guided else text, added[name])
        return out

    @cached_property
    def _texts(self) -> dict[str, Pair]:
        return prepared_text(self.sampler.unet, self.texts_2TC.to(self.sampler.dtype))

    def _merge(self, unet: Any, loader: Loader) -> None:
        """Add the updates that come with the adapter to every attention layer."""
        rank, ref = self._options.shapes.lora_rank, self._options.adapter
        names: dict[str, tuple[int, ...]] = {}
        places: list[tuple[str, Any]] = []
        for number, layer in enumerate(attention_layers(unet).values()):
            for part, where in _UPDATED.items():
                linear = layer.get_submodule(where)
                stem = f"ip_adapter.{number}.{part}_lora"
                names[f"{stem}.down.weight"] = (rank, linear.in_features)
                names[f"{stem}.up.weight"] = (linear.out_features, rank)
                places.append((stem, linear))
        found = loader.tensors(ref, names)
        for stem, linear in places:
            add_update(linear, found[f"{stem}.down.weight"], found[f"{stem}.up.weight"], ref.uri)

    def _tensor(self, array: Float32) -> Tensor:
        return torch.from_numpy(array).to(self.sampler.device)
