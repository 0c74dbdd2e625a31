"""The documents that a version is published with: card, contact sheet, funnel, report, Croissant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.domain.calibration import Calibration
from pipeline.domain.errors import StoreError
from pipeline.domain.leakage import SCREENING
from pipeline.domain.manifest import FileEntry, IndexRow, Manifest, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.records import UInt8
from pipeline.flow.parts import Parts, decoded

SHEET_ROWS, SHEET_COLUMNS = 24, 12


@dataclass(frozen=True, slots=True)
class Writers:
    """What the documents are written by; `jobs.wiring` says which."""

    card: Callable[[Mapping[str, Any]], str]
    croissant: Callable[[Mapping[str, Any], Sequence[FileEntry]], dict[str, bytes]]
    sheet: Callable[[Sequence[Any]], bytes]
    funnel: Callable[[str, Mapping[str, Any]], bytes]
    report: Callable[[Parts, Manifest, Sequence[IndexRow]], bytes]


def documents(
    writers: Writers, store: Store, parts: Parts, manifest: Manifest, rows: Sequence[IndexRow]
) -> dict[str, bytes]:
    """Return file name -> bytes of a version's documents."""
    facts = _facts(parts, manifest, rows)
    return {
        "README.md": writers.card(facts).encode(),
        "contact_sheet.png": writers.sheet(_sheet_rows(store, parts, rows)),
        "funnel.svg": writers.funnel(manifest.name, manifest.figures["funnel"]),
        "report.html": writers.report(parts, manifest, rows),
        **writers.croissant(facts, manifest.files),
    }


def _facts(parts: Parts, manifest: Manifest, rows: Sequence[IndexRow]) -> dict[str, Any]:
    """Return what card and Croissant are told: the manifest's fields, and what its models say of their spaces."""
    balance = manifest.figures["balance"]
    recognisers = {"judge": parts.judge, "auditor": parts.auditor}
    if parts.screen is not None and SCREENING in parts.screen.readers:
        recognisers["leakage.screening"] = parts.screen.readers[SCREENING].recogniser
    # behind a map vectors are in its target's space, and the bank's own stands in the map's file
    drawn = "bank" if parts.recipe.identities.map is None else "map"
    spaces = {drawn: parts.sampler.space, "generator": parts.generator.space}
    spaces |= {role: r.space for role, r in recognisers.items()}
    (index,) = (f for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-"))
    return {
        "version": manifest.version,
        "parent": manifest.parent,
        "generation": manifest.generation,
        "name": manifest.name,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "figures": {**manifest.figures, **_balance_facts(balance)},
        "models": manifest.models,
        "spaces": {role: space.to_dict() for role, space in spaces.items()},
        "calibrations": {
            role: _calibration_facts(recogniser.calibration)
            for role, recogniser in recognisers.items()
            if "sample/sample" in recogniser.calibration.pairs
        },
        "use": manifest.use,
        "licence": _licence(manifest),
        "last_label": max((row.label for row in rows), default=0),
        "index": {"name": index.path.rpartition("/")[2], "bytes": index.bytes},
    }


def _balance_facts(balance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the documents say of balance: cells, fields, and the figures of all cells together, by name."""
    summary = dict(balance.get("summary", {}))
    said: dict[str, Any] = {}
    if summary:
        empty = summary.pop("cells_empty")
        said = {**summary, "cells_asked_and_empty": ", ".join(empty) or "none"}
        for pair in balance["association"]:
            said[f"cramers_v of {' and '.join(pair['between'])}"] = pair["cramers_v"]
        for row in balance["labellers"]:
            said[f"identities on whose {row['field']} {', '.join(row['labellers'])} agree"] = row["agree"]
        said["identities in the largest balanced set"] = balance["largest_balanced"]["identities"]
    return {"balance": balance["cells"], "balance_fields": balance["by"], "balance_summary": said}


def _calibration_facts(calibration: Calibration) -> dict[str, Any]:
    pair = calibration.pairs["sample/sample"]
    return {
        "source": calibration.source,
        "n_impostor": pair.n_impostor,
        "eer": pair.eer,
        "lowest_fmr": pair.fmr[-1],
        "largest_gallery": max((b.n for blocks in calibration.one_to_many.values() for b in blocks), default=None),
    }


def _licence(manifest: Manifest) -> str:
    """Return what is known: the licence that the recipe states, and those of the models."""
    stated = manifest.use.get("licence")
    models = ", ".join(sorted({str(card["licence"]) for card in manifest.models.values()}))
    return f"{stated or 'not stated by its maker'}; the models that it was made with: {models}"


def _sheet_rows(store: Store, parts: Parts, rows: Sequence[IndexRow]) -> list[Any]:
    """Return captions and faces of evenly chosen identities, so that every cell is seen."""
    by_label: dict[int, list[IndexRow]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    by_cell: dict[str, list[int]] = {}
    for label, owned in by_label.items():
        by_cell.setdefault(owned[0].cell, []).append(label)
    turns = sorted((turn, cell, label) for cell, labels in by_cell.items() for turn, label in enumerate(labels))
    chosen = sorted((cell, label) for _, cell, label in turns[:SHEET_ROWS])
    return [
        (
            f"{label}  {cell}",
            [_face(store, parts, r) for r in by_label[label][:SHEET_COLUMNS]],
        )
        for cell, label in chosen
    ]


def _face(store: Store, parts: Parts, row: IndexRow) -> UInt8:
    """Return a published face; raises StoreError where its bytes are gone or altered."""
    path = segment_path(row.segment, "tar")
    try:
        return decoded(row.segment, row.key, store.get_range(path, row.offset, row.length), (0, row.length), parts)
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; run the same generate command again, or restore it from a copy") from None
