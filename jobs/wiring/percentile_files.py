"""Percentile files that recipes name: read where the recipe is, and held against the measure that they are given to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from jobs.wiring import models
from jobs.wiring.named_files import read_named
from pipeline.domain.errors import RecipeError
from pipeline.domain.percentiles import CHANGES_NO_SCORE, Percentiles, settling_options
from pipeline.domain.recipe import MeasureNode

ANEW = "make them with facemint quantiles"


def resolve_percentiles(raw: Any, where: str) -> None:
    """Put, into a recipe as it was read, the content of the percentile files that its measures name.

    Raises:
        RecipeError: a file is missing, or holds no percentiles.
    """
    nodes = raw.get("measures") if isinstance(raw, dict) else None
    for number, node in enumerate(nodes if isinstance(nodes, list) else []):
        resolve_of(node, f"{where}: measures.{number}.percentiles")


def resolve_of(node: Any, where: str) -> None:
    """Do as `resolve_percentiles` does, for one measure; `where` is what messages begin with."""
    if isinstance(node, dict) and isinstance(node.get("percentiles"), str):
        node["percentiles"] = _content(node["percentiles"], where).model_dump(mode="json")


def without_percentiles(nodes: Any) -> Any:
    """Return a recipe's measures, as they were read, without percentiles: what is rehearsed has another model."""
    if not isinstance(nodes, list):
        return nodes
    return [{k: v for k, v in n.items() if k != "percentiles"} if isinstance(n, Mapping) else n for n in nodes]


def ranked(part: Any, node: MeasureNode) -> Any:
    """Return a measure with percentiles beside its scores, where its options name some; otherwise itself.

    Raises:
        RecipeError: they are of another model, of other options or crops, or of scores that it does not give.
    """
    from pipeline.adapters.measures.percentile import Ranked

    held = node.percentiles
    if held is None:
        return part
    if why := _misfit(part, node, held):
        raise RecipeError(f"measure {node.use}: its percentiles are of {why}; {ANEW} {node.use} SOURCE --out FILE")
    return Ranked(part, held.quantiles, held.among, alignment=held.model.alignment)


def _misfit(part: Any, node: MeasureNode, held: Percentiles) -> str:
    """Return what percentiles are of, where that is not this measure; empty where they fit."""
    theirs, card = held.model, part.card
    if theirs.use != node.use:
        return f"the measure {theirs.use}"
    if theirs.sha256 != card.sha256 and not _unknown(node):
        return f"other weights or code (sha256 {theirs.sha256[:12]}... where this is {card.sha256[:12]}...)"
    if theirs.epoch != card.epoch:
        return f"its epoch {theirs.epoch} where this is epoch {card.epoch}"
    mine, other = settling_options(node), {**_defaults(node), **theirs.options}
    for name in sorted(mine.keys() | other.keys()):
        if mine.get(name) != other.get(name):
            return f"{name} {other.get(name)} where the recipe says {mine.get(name)}"
    reads = getattr(part, "alignment", None)
    if reads not in (None, theirs.alignment):
        return f"faces aligned to {theirs.alignment!r} where it reads {reads!r}"
    if lacking := sorted(set(held.quantiles) - set(part.names)):
        return f"{lacking[0]!r}, which it does not give (it gives {', '.join(part.names)})"
    return ""


def _defaults(node: MeasureNode) -> dict[str, Any]:
    """Return what a measure's options were, JSON-ready, where a file does not state them: it is older than they are."""
    fields = {k: f for k, f in type(node).model_fields.items() if not f.is_required() and k not in CHANGES_NO_SCORE}
    return {k: to_jsonable_python(f.get_default(call_default_factory=True)) for k, f in fields.items()}


def _unknown(node: MeasureNode) -> bool:
    """Return whether the weights of a measure are not here, where a plan is made that does without them."""
    missing: Mapping[str, str] = getattr(models.weights(), "missing", {})
    return getattr(getattr(node, "weights", None), "uri", None) in missing


def _content(path: str, where: str) -> Percentiles:
    try:
        return Percentiles.model_validate(read_named(path, where, "quantiles"))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"]) or "the whole"
        why = problem["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where}: {path} holds no percentiles ({key}: {why}); {ANEW}") from None
