"""Calibration files that recipes name: their content takes the place of their path where the recipe is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.wiring.named_files import read_named
from pipeline.domain.errors import RecipeError


def resolve_calibrations(raw: Any, where: str) -> None:
    """Put, into a recipe as it was read, the content of the calibration files that its recognisers name.

    Raises:
        RecipeError: a file is missing or no calibration.
    """
    for path in (("judge",), ("auditor",), ("leakage", "screening")):
        node = raw
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get("calibration"), str):
            node["calibration"] = _resolved(node["calibration"], f"{where}: {'.'.join(path)}.calibration")


def _resolved(path: str, where: str) -> dict[str, Any]:
    from pipeline.domain.calibration_file import calibration_of, digest_of

    content = read_named(path, where, "calibrate")
    if not isinstance(content, dict):
        raise RecipeError(f"{where}: {path} holds no calibration; name a file of facemint calibrate")
    calibration_of(content, f"{where}: {path}")
    return {"file": Path(path).name, "sha256": digest_of(content), "content": content}
