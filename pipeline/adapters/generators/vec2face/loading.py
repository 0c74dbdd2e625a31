"""Networks of Vec2Face with their weights: LoRA merged, in the precision and memory layout of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from pipeline.adapters.generators.vec2face.network import PUBLISHED, Shape, Vec2FaceNetwork
from pipeline.adapters.generators.vec2face.pose import CHANNELS, PoseModel

if TYPE_CHECKING:
    from pipeline.domain.weights import Weights, WeightsRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REDUCED = Shape(
    width=96, encoder_blocks=2, encoder_heads=4, decoder_blocks=2, decoder_heads=6, picture_channels=32,
    picture_latent=64,
)  # fmt: skip
SHAPES = {"published": PUBLISHED, "reduced": REDUCED}
POSE_CHANNELS = {"published": CHANNELS, "reduced": (8, 16, 24, 32)}
_Network = TypeVar("_Network", bound=nn.Module)


def device() -> torch.device:
    """Return where networks run in this process: the accelerator that it sees, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_network(
    weights: Weights,
    ref: WeightsRef,
    config: str,
    lora: tuple[int, float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Vec2FaceNetwork:
    """Return the network with its weights on the CPU, ready for inference.

    Args:
        weights: who brings them.
        ref: the checkpoint.
        config: `published` or `reduced`.
        lora: rank and alpha of the LoRA that the checkpoint has on every attention layer; None where it has none.
        dtype: of the weights.

    Raises:
        ModelError: the weights are missing, altered or of another network.
    """
    with torch.device("meta"):
        network = Vec2FaceNetwork(SHAPES[config])
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if lora is None:
        return _filled(network, weights.tensors(ref, shapes), dtype)
    rank, alpha = lora
    return _filled(network, merged(weights.tensors(ref, lora_shapes(shapes, rank)), alpha / rank), dtype)


def load_pose(weights: Weights, ref: WeightsRef, config: str) -> PoseModel:
    """Return the pose model with its weights, float32 on the CPU; raises ModelError as `load_network` does."""
    with torch.device("meta"):
        network = PoseModel(SHAPES[config].width, POSE_CHANNELS[config])
    return _filled(
        network, weights.tensors(ref, {n: tuple(v.shape) for n, v in network.state_dict().items()}), torch.float32
    )


def lora_shapes(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of a checkpoint with LoRA, from that of the network without."""
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        if not layer.endswith(("attn.qkv", "attn.proj")):
            out[name] = shape
            continue
        out[f"{layer}.base.{leaf}"] = shape
        if leaf == "weight":
            out |= {f"{layer}.A": (rank, shape[1]), f"{layer}.B": (shape[0], rank)}
    return out


def merged(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the weights of the network without LoRA that computes the same: base + scale B A, rounded once."""
    out = {}
    for name, value in tensors.items():
        layer, is_base, leaf = name.rpartition(".base.")
        if name.rpartition(".")[2] in ("A", "B"):
            continue
        if not is_base:
            out[name] = value
        elif leaf == "weight":
            up, down = tensors[f"{layer}.B"].double(), tensors[f"{layer}.A"].double()
            out[f"{layer}.weight"] = (value.double() + scale * (up @ down)).to(value.dtype)
        else:
            out[f"{layer}.{leaf}"] = value
    return out


def placed(network: _Network, where: torch.device, dtype: torch.dtype) -> _Network:
    """Return a network on its device, in its precision, with channels last in memory."""
    return network.to(where, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _filled(network: _Network, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> _Network:
    network.load_state_dict({name: value.to(dtype) for name, value in tensors.items()}, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


__all__ = ["DTYPES", "REDUCED", "SHAPES", "device", "load_network", "load_pose", "lora_shapes", "merged", "placed"]
