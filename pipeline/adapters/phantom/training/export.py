"""Writes the trained weights as half-precision safetensors with digests, and the model card that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.networks_readers import EMBEDDING_DIM
from pipeline.adapters.phantom.training.attributes import load_attributes
from pipeline.adapters.phantom.training.bank import CELLS, fit_bank
from pipeline.adapters.phantom.training.config import (
    AGED_DRAWS,
    BANK_DRAWS,
    FINISH_DRAWS,
    GENERATOR_DRAWS,
    ROLE_DRAWS,
    ROLES,
    Training,
)
from pipeline.adapters.phantom.training.finish import load_finished
from pipeline.adapters.phantom.training.flow import load_flow
from pipeline.adapters.phantom.training.recognition import load_recogniser

_COMMON = {"licence": "Apache-2.0", "source": "trained from nothing on rendered phantoms"}
_EPOCHS = {"generator": 5, "conditioning": 3, "judge": 2, "auditor": 2, "attributes": 4, "bank": 3}
_ARCHITECTURES = {
    "generator": "convolutional decoder (latents 14 x 14) and flow-matching transformer with adaptive norms",
    "conditioning": "residual net on logarithms of light, CosFace 0.35",
    "judge": "depthwise-separable net with global depthwise pooling, ArcFace 0.40",
    "auditor": "patch mixer (5 x 5 depthwise filters) on the inner 104 px with attention pooling, CosFace 0.30",
    "attributes": "residual net on colours and logarithms of light: nineteen values, how far off each may be, "
    "six probabilities, and five landmarks",
    "bank": "identity means with one Gaussian per cell",
}


def export(config: Training, folder: Path, only: Sequence[str] = ()) -> None:
    """Write every model's file and `card.json` (without figures: `measure` adds them).

    only: models to replace in weights that are there already; everything else in the folder stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = only or MODELS
    models = _recognisers(config, folder, [role for role in ROLES if role in wanted])
    models |= {name: write(config, folder) for name, write in _WRITERS.items() if name in wanted}
    for name, entry in models.items():
        entry |= {"role": name, "architecture": _ARCHITECTURES[name], "epoch": _EPOCHS[name], **_COMMON}
    content = loading.card() if only else {"models": {}, "figures": {}}
    write_card(folder, content | {"models": content["models"] | models})


def _recognisers(config: Training, folder: Path, roles: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        role: _write(folder, role, _state(load_recogniser(config, role))) | {
            "dimensions": EMBEDDING_DIM, "alignment": "phantom-112", "space": f"phantom-{role}",
            "draws": _draws(config, ROLE_DRAWS[role]),
        }
        for role in roles
    }  # fmt: skip


def _generator(config: Training, folder: Path) -> dict[str, Any]:
    decoder, flow = load_finished(config), load_flow(config)
    generator = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    generator |= {f"flow.{k}": v for k, v in flow.state_dict().items()}
    return _write(folder, "generator", generator) | {
        "latent_channels": config.latent_channels, "latent_side": flow.latent_side, "image_px": 112,
        "space": "phantom-conditioning", "sampler": dict(config.sampler),
        "draws": _draws(config, (*GENERATOR_DRAWS, *AGED_DRAWS, *FINISH_DRAWS)),
    }  # fmt: skip


def _attributes(config: Training, folder: Path) -> dict[str, Any]:
    written = _write(folder, "attributes", _state(load_attributes(config)))
    return written | {"draws": _draws(config, ROLE_DRAWS["attributes"])}


def _bank(config: Training, folder: Path) -> dict[str, Any]:
    arrays = fit_bank(config)
    save_arrays(arrays, folder / "bank.safetensors", metadata={"cells": json.dumps(CELLS)})
    return _entry(folder / "bank.safetensors", sum(a.size for a in arrays.values())) | {
        "space": "phantom-conditioning", "dimensions": EMBEDDING_DIM, "draws": _draws(config, BANK_DRAWS),
        "row_independent": True,
    }  # fmt: skip


_WRITERS = {"generator": _generator, "attributes": _attributes, "bank": _bank}
MODELS = tuple(_EPOCHS)
"""What can be exported alone."""


def write_card(folder: Path, content: dict[str, Any]) -> None:
    """Write `card.json` with sorted keys and forget the card that was read before."""
    (folder / "card.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    loading.card.cache_clear()


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def _write(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    path = folder / f"{name}.safetensors"
    halves = {key: value.detach().half().contiguous() for key, value in tensors.items()}
    save_file(halves, path)
    return _entry(path, sum(value.numel() for value in halves.values()))


def _entry(path: Path, params: int) -> dict[str, Any]:
    path.chmod(0o644)
    data = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "params": params}


def _draws(config: Training, names: tuple[str, ...]) -> dict[str, Any]:
    used = {name: config.draws[name] for name in names}
    return {
        "seed": config.seed,
        "draws": {n: {"number": d.number, "identities": d.identities, "pictures": d.pictures} for n, d in used.items()},
    }
