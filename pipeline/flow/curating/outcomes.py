"""The outcome of a generation as tables: one row per face that was looked at, and per input without any."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.domain.errors import StoreError
from pipeline.domain.privacy import BETWEEN
from pipeline.domain.unit import Unit
from pipeline.flow.curating.faces import Before, Faces
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.people import Between, Provisional
from pipeline.flow.curating.rows import NO_LABEL, features_path
from pipeline.flow.parts import Parts

OUTCOME_COLUMNS: Mapping[str, str] = {
    "row": "int64",
    "face": "int32",
    "stage": "string",
    "reason": "string",
    "found": "string",
    "value": "double?",
    "threshold": "double?",
    "identity": "int64",
    "slot": "int32",
    "bucket": "int32",
    "group": "int32",
    "moved": "bool",
    "sha256": "string",
    "hash": "int64",
    "mirrored": "int64",
}
"""One row per face or input without any; `identity` -1 where it is refused; `group` of its bucket's cleaned faces."""
IDENTITY_COLUMNS: Mapping[str, str] = {
    "owner": "string",
    "cluster": "int32",
    "images": "int64",
    "ordinal": "int64",
    "reason": "string",
    "partner": "string",
    "cos": "double?",
}
"""One row per provisional identity: what became of it."""

NOBODY: Mapping[str, Any] = {
    "identity": -1, "slot": -1, "bucket": -1, "group": -1, "moved": False, "hash": 0, "mirrored": 0,
}  # fmt: skip
"""Of a row without a face that was measured."""


def outcome_path(generation: int) -> str:
    """Return where the outcome of every input of a generation lies."""
    return f"{BETWEEN}g{generation}.parquet"


def identities_path(generation: int) -> str:
    """Return where it is written what became of provisional identities."""
    return f"{BETWEEN}g{generation}-identities.parquet"


def outcomes_of(faces: Faces, ordinal: Mapping[int, int], before: Before) -> Iterator[dict[str, Any]]:
    """Yield the rows of the faces in the order of the listing, in which slots are given too."""
    following: dict[int, int] = {}
    for n in np.lexsort((faces.face, faces.row)).tolist():
        person = int(faces.person[n])
        identity = ordinal[person] if person >= 0 else -1
        slot = -1
        if identity >= 0:
            slot = following.get(identity, before.slots.get(identity, 0))
            following[identity] = slot + 1
        yield {
            "row": int(faces.row[n]),
            "face": int(faces.face[n]),
            "stage": "" if identity >= 0 else "clean",
            "reason": faces.reason[n],
            "found": faces.found[n] or "",
            "value": _number(faces.value[n]) if identity < 0 else None,
            "threshold": _number(faces.threshold[n]) if identity < 0 else None,
            "identity": identity,
            "slot": slot,
            "bucket": int(faces.bucket[n]),
            "group": int(faces.group[n]),
            "moved": bool(faces.moved[n]),
            "sha256": faces.sha256[n],
            "hash": int(faces.hash[n].astype(np.int64)),
            "mirrored": int(faces.mirrored[n].astype(np.int64)),
        }


def in_order(
    faces: Iterable[dict[str, Any]], refused: Iterable[dict[str, Any]], rows: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Yield both, each in the order of the listing, as one; every input of a half-open range has an outcome.

    Raises:
        StoreError: an input has none, or a row is of no input.
    """
    following = rows[0]
    for told in heapq.merge(faces, refused, key=lambda r: (r["row"], r["face"])):
        if told["row"] > following or told["row"] < following - 1 or told["row"] >= rows[1]:
            break
        following = told["row"] + 1
        yield told
    if following != rows[1]:
        raise StoreError(f"input {following} has no outcome, or one that is none follows it: nothing is published")


def refused_before(parts: Parts, kit: Kit, ingested: Sequence[Unit]) -> list[dict[str, Any]]:
    """Return the rows of inputs that ingest refused: they had no face, or none that could be measured."""
    names = ["row", "face", "stage", "reason", "found", "value", "threshold", "sha256"]
    out = []
    for unit in ingested:
        held = kit.grouped.read(parts.store, features_path(unit), names, NO_LABEL)
        out += [
            {
                "row": int(held["row"][n]),
                "face": int(held["face"][n]),
                **{name: held[name][n] for name in ("stage", "reason", "found", "sha256")},
                "value": _number(held["value"][n]),
                "threshold": _number(held["threshold"][n]),
                **NOBODY,
            }
            for n in range(len(held["row"]))
        ]
    return sorted(out, key=lambda r: (r["row"], r["face"]))


def told_of(
    people: Provisional, found: Between, ordinal: Mapping[int, int], gone: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return what became of every provisional identity.

    Args:
        people: the provisional identities.
        found: who is whom between labels.
        ordinal: root -> ordinal, of those who stand.
        gone: root -> why it does not, beside what was found between labels.
    """
    out = []
    for n, owner in enumerate(people.owners):
        root, joined, partner = int(found.root_M[n]), int(found.joins_M[n]), int(found.partner_M[n])
        reason = found.reason_M[n] or ("" if joined >= 0 else gone.get(root, ""))
        mine = joined if joined >= 0 else ordinal.get(root, -1)
        out.append(
            {
                "owner": owner,
                "cluster": int(people.clusters_M[n]),
                "images": int(people.images_M[n]),
                "ordinal": -1 if reason else mine,
                "reason": reason,
                "partner": people.owners[partner] if partner >= 0 else "",
                "cos": _number(found.cos_M[n]),
            }
        )
    return out


def _number(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
