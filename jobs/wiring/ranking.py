"""`facemint quantiles`: a measure scores a population of faces, and the quantiles of its scores are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.components import COMPONENTS
from jobs.wiring.calibrating import Told, described, named_node
from jobs.wiring.labelled import WORLDS, open_labelled
from jobs.wiring.local_files import free_file, write_json
from jobs.wiring.parts import build, load
from pipeline.domain.errors import UserError
from pipeline.domain.percentiles import FEWEST, Percentiles, quantiles_of, settling_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.domain.recipe import Node

BATCH = 32
"""Faces that a measure sees at once; it changes no score."""
USUAL = "arcface-112"
"""How crops are aligned, where neither the measure nor the source says it."""


def rank_measure(
    name: str,
    reference: str,
    out: str,
    overrides: Sequence[str] = (),
    *,
    scores: Sequence[str] = (),
    alignment: str | None = None,
    skip_unreadable: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Score faces, write the reference quantiles of the scores to `out`, and return what was written.

    Args:
        name: a measure as recipes name it.
        reference: faces; see `open_labelled`. Whose they are does not matter.
        out: a file that is not there yet.
        overrides: `key=value` options of the measure.
        scores: of which of its numbers; left out: of all that are no probabilities.
        alignment: of the source's crops; left out: what the measure, the made-up world or the dataset says.
        skip_unreadable: leave out images that cannot be read.
        say: is told what is being done.

    Raises:
        UserError: an unknown measure, option or score; a source that cannot be read, or has too few faces.
        OutputError: `out` exists, or cannot be written.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.flow.labelled import measure_labelled

    single_thread()
    target = free_file(out)
    aligned = alignment or _alignment_of(reference)
    node = _measure_node(name, overrides, aligned)
    part = build("measures", node)
    wanted = _scores(name, part.names, scores)
    reads: str | None = getattr(part, "alignment", None)
    if reads is not None and aligned not in (None, reads):
        raise UserError(f"{name}: reads faces aligned to {reads!r}, and these are aligned to {aligned!r}; give others")
    cut = reads or aligned or USUAL
    source = open_labelled(reference, alignment=cut, skip_unreadable=skip_unreadable)
    if source.space is not None:
        raise UserError(f"{reference}: holds embeddings, and a measure reads images; name a source of images")
    found = measure_labelled(Told(source, say, "scoring"), part, BATCH, wanted)
    count, skipped = found.count, getattr(source, "skipped", ())
    if count < FEWEST:
        raise UserError(
            f"{reference}: {count} faces with a score; percentiles take {FEWEST} or more, and 2,000 or more are known "
            "to about two points; give more faces"
        )
    content = Percentiles.model_validate({
        "model": {
            "use": name,
            "sha256": part.card.sha256,
            "epoch": part.card.epoch,
            "options": settling_options(node),
            "alignment": cut,
        },
        "population": {
            "source": described(reference),
            "digest": found.digest,
            "images": count,
            "left_out": found.left_out + len(skipped),
        },
        "quantiles": {score: quantiles_of(values) for score, values in found.scores.items()},
    })  # fmt: skip
    raw: dict[str, Any] = json.loads(content.model_dump_json())
    write_json(target, raw)
    return raw


def _measure_node(name: str, overrides: Sequence[str], aligned: str | None) -> Node:
    if name not in COMPONENTS["measures"]:
        raise UserError(f"{name}: unknown measure; known: {', '.join(sorted(COMPONENTS['measures']))}")
    for key in ("labeller", "percentiles"):
        if any(text.partition("=")[0].split(".")[0] == key for text in overrides):
            raise UserError(f"--set {key}: changes no score that quantiles are taken of; leave it out")
    has_choice = "alignment" in load(COMPONENTS["measures"][name][0]).model_fields
    defaults = {"alignment": aligned} if has_choice and aligned is not None else {}
    return named_node("measures", "measure", name, overrides, defaults)


def _scores(name: str, given: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """Return the scores to rank, in the order in which the measure gives them."""
    able = tuple(n for n in given if "=" not in n)
    if not able:
        raise UserError(f"{name}: gives probabilities alone ({', '.join(given)}), which need no percentile")
    if unknown := [n for n in asked if n not in able]:
        raise UserError(f"--score {unknown[0]}: {name} gives no such score; it gives {', '.join(able)}")
    return tuple(n for n in able if not asked or n in asked)


def _alignment_of(reference: str) -> str | None:
    """Return how the crops of a made-up world, or of a dataset of ours, are aligned; None of anything else."""
    from pathlib import Path

    from jobs.wiring.measuring import dataset_recipe
    from pipeline.adapters.stores import open_store
    from pipeline.execute.generations import generations

    scheme = reference.partition("://")[0] if "://" in reference else ""
    if scheme in WORLDS:
        return WORLDS[scheme][1]
    if not scheme and not (Path(reference).expanduser() / "versions").is_dir():
        return None
    store = open_store(reference, writable=False)
    if not generations(store):
        return None
    aligned: str = build("judge", dataset_recipe(store).judge).space.alignment
    return aligned
