"""The report as a page: facts are handed to the adapter that draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.domain.manifest import IndexRow, Manifest
    from pipeline.domain.report import ReportFacts
    from pipeline.flow.parts import Parts


def draw_report(facts: ReportFacts) -> bytes:
    """Return a report as one HTML page; equal facts give equal bytes."""
    from pipeline.adapters.report import render

    return render(facts)


def published_report(parts: Parts, manifest: Manifest, rows: Sequence[IndexRow]) -> bytes:
    """Return the page that a version is published with: without time, machine or speed, so that it can be drawn anew.

    Args:
        parts: the ports of the run.
        manifest: of the version, perhaps not written yet.
        rows: its index without twins, sorted.
    """
    from jobs.wiring.reporting import published_facts

    return draw_report(published_facts(parts, manifest, rows))
