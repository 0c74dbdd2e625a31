"""Weights that a recipe names without a digest get the one they have here: a path or an address alone pins nothing.

It is done once, where a recipe is read. From there the digest goes to every worker, which refuses other bytes, and into
the dataset's own record; where the weights lay is then no part of the fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobs.wiring import models
from pipeline.domain.errors import ModelError
from pipeline.domain.weights import WeightsRef

FORMULA = "formula:"
"""Begins the address of weights that follow from the names of tensors: there is nothing to pin."""


def is_reference(value: Mapping[str, Any]) -> bool:
    """Return whether a part of a dumped recipe is a reference to weights."""
    return set(value) == set(WeightsRef.model_fields)


def pinned(raw: Mapping[str, Any], where: str, *, unfetched: bool = False) -> dict[str, Any]:
    """Return a recipe as JSON has it, with a digest for every reference to weights.

    Args:
        raw: the recipe, dumped.
        where: its name, for messages.
        unfetched: leave what is not on this machine as it is.

    Raises:
        ModelError: weights are not here; one line names the first of them, how to fetch it, and how many there are.
    """
    missing: list[str] = []

    def pin(path: str, ref: Mapping[str, Any]) -> dict[str, Any]:
        if ref["sha256"] is not None or str(ref["uri"]).startswith(FORMULA):
            return dict(ref)
        named = WeightsRef.model_validate(ref)
        try:
            models.require_commit(named)
            return {**ref, "sha256": models.weights().sha256(named)}
        except ModelError as error:
            missing.append(f"{path}: {error}")
            return dict(ref)

    out: dict[str, Any] = _walked(raw, "", pin)
    if missing and not unfetched:
        more = f" (and {len(missing) - 1} more; see facemint models list)" if len(missing) > 1 else ""
        raise ModelError(f"{where}: {missing[0]}{more}")
    return out


def _walked(value: Any, path: str, pin: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(value, Mapping):
        if is_reference(value):
            return pin(path, value)
        return {k: _walked(v, f"{path}.{k}" if path else str(k), pin) for k, v in value.items()}
    if isinstance(value, list):
        return [_walked(v, f"{path}.{n}", pin) for n, v in enumerate(value)]
    return value
