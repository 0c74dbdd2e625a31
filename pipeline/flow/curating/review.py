"""Review: what people decided about single faces comes before any threshold, and what lies near one is listed for them.

Legend: M provisional identities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.domain.cleaning import pairs_above
from pipeline.domain.cosines import exact_cosines
from pipeline.domain.curation import Review
from pipeline.domain.errors import UserError
from pipeline.domain.intake import Unreadable
from pipeline.domain.privacy import REVIEW
from pipeline.domain.records import unit_rows
from pipeline.domain.review import Line, named, nearest, place_of
from pipeline.flow.curating.clean import STRAYED
from pipeline.flow.curating.faces import Case, Faces
from pipeline.flow.curating.fetch import Where, crops_of, read_faces_at
from pipeline.flow.curating.people import LOOKS_LIKE, digest_of_pair
from pipeline.flow.curating.rows import cleaned_path
from pipeline.flow.curating.strays import Float64, people_of_labels, sums_of

BY_REVIEW = "refused_by_review"
BESIDE = 3
"""Pictures of the person in question that are shown beside a face, and of each of a pair."""


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the queue with its pictures, as JPEG: the face and some of its label, or some of each of a pair.

    `names`: whose they are said to be, without where that is said.
    """

    line: Line
    left: tuple[bytes, ...]
    right: tuple[bytes, ...]
    names: tuple[str, ...] = ()


def queue_path(generation: int, suffix: str) -> str:
    """Return where the review queue of a generation lies, as `csv` or `html`, or what was given back, as `given.csv`.

    No receipt names these: they are for people, until the generation is published, and erasing anybody removes them.
    """
    return f"{REVIEW}g{generation}.{suffix}"


def log_path(generation: int) -> str:
    """Return where it is kept what people decided."""
    return f"{REVIEW}g{generation}-decided.csv"


def reviewed(case: Case, faces: Faces) -> dict[int, Float64]:
    """Keep and refuse the faces that people decided about; return what that adds to the sums of new identities.

    Raises:
        UserError: a decision is about a picture that is not there or has other bytes, or keeps a face whose label has
            nobody.
    """
    asked = case.decisions.faces
    if not asked:
        return {}
    place = {(int(r), int(f)): n for n, (r, f) in enumerate(zip(faces.row, faces.face, strict=True))}
    persons = np.arange(case.new + len(case.before.standing.ordinals))
    of = people_of_labels(case.people, case.found, case.before, persons)
    changed: list[tuple[int, float, int]] = []
    for face, sha256 in asked.items():
        n = place.get(face)
        if n is None or faces.sha256[n] != sha256:
            found = "not among the faces" if n is None else "another one"
            raise UserError(
                f"decision about {named(face)}: its picture is {found}; give back the queue of this very dataset"
            )
        before = int(faces.person[n])
        if face in case.decisions.refuse:
            faces.refuse(np.array([n]), BY_REVIEW)
            changed += [(n, -1.0, before)] if before >= 0 else []
            continue
        person = of.get(faces.owner[n], -1)
        if person < 0 or (person < case.new and case.found.reason_M[person]):
            raise UserError(f"decision about {named(face)}: to be kept, but its label has nobody else; leave it out")
        if before < 0:
            faces.person[n], faces.reason[n] = person, ""
            changed.append((n, 1.0, person))
    return _added(case, faces, [one for one in changed if one[2] < case.new])


def _added(case: Case, faces: Faces, changed: Sequence[tuple[int, float, int]]) -> dict[int, Float64]:
    """Return person -> sum of the embeddings of the faces that came to it, less those that left."""
    groups = sorted({(int(faces.bucket[n]), int(faces.group[n])) for n, *_ in changed})
    out: dict[int, Float64] = {}
    for bucket, group in groups:
        path = cleaned_path(case.units[bucket])
        held = case.kit.grouped.read(case.parts.store, path, ["row", "face", "embedding"], group)
        where = {key: n for n, key in enumerate(zip(held["row"].tolist(), held["face"].tolist(), strict=True))}
        for n, sign, person in changed:
            if (int(faces.bucket[n]), int(faces.group[n])) == (bucket, group):
                emb = held["embedding"][where[int(faces.row[n]), int(faces.face[n])]].astype(np.float64)
                out[person] = out.get(person, 0.0) + sign * emb
    return out


def queue_of(case: Case, faces: Faces, asked: Review) -> list[Line]:
    """Return what lies near a threshold, the nearest first, and before it what is decided already."""
    return nearest([*_faces_near(case, faces, asked.margin_cos), *_pairs_near(case, asked.margin_cos)], asked.most)


def _faces_near(case: Case, faces: Faces, margin_cos: float) -> list[Line]:
    """Return the faces whose cosine to their label's template lies near what is kept, and those decided about."""
    keep_cos = case.limits.keep_cos
    decided = case.decisions.faces
    near = np.abs(faces.own_cos - keep_cos) <= margin_cos
    if decided:
        near |= np.array([key in decided for key in zip(faces.row.tolist(), faces.face.tolist(), strict=True)], bool)
    out = []
    for n in np.flatnonzero(near).tolist():
        place = int(faces.row[n]), int(faces.face[n])
        kept = faces.person[n] >= 0
        open_ = faces.owner[n] and (kept or faces.reason[n] == STRAYED) and not faces.moved[n]
        if not (open_ or place in decided):
            continue
        now = "kept" if kept else "refused"
        about = ("face", named(place), "", faces.sha256[n], faces.owner[n], now, float(faces.own_cos[n]), keep_cos)
        out.append(Line(*about, case.decisions.word(place)))
    return out


def _pairs_near(case: Case, margin_cos: float) -> list[Line]:
    """Return the pairs of provisional identities near what is merged or dropped, and those decided about."""
    people, found, limits = case.people, case.found, case.limits
    levels = [cos for cos in (limits.merge_cos, limits.drop_cos) if cos <= 1.0]
    decided = [tuple(sorted(people.place[p] for p in pair)) for pair in case.decisions.pairs]
    out = {(one, other): _decided_pair(case, one, other, levels) for one, other in decided}
    for n in np.flatnonzero(found.partner_M >= 0).tolist():
        cos, other = float(found.cos_M[n]), int(found.partner_M[n])
        if levels and np.isfinite(cos) and min(abs(cos - level) for level in levels) <= margin_cos:
            now = "dropped" if found.reason_M[n] == LOOKS_LIKE else "merged"
            out.setdefault((min(n, other), max(n, other)), _pair(case, other, n, now, cos, levels))
    roots = np.flatnonzero(found.root_M == np.arange(case.new))
    if levels and len(roots) > 1:
        templates = unit_rows(sums_of(people, found, {})[roots], "templates")
        least = min(levels)
        (rows, columns), cosines = pairs_above(templates, templates, least - margin_cos)
        for a, b, cos in zip(rows.tolist(), columns.tolist(), cosines.tolist(), strict=True):
            one, other = int(roots[a]), int(roots[b])
            if a < b and cos < least and not (found.reason_M[one] or found.reason_M[other]):
                out.setdefault((one, other), _pair(case, one, other, "apart", float(cos), levels))
    return list(out.values())


def _decided_pair(case: Case, one: int, other: int, levels: Sequence[float]) -> Line:
    """Return the line of a pair that people decided about: their own cosine, whoever else they are merged with."""
    templates = unit_rows(case.people.sums_ME[[one, other]].astype(np.float64), "templates")
    cos = float(exact_cosines(templates, np.array([0]), templates, np.array([1]))[0])
    merged = case.found.root_M[one] == case.found.root_M[other]
    return _pair(case, one, other, "merged" if merged else "apart", cos, levels or (1.0,))


def _pair(case: Case, one: int, other: int, now: str, cos: float, levels: Sequence[float]) -> Line:
    people, names = case.people, case.names
    level = min(levels, key=lambda t: abs(cos - t))
    word = case.decisions.word(frozenset((names[one], names[other])))
    told = _both(people.owners, one, other)
    ids = (named(names[one]), named(names[other]))
    return Line("pair", *ids, digest_of_pair(people, one, other), told, now, cos, level, word)


def _both(owners: Sequence[str], one: int, other: int) -> str:
    return f"{owners[one] or 'nobody'} and {owners[other] or 'nobody'}"


def _name(owner: str) -> str:
    """Return a label without its source."""
    return owner.rpartition("\n")[2] or "without a label"


def pictured(case: Case, faces: Faces, lines: Sequence[Line], generation: int) -> list[Item]:
    """Return the queue with pictures, cut from the sources again; a picture that cannot be had is left out."""
    shown: list[tuple[list[Where], list[Where], tuple[str, ...]]] = []
    by_part: dict[int, list[int]] = {}
    for n in np.flatnonzero((faces.part >= 0) & (faces.person >= 0)).tolist():
        by_part.setdefault(int(faces.part[n]), []).append(n)
    owners = case.people.owners
    of_owner = {o: n for n, o in reversed(list(enumerate(owners))) if case.people.clusters_M[n] == 0}
    place = {(int(r), int(f)): n for n, (r, f) in enumerate(zip(faces.row, faces.face, strict=True))}
    for line in lines:
        if line.kind == "face":
            n = place[place_of(line.id)]
            beside = [m for m in by_part.get(of_owner.get(line.label, -1), []) if m != n][:BESIDE]
            shown.append(([_where(faces, n)], [_where(faces, m) for m in beside], (_name(line.label),)))
        else:
            ids = [case.people.place[place_of(text)] for text in (line.id, line.other)]
            left, right = ([_where(faces, n) for n in _some_of(faces, by_part, part)] for part in ids)
            shown.append((left, right, tuple(_name(owners[part]) for part in ids)))
    jpegs = _jpegs(case, generation, [where for *sides, _ in shown for side in sides for where in side])
    return [
        Item(line, _of_side(jpegs, left), _of_side(jpegs, right), names)
        for line, (left, right, names) in zip(lines, shown, strict=True)
    ]


def _of_side(jpegs: Mapping[tuple[int, int], bytes], side: Sequence[Where]) -> tuple[bytes, ...]:
    return tuple(jpegs[where[:2]] for where in side if where[:2] in jpegs)


def _some_of(faces: Faces, by_part: Mapping[int, Sequence[int]], part: int) -> Sequence[int]:
    """Return some faces of a provisional identity, kept ones where there are any."""
    return by_part.get(part, np.flatnonzero(faces.part == part).tolist())[:BESIDE]


def _where(faces: Faces, n: int) -> Where:
    return int(faces.row[n]), int(faces.face[n]), int(faces.bucket[n]), int(faces.group[n])


def _jpegs(case: Case, generation: int, wanted: Sequence[Where]) -> Mapping[tuple[int, int], bytes]:
    kept = read_faces_at(case.kit, case.parts, generation, wanted)
    order = sorted(kept)
    crops = crops_of(case.kit, case.parts, generation, [kept[p] for p in order])
    encode = case.kit.encoder.encode
    return {p: encode(crop) for p, (_, crop) in zip(order, crops, strict=True) if not isinstance(crop, Unreadable)}
