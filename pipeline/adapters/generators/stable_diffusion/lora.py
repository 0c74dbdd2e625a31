"""Low-rank updates merged into a network's own weights when it loads: no cost per step, and no library for it.

W becomes W + scale * alpha / rank * (up @ down). Source: E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language
Models", ICLR 2022.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.domain.errors import ModelError

_KOHYA = re.compile(r"^lora_unet_(?P<module>.+)\.(?P<part>lora_down\.weight|lora_up\.weight|alpha)$")
_DIFFUSERS = re.compile(r"^unet\.(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)$")
_PARTS = {"lora_down.weight": "down", "lora_A.weight": "down", "lora_up.weight": "up", "lora_B.weight": "up"}


def merge_lora(network: Any, tensors: Mapping[str, Tensor], what: str, scale: float = 1.0) -> None:
    """Add every update of a file to the layers that it names.

    Args:
        network: a UNet with its weights.
        tensors: of the file, named as kohya's tools do (`lora_unet_down_blocks_0_...lora_up.weight`) or as diffusers
            does (`unet.down_blocks.0...lora_B.weight`).
        what: how messages name the file.
        scale: by which every update is multiplied.

    Raises:
        ModelError: the file names a layer that the network has not, lacks half of an update, or is no LoRA.
    """
    layers = dict(network.named_modules())
    flat = {name.replace(".", "_"): name for name in layers}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _KOHYA.match(name) or _DIFFUSERS.match(name)
        module = match and flat.get(match["module"].replace(".", "_"))
        if match is None or module is None:
            raise ModelError(f"{what}: {name} names no layer of this network; give a LoRA of Stable Diffusion 1.5")
        found.setdefault(module, {})[_PARTS.get(match["part"], "alpha")] = tensor
    if not found:
        raise ModelError(f"{what}: holds no update; give a LoRA of Stable Diffusion 1.5")
    for module, parts in found.items():
        if not {"down", "up"} <= parts.keys():
            raise ModelError(f"{what}: the update of {module} lacks its other half; fetch the file again")
        rank = parts["down"].shape[0]
        strength = scale * float(parts.get("alpha", torch.tensor(rank))) / rank
        add_update(layers[module], parts["down"], parts["up"], what, strength)


def update_names(network: Any, rank: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of a small LoRA of the attention, for weights that have to be asked for by name."""
    out: dict[str, tuple[int, ...]] = {}
    for name, layer in network.named_modules():
        if name.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            stem = f"lora_unet_{name.replace('.', '_')}"
            out[f"{stem}.lora_down.weight"] = rank, layer.in_features
            out[f"{stem}.lora_up.weight"] = layer.out_features, rank
    return out


def add_update(layer: Any, down: Tensor, up: Tensor, what: str, strength: float = 1.0) -> None:
    """Add one update to a linear or convolutional layer, in float32, whatever precision it is kept in.

    Raises:
        ModelError: its shape is not that of the layer.
    """
    weight = layer.weight
    change = (up.float().flatten(1) @ down.float().flatten(1)) * strength
    if change.numel() != weight.numel():
        raise ModelError(f"{what}: an update of shape {tuple(change.shape)} for a layer of {tuple(weight.shape)}")
    with torch.no_grad():
        summed = weight.float() + change.reshape(weight.shape).to(weight.device)
        layer.weight = torch.nn.Parameter(summed.to(weight.dtype), requires_grad=False)
