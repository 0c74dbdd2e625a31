"""Exports of a dataset that stands: an exporter from what was typed, and where its parts are written."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobs import recipe_file
from jobs.components import COMPONENTS
from jobs.wiring.parts import build, load
from pipeline.domain.errors import OutputError, UserError

if TYPE_CHECKING:
    from pipeline.domain.ports import Exporter, Store

NOT_TYPED = ("use", "folder")
"""Options that other words of the command say: `--to` and `--out`."""


def build_exporter(kind: str, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Exporter:
    """Return an exporter.

    Args:
        kind: its name.
        overrides: its options as `option=value`; others have their defaults.
        given: options that have a word of their own on the command line; None is not given.

    Raises:
        UserError: no exporter of that name, an option that it does not have, or a value that the option does not take.
        RecipeError: an override that reads no `option=value`.
    """
    if kind not in COMPONENTS["exports"]:
        raise UserError(f"--to {kind}: unknown export; known: {', '.join(sorted(COMPONENTS['exports']))}")
    model = load(COMPONENTS["exports"][kind][0])
    known = sorted(set(model.model_fields) - set(NOT_TYPED))
    raw: dict[str, Any] = {}
    for text in overrides:
        name = text.partition("=")[0]
        if "=" in text and name not in known:
            raise UserError(f"--set {text}: {kind} has no option {name!r}; its options: {', '.join(known)}")
        recipe_file.override(raw, text)
    raw |= {name: value for name, value in (given or {}).items() if value is not None}
    try:
        exporter: Exporter = build("exports", model.model_validate({"use": kind, **raw}))
    except ValidationError as error:
        raise UserError(_mistake(kind, known, error)) from None
    return exporter


def _mistake(kind: str, known: Sequence[str], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"export to {kind}: {message}"
    name = ".".join(str(part) for part in problem["loc"])
    return f"{name}={problem['input']}: {message[:1].lower()}{message[1:]}; options of {kind}: {', '.join(known)}"


def export_dataset(
    uri: str,
    kind: str,
    out: str,
    overrides: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> list[dict[str, Any]]:
    """Export a version of the dataset at `uri` to `out`; the options are those of `build_exporter` and `export_on`."""
    from pipeline.adapters.stores import open_store

    exporter = build_exporter(kind, overrides, given)
    return export_on(open_store(uri, writable=False), exporter, open_store(out), version)


def export_on(source: Store, exporter: Exporter, target: Store, version: str | None = None) -> list[dict[str, Any]]:
    """Export a version, the newest one by default; return the manifests of what was written.

    Raises:
        OutputError: no dataset is at `source`, nothing is published, there is no image to export, or `target` holds
            a dataset or other files, among which an export would be strewn, or another export.
        UserError: no such version, split or part.
        StoreError: what is stored is damaged.
    """
    from jobs import examine
    from pipeline.adapters.machine import SystemClock
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.exporting import about_export, write_exports
    from pipeline.flow.orphans import GRACE_S
    from pipeline.flow.versions import published_rows

    seed = examine.run_seed(source)
    if target.size(examine.RECIPE_PATH) is not None:
        raise OutputError(f"{target.uri}: holds a dataset; name a place of its own for the export")
    manifest = examine.asked_manifest(source, version)
    rows = published_rows(Segments(), source, manifest)
    about = about_export(manifest, seed, _margin(source))
    place = functools.partial(_place, target, manifest.digest)
    written = write_exports(exporter, source, Segments(), ParquetTables(), rows, about, place)
    if exporter.options.split is None or exporter.options.part is not None:
        # of killed runs; where parts have folders of their own, what lies above them may be anybody's
        target.remove_leftovers(SystemClock().now_s() - GRACE_S)
    return written


def _margin(source: Store) -> float | None:
    """Return what stored images show beyond the judge's crop, as the recipe of the dataset has it."""
    import yaml

    from jobs import examine

    recipe = yaml.safe_load(source.get(examine.RECIPE_PATH))["recipe"]
    crop = (recipe.get("curate") or {}).get("crop")
    return None if crop is None else float(crop["margin"])


def _place(target: Store, digest: str, part: str) -> Store:
    """Return where a part is written; raises OutputError where files lie that no export of this dataset left."""
    from pipeline.adapters.stores import PrefixedStore

    place: Store = PrefixedStore(target, part) if part else target
    there = place.get_many(["manifest.json", "progress.json", "README.md"])
    # a run that was killed just before its manifest has left a card, which names the dataset
    if not there.keys() - {"README.md"} and digest.encode() not in there.get("README.md", b""):
        others = place.list("")
        if others:
            raise OutputError(
                f"{place.uri}: holds {len(others):,} files that are of no export ({others[0]} is one), among which one "
                "would be strewn; name an empty place"
            )
    return place
