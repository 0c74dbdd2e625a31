"""`facemint report`: a version as one HTML page, for people who did not make it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.arguments import JsonOption, UriArgument, print_json
from pipeline.domain.errors import UserError

if TYPE_CHECKING:
    from pipeline.domain.report import ReportFacts

STDOUT = "-"


def report(
    uri: UriArgument,
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="A published version; default the newest.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="The page; default report-NAME-VERSION.html; - for stdout."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a version's report: one HTML page that opens offline.

    Funnel and reasons, similarity under judge and auditor, variation, quality, balance, leakage, galleries, speed,
    provenance, and what was not measured. The dataset is only read.
    """
    if out == STDOUT and json_:
        raise UserError("--out -: the page goes to stdout, where --json would write too; give one of them")
    from jobs import wiring
    from jobs.wiring.local_files import local_file, write_whole

    path = None if out is None or out == STDOUT else local_file(out)
    facts = wiring.gather_report(uri, version)
    page = wiring.draw_report(facts)
    if out == STDOUT:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    path = path or local_file(f"report-{facts.name}-{facts.version}.html")
    write_whole(path, page)
    if json_:
        print_json(_said(facts, path, page))
        return
    shown = sum(len(gallery.pictures) for gallery in facts.galleries)
    typer.echo(f"Report  {path}  ({len(page) / 1e6:.1f} MB, {shown} pictures)")


def _said(facts: ReportFacts, path: Path, page: bytes) -> dict[str, Any]:
    """Return what `--json` prints: where the page is, and the headline's figures."""
    from pipeline.domain.manifest import sha256_hex

    return {
        "out": str(path),
        "bytes": len(page),
        "sha256": sha256_hex(page),
        "name": facts.name,
        "version": facts.version,
        "digest": facts.digest,
        "candidates": facts.funnel.candidates,
        "accepted": facts.funnel.accepted,
        "published": facts.funnel.published,
        "eer": {curves.role: curves.eer for curves in facts.curves},
        "uniqueness": {spread.role: spread.uniqueness for spread in facts.spread},
        "galleries": {gallery.name: len(gallery.pictures) for gallery in facts.galleries},
        "not_measured": dict(facts.not_measured),
    }
