"""Review: what people decided about single faces comes before any threshold, and what lies near one is listed for them.

Legend: M provisional identities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.domain.cleaning import pairs_above
from pipeline.domain.curation import Review
from pipeline.domain.errors import UserError
from pipeline.domain.intake import Unreadable
from pipeline.domain.records import unit_rows
from pipeline.domain.review import Line, nearest
from pipeline.flow.curating.clean import STRAYED
from pipeline.flow.curating.faces import Case, Faces
from pipeline.flow.curating.fetch import Where, crops_of, read_faces_at
from pipeline.flow.curating.people import LOOKS_LIKE
from pipeline.flow.curating.rows import PRIVATE_REVIEW
from pipeline.flow.curating.strays import people_of_labels, sums_of

BY_REVIEW = "refused_by_review"
BESIDE = 3
"""Pictures of the person in question that are shown beside a face, and of each of a pair."""


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the queue with its pictures, as JPEG: the face and some of its label, or some of each of a pair."""

    line: Line
    left: tuple[bytes, ...]
    right: tuple[bytes, ...]


def queue_path(generation: int, suffix: str) -> str:
    """Return where the review queue of a generation lies, as `csv` or `html`."""
    return f"{PRIVATE_REVIEW}g{generation}.{suffix}"


def reviewed(case: Case, faces: Faces) -> None:
    """Keep and refuse the faces that people decided about.

    Raises:
        UserError: a decision is about a picture that is not there or has other bytes, or keeps a face whose label has
            nobody.
    """
    asked = case.decisions
    if not (asked.keep or asked.refuse):
        return
    place = {(int(r), int(f)): n for n, (r, f) in enumerate(zip(faces.row, faces.face, strict=True))}
    persons = np.arange(case.new + len(case.before.standing.ordinals))
    of = people_of_labels(case.people, case.found, case.before, persons)
    for (row, face), sha256 in sorted({**asked.refuse, **asked.keep}.items()):
        n = place.get((row, face))
        if n is None or faces.sha256[n] != sha256:
            raise UserError(
                f"decision about {row}.{face}: its picture is {'not among the faces' if n is None else 'another one'}; "
                "give back the queue of this very dataset"
            )
        if (row, face) in asked.refuse:
            faces.refuse(np.array([n]), BY_REVIEW)
            continue
        person = of.get(faces.owner[n], -1)
        if person < 0:
            raise UserError(f"decision about {row}.{face}: to be kept, but its label has nobody else; leave it out")
        if faces.person[n] < 0:
            faces.person[n], faces.reason[n] = person, ""


def queue_of(case: Case, faces: Faces, asked: Review) -> list[Line]:
    """Return what lies near a threshold, the nearest first."""
    return nearest([*_faces_near(case, faces, asked.margin_cos), *_pairs_near(case, asked.margin_cos)], asked.most)


def _faces_near(case: Case, faces: Faces, margin_cos: float) -> list[Line]:
    """Return the faces whose cosine to their label's template lies near what is kept."""
    keep_cos = case.limits.keep_cos
    out = []
    for n in np.flatnonzero(np.abs(faces.own_cos - keep_cos) <= margin_cos).tolist():
        kept = faces.person[n] >= 0
        if not faces.owner[n] or not (kept or faces.reason[n] == STRAYED) or faces.moved[n]:
            continue
        out.append(
            Line(
                "face",
                f"{faces.row[n]}.{faces.face[n]}",
                "",
                faces.sha256[n],
                faces.owner[n],
                "kept" if kept else "refused",
                float(faces.own_cos[n]),
                keep_cos,
            )
        )
    return out


def _pairs_near(case: Case, margin_cos: float) -> list[Line]:
    """Return the pairs of provisional identities whose cosine lies near what is merged or dropped."""
    people, found, limits = case.people, case.found, case.limits
    levels = [cos for cos in (limits.merge_cos, limits.drop_cos) if cos <= 1.0]
    roots = np.flatnonzero(found.root_M == np.arange(case.new))
    names = {row: f"{bucket}.{number}" for (bucket, number), row in people.place.items()}
    out = []
    for n in np.flatnonzero(found.partner_M >= 0).tolist():
        cos, other = float(found.cos_M[n]), int(found.partner_M[n])
        if levels and np.isfinite(cos) and min(abs(cos - level) for level in levels) <= margin_cos:
            level = min(levels, key=lambda t: abs(cos - t))
            now = "dropped" if found.reason_M[n] == LOOKS_LIKE else "merged"
            out.append(Line("pair", names[other], names[n], "", _both(people.owners, other, n), now, cos, level))
    if levels and len(roots) > 1:
        templates = unit_rows(sums_of(people, found, {})[roots], "templates")
        least = min(levels)
        (rows, columns), cosines = pairs_above(templates, templates, least - margin_cos)
        for a, b, cos in zip(rows.tolist(), columns.tolist(), cosines.tolist(), strict=True):
            one, other = int(roots[a]), int(roots[b])
            if a < b and cos < least and not (found.reason_M[one] or found.reason_M[other]):
                told = _both(people.owners, one, other)
                out.append(Line("pair", names[one], names[other], "", told, "apart", float(cos), least))
    return out


def _both(owners: Sequence[str], one: int, other: int) -> str:
    return f"{owners[one] or 'nobody'} and {owners[other] or 'nobody'}"


def pictured(case: Case, faces: Faces, lines: Sequence[Line], generation: int) -> list[Item]:
    """Return the queue with pictures, cut from the sources again; a picture that cannot be had is left out."""
    shown: list[tuple[list[Where], list[Where]]] = []
    by_part: dict[int, list[int]] = {}
    for n in np.flatnonzero(faces.part >= 0).tolist():
        by_part.setdefault(int(faces.part[n]), []).append(n)
    of_owner = {o: n for n, o in reversed(list(enumerate(case.people.owners))) if case.people.clusters_M[n] == 0}
    place = {(int(r), int(f)): n for n, (r, f) in enumerate(zip(faces.row, faces.face, strict=True))}
    for line in lines:
        if line.kind == "face":
            row, face = (int(part) for part in line.id.split("."))
            n = place[row, face]
            beside = [m for m in by_part.get(of_owner.get(line.label, -1), []) if m != n][:BESIDE]
            shown.append(([_where(faces, n)], [_where(faces, m) for m in beside]))
        else:
            ids = [case.people.place[_key(text)] for text in (line.id, line.other)]
            left, right = ([_where(faces, n) for n in by_part.get(part, [])[:BESIDE]] for part in ids)
            shown.append((left, right))
    jpegs = _jpegs(case, generation, [where for pair in shown for side in pair for where in side])
    return [
        Item(line, *(tuple(jpegs[w[:2]] for w in side if w[:2] in jpegs) for side in pair))
        for line, pair in zip(lines, shown, strict=True)
    ]


def _key(text: str) -> tuple[int, int]:
    bucket, _, number = text.partition(".")
    return int(bucket), int(number)


def _where(faces: Faces, n: int) -> Where:
    return int(faces.row[n]), int(faces.face[n]), int(faces.bucket[n]), int(faces.group[n])


def _jpegs(case: Case, generation: int, wanted: Sequence[Where]) -> Mapping[tuple[int, int], bytes]:
    kept = read_faces_at(case.kit, case.parts, generation, wanted)
    order = sorted(kept)
    crops = crops_of(case.kit, case.parts, generation, [kept[p] for p in order])
    encode = case.kit.encoder.encode
    return {p: encode(crop) for p, (_, crop) in zip(order, crops, strict=True) if not isinstance(crop, Unreadable)}
