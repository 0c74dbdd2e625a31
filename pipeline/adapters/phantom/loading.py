"""Loads the shipped phantom weights: stored in half precision, computed in float32, named by digest in the card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.adapters.phantom.networks import Decoder, FlowTransformer
from pipeline.adapters.phantom.networks_readers import RECOGNISERS, AttributeModel

WEIGHTS = Path(__file__).parent / "weights"
_Module = TypeVar("_Module", bound=nn.Module)


@lru_cache(maxsize=1)
def card() -> dict[str, Any]:
    """Return the parsed model card (`weights/card.json`)."""
    parsed: dict[str, Any] = json.loads((WEIGHTS / "card.json").read_text())
    return parsed


def calibration(role: str) -> dict[str, Any]:
    """Return what `Calibration.from_dict` takes, for `conditioning`, `judge` or `auditor`."""
    parsed: dict[str, Any] = json.loads((WEIGHTS / "calibration.json").read_text())[role]
    return parsed


def _tensors(name: str, part: str = "") -> dict[str, Tensor]:
    stored = load_file(WEIGHTS / card()["models"][name]["file"])
    return {key.removeprefix(part): value.float() for key, value in stored.items() if key.startswith(part)}


def _ready(model: _Module, tensors: dict[str, Tensor]) -> _Module:
    # Step counters of batch norms are not stored; everything else must match.
    missing, unknown = model.load_state_dict(tensors, strict=False)
    absent = [name for name in missing if not name.endswith("num_batches_tracked")]
    if absent or unknown:
        raise ValueError(f"weights do not fit {type(model).__name__}: missing {absent}, unknown {unknown}")
    model.eval().requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _bare(make: type[_Module], **options: Any) -> _Module:
    """Make a module without drawing initial weights (they are overwritten at once)."""
    with torch.device("meta"):
        model = make(**options)
    empty: _Module = model.to_empty(device="cpu")
    return empty


def load_flow() -> FlowTransformer:
    """Return the flow transformer, ready for inference."""
    tensors = _tensors("generator", "flow.")
    return _ready(_bare(FlowTransformer, latent_channels=card()["models"]["generator"]["latent_channels"]), tensors)


def load_decoder() -> Decoder:
    """Return the decoder of standardised latents, ready for inference."""
    tensors = _tensors("generator", "decoder.")
    return _ready(_bare(Decoder, latent_channels=card()["models"]["generator"]["latent_channels"]), tensors)


def load_recogniser(role: str) -> nn.Module:
    """Return the recogniser with the role `conditioning`, `judge` or `auditor`."""
    if role not in RECOGNISERS:
        raise ValueError(f"role {role!r} is unknown; there are {', '.join(RECOGNISERS)}")
    return _ready(_bare(RECOGNISERS[role]), _tensors(role))


def load_attributes() -> AttributeModel:
    """Return the attribute and quality model."""
    return _ready(_bare(AttributeModel), _tensors("attributes"))


@dataclass(frozen=True, eq=False)
class Bank:
    """Identity means in the conditioning space with the Gaussians fitted to them.

    A new identity of cell c is `mean_CD[c] + factor_CDD[c] @ z`, z standard normal (D,), scaled to unit length. Index 0
    is the whole population, the others are `cells`.
    """

    means_ND: npt.NDArray[np.float32]
    """float32 unit vectors, one per phantom of the training draw."""
    cell_N: npt.NDArray[np.int64]
    """Index into `cells` of each phantom."""
    cells: tuple[str, ...]
    """`all`, then presentation/tone group: `feminine/light`..."""
    mean_CD: npt.NDArray[np.float32]
    factor_CDD: npt.NDArray[np.float32]


def load_bank() -> Bank:
    """Return the bank."""
    path = WEIGHTS / card()["models"]["bank"]["file"]
    with safe_open(path, framework="np") as file:
        cells = tuple(json.loads(file.metadata()["cells"]))
        means, cell = file.get_tensor("means_ND"), file.get_tensor("cell_N")
        mean, factor = file.get_tensor("mean_CD"), file.get_tensor("factor_CDD")
    means = means.astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return Bank(means, cell.astype(np.int64), cells, mean.astype(np.float32), factor.astype(np.float32))
