"""The report of a version that stands: opened for reading, with its models' cards, and none of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.domain.errors import FacemintError

if TYPE_CHECKING:
    from pipeline.domain.manifest import IndexRow, Manifest
    from pipeline.domain.ports import Store
    from pipeline.domain.report import ReportFacts
    from pipeline.flow.parts import Parts
    from pipeline.flow.reporting.similarity import Known


def gather_report(uri: str, version: str | None = None) -> ReportFacts:
    """Return the facts of a version's report, the newest where none is named; reads only.

    Raises:
        OutputError: no dataset is there, nothing is published, or no such version.
        StoreError: a file is missing or altered.
    """
    from pipeline.adapters.stores import open_store

    return report_on(open_store(uri, writable=False), version)


def report_on(store: Store, version: str | None = None) -> ReportFacts:
    """Do as `gather_report` does, on a store that is open already."""
    from jobs.examine import asked_manifest
    from pipeline.adapters.segments import Segments
    from pipeline.execute.reporting import gather
    from pipeline.flow.versions import image_rows

    manifest = asked_manifest(store, version)
    segments = Segments()
    rows = image_rows(segments, store, manifest)
    return gather(store, segments, manifest, rows, _known(store, manifest), live=True)


def published_facts(parts: Parts, manifest: Manifest, rows: Sequence[IndexRow]) -> ReportFacts:
    """Return the facts that a version is published with: what any machine would say of it at any time.

    Args:
        parts: the ports of the run.
        manifest: of the version, perhaps not written yet.
        rows: its index without twins, sorted.
    """
    from pipeline.execute.reporting import gather, known_of

    return gather(parts.store, parts.segments, manifest, rows, known_of(parts, manifest), live=False)


def _known(store: Store, manifest: Manifest) -> Known:
    """Return what the version's models say of themselves; nothing where one of them is not installed here."""
    from jobs.wiring.parts import build_parts, full_model
    from pipeline.domain.recipe import parse_recipe
    from pipeline.execute.generations import read_step, recipe_path
    from pipeline.execute.reporting import known_of
    from pipeline.flow.reporting.similarity import Known

    raw = read_step(store, manifest.generation)["recipe"]
    try:
        parts = build_parts(parse_recipe(full_model(), raw, recipe_path(manifest.generation)), store, None, "report")
        return known_of(parts, manifest)
    except (FacemintError, ImportError, FileNotFoundError):
        # a report says what is stored, wherever it is drawn; that calibrations are unknown here stands in it
        return Known()
