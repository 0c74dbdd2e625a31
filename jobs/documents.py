"""The documents that a version is published with: its card and a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.domain.manifest import IndexRow, Manifest, segment_path
from pipeline.domain.ports import Store
from pipeline.flow.parts import Parts

SHEET_ROWS, SHEET_COLUMNS = 24, 12


def documents(
    card: Callable[[Mapping[str, Any]], str],
    sheet: Callable[[Sequence[Any]], bytes],
    store: Store,
    parts: Parts,
    manifest: Manifest,
    rows: Sequence[IndexRow],
) -> dict[str, bytes]:
    """Return file name -> bytes of a version's documents; `card` and `sheet` draw them."""
    balance = manifest.figures["balance"]
    facts = {
        "version": manifest.version,
        "name": manifest.name,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "figures": {**manifest.figures, "balance": balance["cells"], "balance_fields": balance["by"]},
        "models": manifest.models,
        "use": manifest.use,
    }
    return {"README.md": card(facts).encode(), "contact_sheet.png": sheet(_sheet_rows(store, parts, rows))}


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
            [
                parts.codec.decode(store.get_range(segment_path(r.segment, "tar"), r.offset, r.length))
                for r in by_label[label][:SHEET_COLUMNS]
            ],
        )
        for cell, label in chosen
    ]
