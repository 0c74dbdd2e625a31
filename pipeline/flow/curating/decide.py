"""Deciding: which face is of which identity, in which slot, and why every other input is refused.

Cleaning has settled each label and `people` who is whom between labels. Here strays find their owner, a picture under
two labels one of them, identities that are too small, on a block list or not wanted by balance go, and who is left gets
an ordinal. The outcome has one row per face that was looked at and one per input without any: nothing is lost.

Legend: N faces of a generation, M provisional identities, E dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.balance import Targets
from pipeline.domain.records import Cell, Float32, Identity, unit_rows
from pipeline.domain.selection import largest_balanced, rank_in_cell, stable_order
from pipeline.flow.curating.copies import no_picture_twice
from pipeline.flow.curating.faces import Before, Case, Faces, Int64, read_faces
from pipeline.flow.curating.outcomes import told_of
from pipeline.flow.curating.people import Between, Provisional
from pipeline.flow.curating.review import reviewed
from pipeline.flow.curating.rows import TOO_FEW
from pipeline.flow.curating.strays import place_strays, sums_of
from pipeline.flow.enrol import cell_of
from pipeline.flow.parts import Parts

LISTED, UNBALANCED = "in_block_list", "not_needed_for_balance"


@dataclass(frozen=True, slots=True)
class Decided:
    """The outcome of a generation.

    Attributes:
        identities: new ones, in ordinal order.
        faces: given to persons, rows of provisional identities or published ones.
        ordinal: person -> ordinal, of those who stand.
        people: the rows of `IDENTITY_COLUMNS`.
        strays: faces that were moved to another label than their own.
    """

    identities: tuple[Identity, ...]
    faces: Faces = field(repr=False)
    ordinal: Mapping[int, int] = field(repr=False)
    people: list[dict[str, Any]] = field(repr=False)
    strays: int = 0


def decide(case: Case, blocked: Mapping[int, str]) -> Decided:
    """Return which face is whose; `blocked` is root -> the gallery that it matches."""
    people, found, before, count = case.people, case.found, case.before, case.new
    faces = read_faces(case)
    moved_sums = place_strays(case, faces)
    for person, sum_E in reviewed(case, faces).items():
        moved_sums[person] = moved_sums.get(person, 0.0) + sum_E
    no_picture_twice(faces, case.clean.duplicates, before, count)
    totals = np.bincount(faces.person[faces.person >= 0], minlength=count + len(before.standing.ordinals))
    gone = _too_few(faces, totals, case.clean.min_images, count)
    for root, gallery in sorted(blocked.items()):
        faces.refuse(np.flatnonzero(faces.person == root), LISTED, found=gallery)
        gone[root] = LISTED
    roots = [n for n in np.unique(faces.person[faces.person >= 0]).tolist() if n < count]
    sums = sums_of(people, found, moved_sums)
    cells = {n: _cell(case.parts.targets, people, found, n) for n in roots}
    quality = {n: float(np.linalg.norm(sums[n]) / max(1.0, float(totals[n]))) for n in roots}
    chosen = _balanced(case.parts, roots, cells, quality, before)
    for n in sorted(set(roots) - set(chosen)):
        faces.refuse(np.flatnonzero(faces.person == n), UNBALANCED, found=str(cells[n]))
        gone[n] = UNBALANCED
    ordinal = {n: before.first_ordinal + place for place, n in enumerate(chosen)}
    published = {count + n: o for n, o in enumerate(before.standing.ordinals)}
    return Decided(
        identities=_identities(chosen, ordinal, sums, totals, cells, quality, before),
        faces=faces,
        ordinal=ordinal | published,
        people=told_of(people, found, ordinal, gone),
        strays=int(faces.moved[faces.person >= 0].sum()),
    )


def _too_few(faces: Faces, totals: Int64, least: int, count: int) -> dict[int, str]:
    """Refuse new identities with fewer images than asked for; return them."""
    small = np.flatnonzero((totals[:count] > 0) & (totals[:count] < least)).tolist()
    for root in small:
        faces.refuse(np.flatnonzero(faces.person == root), TOO_FEW, float(totals[root]), float(least))
    return dict.fromkeys(small, TOO_FEW)


def _cell(targets: Targets, people: Provisional, found: Between, root: int) -> Cell:
    """Return the cell of an identity: of what its parts read, weighted by their images."""
    mine = np.flatnonzero(found.root_M == root).tolist()
    weight = people.images_M[mine].astype(np.float64)
    names = sorted({name for n in mine for name in people.posteriors[n]})
    pooled = {
        name: float(np.average([people.posteriors[n].get(name, 0.0) for n in mine], weights=weight)) for name in names
    }
    return cell_of(pooled, targets)


def _balanced(
    parts: Parts, roots: Sequence[int], cells: Mapping[int, Cell], quality: Mapping[int, float], before: Before
) -> list[int]:
    """Return who is published: everybody, or the largest balanced set, the most consistent of each cell first."""
    targets = parts.targets
    if not targets.fields:
        return list(roots)
    numbers = {c: n for n, c in enumerate(targets.cells)}
    known = [n for n in roots if cells[n] in numbers]
    there: dict[Cell, int] = defaultdict(int)
    for ordinal in before.standing.ordinals:
        there[before.cells[ordinal]] += 1
    available = dict(there)
    for n in known:
        available[cells[n]] = available.get(cells[n], 0) + 1
    wanted = largest_balanced(targets, available, rounded=True).counts
    rank = rank_in_cell(
        np.array([numbers[cells[n]] for n in known], np.int64),
        np.array([quality[n] for n in known], np.float64),
        stable_order(parts.recipe.seed, np.array(known, np.uint64)),
    )
    return [
        n for n, r in zip(known, rank.tolist(), strict=True) if r < wanted.get(cells[n], 0) - there.get(cells[n], 0)
    ]


def _identities(
    chosen: Sequence[int],
    ordinal: Mapping[int, int],
    sums: npt.NDArray[np.float64],
    totals: Int64,
    cells: Mapping[int, Cell],
    quality: Mapping[int, float],
    before: Before,
) -> tuple[Identity, ...]:
    if not chosen:
        return ()
    templates: Float32 = unit_rows(sums[list(chosen)], "templates")
    ranks = dict(before.ranks)
    out = []
    for place, n in enumerate(chosen):
        cell = cells[n]
        rank = ranks.get(cell, 0)
        ranks[cell] = rank + 1
        out.append(
            Identity(
                ordinal=ordinal[n],
                candidate=ordinal[n],
                cell=cell,
                rank=rank,
                vector_D=templates[place],
                template_E=templates[place],
                template_images=int(totals[n]),
                quality=min(1.0, quality[n]),
            )
        )
    return tuple(out)
