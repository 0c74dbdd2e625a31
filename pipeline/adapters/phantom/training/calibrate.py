"""Sets the thresholds of the shipped recognisers on draw H, which nothing was trained on, after a JPEG round trip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.training.augment import jpeg
from pipeline.adapters.phantom.training.config import ROLES, Training
from pipeline.adapters.phantom.training.draws import load_draws
from pipeline.adapters.phantom.training.recognition import embed
from pipeline.domain.calibrating import calibrate
from pipeline.domain.space import Space

TEMPLATE_SIZES = (3, 4)


def space_of(role: str) -> Space:
    """Return the embedding space of a shipped recogniser."""
    entry = loading.card()["models"][role]
    return Space(entry["space"], entry["sha256"], entry["alignment"], "unit", entry["dimensions"])


def calibrate_all(config: Training, folder: Path, only: Sequence[str] = ()) -> None:
    """Write `calibration.json`: role -> what `Calibration.from_dict` reads; with `only`, other roles stay."""
    drawn = load_draws(config, ("H",))
    stored = jpeg(drawn.faces_NHWC, 95)
    draw = config.draws["H"]
    source = f"{draw.identities} held-out rendered phantoms x {draw.pictures}, clean, JPEG 95"
    path = folder / "calibration.json"
    found = json.loads(path.read_text()) if only else {}
    for role in only or ROLES:
        emb_NE = embed(loading.load_recogniser(role), stored)
        found[role] = calibrate(space_of(role), source, emb_NE, drawn.owner_N, template_sizes=TEMPLATE_SIZES).to_dict()
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
