"""What ships with the phantom world, without loading it: cards, spaces, calibrations, measured facts.

Light on purpose: a recipe is checked and a dataset planned without torch. Weights load, once per process and after
their digest was compared with the card, when something first computes with them.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import StoreError
from pipeline.domain.ports import ModelCard
from pipeline.domain.space import Space

WEIGHTS = Path(__file__).parent / "weights"
ALIGNMENT = "phantom-112"


@lru_cache(maxsize=1)
def facts() -> dict[str, Any]:
    """Return the parsed model card, `weights/card.json`."""
    return _json("card.json")


def model_facts(name: str) -> dict[str, Any]:
    """Return the card's entry of one model: generator, conditioning, judge, auditor, attributes or bank."""
    entry: dict[str, Any] = facts()["models"][name]
    return entry


def model_card(name: str) -> ModelCard:
    """Return a model's card."""
    entry = model_facts(name)
    return ModelCard(
        name=f"phantom-{name}",
        sha256=entry["sha256"],
        licence=entry["licence"],
        source=entry["source"],
        commercial_use=True,
        row_independent=bool(entry["row_independent"]),
        epoch=int(entry["epoch"]),
    )


def phantom_space(role: str) -> Space:
    """Return the space of one of the recognisers: conditioning, judge or auditor."""
    entry = model_facts(role)
    return Space(f"phantom-{role}", entry["sha256"], ALIGNMENT, "unit", int(entry["dimensions"]))


def load_calibration(role: str) -> Calibration:
    """Return a recogniser's calibration, measured on rendered identities that nothing was trained on."""
    return Calibration.from_dict(_json("calibration.json")[role])


def check_digest(name: str) -> None:
    """Raise StoreError unless a model's weights are those that its card names."""
    entry = model_facts(name)
    path = WEIGHTS / entry["file"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != entry["sha256"]:
        raise StoreError(
            f"{path}: SHA-256 {found[:12]}... instead of its card's {entry['sha256'][:12]}...; reinstall facemint"
        )


def _json(name: str) -> dict[str, Any]:
    path = WEIGHTS / name
    try:
        parsed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; reinstall facemint, or make the weights with `make phantom`") from None
    return parsed
