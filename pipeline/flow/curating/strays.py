"""Strays: images that are not of their label find whose they are, among everybody, or nobody's.

Legend: M provisional identities, P published ones, E dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.domain.cleaning import whose
from pipeline.domain.one_to_many import References
from pipeline.domain.records import unit_rows
from pipeline.flow.curating.clean import NO_CLUSTER, OTHER_FACE, STRAYED
from pipeline.flow.curating.faces import Before, Case, Faces, Int64
from pipeline.flow.curating.people import Between, Provisional
from pipeline.flow.curating.rows import cleaned_path

Float64 = npt.NDArray[np.float64]


def sums_of(people: Provisional, found: Between, moved: Mapping[int, Float64]) -> Float64:
    """Return the sum of the embeddings of every root, strays that came to it among them; (M, E)."""
    total = np.zeros(people.sums_ME.shape)
    np.add.at(total, found.root_M, people.sums_ME.astype(np.float64))
    for root, sum_E in sorted(moved.items()):
        total[root] += sum_E
    return total


def place_strays(case: Case, faces: Faces) -> dict[int, Float64]:
    """Give strays to whom they surely match; return what they add to the sums of new identities."""
    people, found, before, clean, limits = case.people, case.found, case.before, case.clean, case.limits
    count = case.new
    out: dict[int, Float64] = {}
    able = [n for n in range(count) if found.root_M[n] == n and not found.reason_M[n] and found.joins_M[n] < 0]
    if clean.strays == "drop" or not (able or len(before.standing.ordinals)):
        return out
    sums = sums_of(people, found, {})
    templates = unit_rows(sums[able], "templates") if able else np.empty((0, people.sums_ME.shape[1]), np.float32)
    if len(before.standing.ordinals):
        templates = np.concatenate([templates, before.standing.templates_PE])
    persons = np.array([*able, *(count + n for n in range(len(before.standing.ordinals)))], np.int64)
    references = References(templates, "identities")
    of = people_of_labels(people, found, before, persons)
    # a stray is compared with everybody: the level is that of merging, where that is stricter than that of one label
    match_cos = max(limits.keep_cos, limits.merge_cos if limits.merge_cos <= 1.0 else limits.keep_cos)
    for bucket, unit in enumerate(case.units):
        held = case.kit.grouped.read(
            case.parts.store, cleaned_path(unit), ["row", "face", "owner", "reason", "embedding"], -1
        )
        wanted = [n for n in range(len(held["row"])) if held["reason"][n] in (STRAYED, NO_CLUSTER, OTHER_FACE)]
        if not wanted:
            continue
        emb = np.ascontiguousarray(held["embedding"][wanted])
        own = np.array([of.get(held["owner"][n], -1) for n in wanted], np.int64)
        row, best = whose(emb, references, own, match_cos=match_cos, margin_cos=clean.sure_margin_cos)
        where = {
            (int(faces.row[n]), int(faces.face[n])): n
            for n in np.flatnonzero((faces.bucket == bucket) & (faces.group < 0))
        }
        for place, n in enumerate(wanted):
            if row[place] < 0:
                continue
            face = where[int(held["row"][n]), int(held["face"][n])]
            person = int(persons[row[place]])
            faces.person[face], faces.reason[face] = person, ""
            faces.own_cos[face], faces.moved[face] = best[place], True
            if person < count:
                out[person] = out.get(person, 0.0) + emb[place].astype(np.float64)
    return out


def people_of_labels(people: Provisional, found: Between, before: Before, persons: Int64) -> dict[str, int]:
    """Return label -> place among `persons` of the identity that has it."""
    place = {int(p): n for n, p in enumerate(persons)}
    published = {o: len(people.owners) + n for n, o in enumerate(before.standing.ordinals)}
    out = {label: place[published[o]] for label, o in before.standing.owner.items() if o in published}
    for n, owner in enumerate(people.owners):
        joined = int(found.joins_M[n])
        person = published[joined] if joined >= 0 else int(found.root_M[n])
        if owner and people.clusters_M[n] == 0 and person in place:
            out[owner] = place[person]
    return out
