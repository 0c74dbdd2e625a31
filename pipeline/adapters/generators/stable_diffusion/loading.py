"""Networks with their weights, in the precision and memory layout that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.adapters.generators.stable_diffusion.attention import prepare_attention
from pipeline.adapters.generators.stable_diffusion.lora import merge_lora, update_names
from pipeline.adapters.generators.stable_diffusion.text import PREFIX, TextEncoder, names_of

if TYPE_CHECKING:
    from pipeline.adapters.generators.stable_diffusion.options import SamplingOptions
    from pipeline.domain.weights import Weights, WeightsRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def device() -> torch.device:
    """Return where networks run in this process: the accelerator that it sees, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def inference() -> Iterator[None]:
    """Compute without gradients; on an NVIDIA GPU float32 products stay float32, as they are on a CPU."""
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv) if torch.cuda.is_available() else ()
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "ieee"
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.fp32_precision = was


class Loader:
    """Builds the networks of one generator from its options."""

    def __init__(self, options: SamplingOptions, weights: Weights) -> None:
        """Take what to build, and who brings the weights."""
        self._options, self._weights = options, weights
        self.device, self.dtype = device(), DTYPES[options.precision]

    def unet(self, change: Callable[[Any], None] = lambda _: None) -> Any:
        """Return the UNet with prepared attention; `change` may alter its weights before they are cast."""
        from diffusers import UNet2DConditionModel

        options = self._options
        unet = self._network(UNet2DConditionModel, options.shapes.unet, options.unet)
        if options.lcm_lora is not None:
            # a published file names its own layers; made-up weights follow from names, and have to be told them
            names = update_names(unet, options.shapes.lora_rank) if options.config == "reduced" else None
            merge_lora(unet, self._weights.tensors(options.lcm_lora, names), options.lcm_lora.uri)
        change(unet)
        prepare_attention(unet)
        return self.placed(unet)

    def decoder(self) -> Any:
        """Return the network that turns latents into images: AutoencoderKL's half, or AutoencoderTiny's."""
        from diffusers import AutoencoderKL, AutoencoderTiny

        options = self._options
        if options.small_vae is not None:
            vae = self._network(AutoencoderTiny, options.shapes.small_vae, options.small_vae, drop=("encoder",))
        else:
            vae = self._network(AutoencoderKL, options.shapes.vae, options.vae, drop=("encoder", "quant_conv"))
        return self.placed(vae)

    def control(self, ref: WeightsRef) -> Any:
        """Return a ControlNet with prepared attention."""
        from diffusers import ControlNetModel

        control = self._network(ControlNetModel, self._options.shapes.control, ref)
        prepare_attention(control)
        return self.placed(control)

    def text(self, ref: WeightsRef) -> TextEncoder:
        """Return a text encoder; it stays in float32, as it runs once an image and costs little."""
        shape = self._options.shapes.text
        with torch.device("meta"):
            encoder = TextEncoder(shape)
        found = self._weights.tensors(ref, names_of(shape))
        encoder.load_state_dict({n.removeprefix(PREFIX): t.float() for n, t in found.items()}, assign=True)
        return encoder.requires_grad_(requires_grad=False).eval().to(self.device)

    def filled(self, network: nn.Module, ref: WeightsRef) -> nn.Module:
        """Return a network that was built on the meta device with its weights in float32, where it runs."""
        found = self._weights.tensors(ref, {n: tuple(t.shape) for n, t in network.state_dict().items()})
        network.load_state_dict({n: t.float() for n, t in found.items()}, assign=True)
        return network.requires_grad_(requires_grad=False).eval().to(self.device)

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any]:
        """Return name -> CPU tensor, as the port does."""
        return self._weights.tensors(ref, names)

    def placed(self, network: Any) -> Any:
        """Return a network in the recipe's precision and memory layout, compiled where it asks for that."""
        # the class of diffusers warns of a cast, which no layer of these networks minds
        network = nn.Module.to(network, self.device, self.dtype)
        if self._options.channels_last:
            network = nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as the recipe's `compile` says: compiled for fixed shapes, or as it is."""
        mode = {"none": None, "default": "default", "cuda-graphs": "reduce-overhead"}[self._options.compile]
        if mode is None:
            return call
        out: Callable[..., Any] = torch.compile(call, mode=mode, dynamic=False)
        return out

    def _network(self, kind: Any, shape: Mapping[str, Any], ref: WeightsRef, drop: tuple[str, ...] = ()) -> Any:
        with torch.device("meta"):
            network = kind(**shape)
        for part in drop:
            # weights that nothing here reads are neither asked for nor kept
            delattr(network, part)
        return self.filled(network, ref)
