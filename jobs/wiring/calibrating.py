"""`facemint calibrate`: recogniser and source are opened, measured, and the calibration is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobs import recipe_file
from jobs.components import COMPONENTS
from jobs.wiring.datasets import card_dict
from jobs.wiring.labelled import holds_pairs, open_labelled, open_pairs
from jobs.wiring.local_files import free_file, write_json
from jobs.wiring.parts import build, load
from pipeline.domain.errors import RecipeError, UserError

if TYPE_CHECKING:
    from pipeline.domain.calibration import Calibration
    from pipeline.domain.ports import LabelledFace, LabelledFaces
    from pipeline.domain.recipe import Node

Say = Callable[[str], object]


def calibrate_recogniser(
    name: str,
    reference: str,
    out: str,
    overrides: Sequence[str] = (),
    *,
    template_sizes: Sequence[int],
    skip_unreadable: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure a recogniser on labelled faces or pairs, write its calibration to `out`, and return its content.

    Args:
        name: a recogniser as recipes name it.
        reference: faces or pairs; see `open_labelled` and `open_pairs`.
        out: a file that is not there yet.
        overrides: `key=value` options of the recogniser.
        template_sizes: images that templates pool.
        skip_unreadable: leave out images that cannot be read.
        say: is told what is being done.

    Raises:
        UserError: an unknown recogniser or option, or a source that cannot be read.
        OutputError: `out` exists, or cannot be written.
        CalibrationError: the source is too small.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.domain.manifest import canonical_json

    single_thread()
    target = free_file(out)
    node = recogniser_node(name, overrides)
    recogniser = build("judge", node)
    if recogniser.space.norm != "unit":
        raise UserError(f"{name}: keeps the lengths of its vectors; cosines are calibrated without --set norm=raw")
    measure = _from_pairs if holds_pairs(reference) else _from_faces
    calibration = measure(recogniser, node, reference, template_sizes, skip_unreadable, say)
    content: dict[str, Any] = json.loads(
        canonical_json({**calibration.to_dict(), "recogniser": card_dict(recogniser.card)})
    )
    write_json(target, content)
    return content


def recogniser_node(name: str, overrides: Sequence[str]) -> Node:
    """Return a recogniser's options; raises UserError where the recogniser or an option is unknown."""
    return named_node("judge", "recogniser", name, overrides)


def named_node(
    slot: str, kind: str, name: str, overrides: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Node:
    """Return a component's options; `kind` is what people call those of its slot, `defaults` yield to overrides."""
    if name not in COMPONENTS[slot]:
        raise UserError(f"{name}: unknown {kind}; known: {', '.join(sorted(COMPONENTS[slot]))}")
    options = load(COMPONENTS[slot][name][0])
    raw: dict[str, Any] = {"use": name, **(defaults or {})}
    for text in overrides:
        recipe_file.override(raw, text)
    try:
        node: Node = options.model_validate(raw)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if missing := [str(e["loc"][0]) for e in error.errors(include_url=False) if e["type"] == "missing"]:
            needed = " ".join(f"--set {option}=..." for option in missing)
            raise RecipeError(f"{kind} {name}: has no default for {', '.join(missing)}; give {needed}") from None
        path = ".".join(str(part) for part in problem["loc"])
        known = ", ".join(sorted(set(options.model_fields) - {"use"})) or "none"
        raise RecipeError(f"--set {path}={problem['input']}: {problem['msg']}; options of {name}: {known}") from None
    return node


def _from_faces(
    recogniser: Any, node: Any, reference: str, sizes: Sequence[int], skip_unreadable: bool, say: Say
) -> Calibration:
    from pipeline.domain.calibrating import calibrate
    from pipeline.flow.labelled import embed_labelled

    source = open_labelled(reference, alignment=recogniser.space.alignment, skip_unreadable=skip_unreadable)
    skipped: Sequence[str] = ()
    try:
        found = embed_labelled(Told(source, say, "embedding"), recogniser, node.batch)
    except UserError as error:
        skipped = getattr(source, "skipped", ())
        if not skipped:
            raise
        raise UserError(f"{error} ({len(skipped):,} were left out, the first of them {skipped[0]})") from None
    measured: dict[str, Any] = {"digest": found.digest, "unreadable": len(found.unreadable)}
    skipped = getattr(source, "skipped", ())
    if skipped:
        measured["skipped"] = len(skipped)
    return calibrate(
        recogniser.space,
        described(reference),
        found.emb_NE,
        found.labels_N,
        template_sizes=sizes,
        measured=measured,
        progress=lambda kind: say(f"measuring {kind}"),
    )


def _from_pairs(
    recogniser: Any, node: Any, reference: str, _sizes: Sequence[int], _skip: bool, say: Say
) -> Calibration:
    from pipeline.domain.calibrating import calibrate_pairs
    from pipeline.flow.labelled import embed_pairs

    say("embedding pairs")
    found = embed_pairs(open_pairs(reference, alignment=recogniser.space.alignment), recogniser, node.batch)
    measured = {"digest": found.digest, "unreadable": found.unreadable}
    return calibrate_pairs(
        recogniser.space, described(reference), found.genuine_cos_N, found.impostor_cos_N, measured=measured
    )


def described(reference: str) -> str:
    """Return how a source is named for the record: of a local path its last part, as a path says who works where."""
    return reference if "://" in reference else Path(reference).expanduser().resolve().name


class Told:
    """A source of faces that says how far it has been read, and what is done with them."""

    def __init__(self, source: LabelledFaces, say: Say, doing: str) -> None:
        """Take the source, whom to tell, and what: `embedding`."""
        self.name, self.space, self._source, self._say, self._doing = source.name, source.space, source, say, doing

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield what the source does."""
        for count, face in enumerate(self._source):
            if count % 100 == 0:
                self._say(f"{self._doing} faces: {count:,}")
            yield face
