"""Between labels: which provisional identities are one person, which give way, and which join somebody published.

Works on templates alone, one per provisional identity, in the order of the listing, so that neither the number of
buckets nor of workers changes anything. What is published is never reopened: new images join it, and two published
identities that look alike are reported.

Legend: M provisional identities, P published ones, E dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.domain.cleaning import merge_identities, pairs_above
from pipeline.domain.cosines import exact_cosines
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.one_to_many import References, nearest
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.review import Decisions, Pair, named
from pipeline.flow.curating.clean import Limits
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.rows import provisional_path
from pipeline.flow.parts import Parts

LOOKS_LIKE, LOOKS_PUBLISHED, NOT_PUBLISHED = (
    "looks_like_larger_identity", "looks_like_published_identity", "not_of_published_identity",
)  # fmt: skip
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
NONE = Decisions()


@dataclass(frozen=True, slots=True)
class Provisional:
    """Provisional identities of a generation, in the order of their first input.

    Attributes:
        place: (bucket, number in it) -> row here.
        owners: whose they are said to be; empty where nobody says.
        clusters_M: 0 the main one of its label.
        images_M: faces of each.
        sums_ME: float32 sums of their unit embeddings.
        posteriors: mean attribute estimates.
    """

    place: Mapping[tuple[int, int], int]
    owners: Sequence[str]
    clusters_M: Int64
    images_M: Int64
    sums_ME: Float32
    posteriors: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is published already.

    Attributes:
        ordinals: P of them.
        templates_PE: of their published images.
        owner: label -> the ordinal whose label it is.
    """

    ordinals: Sequence[int] = ()
    templates_PE: Float32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    owner: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Between:
    """What becomes of provisional identities.

    Attributes:
        root_M: int64, the provisional identity that it is part of; itself where it is its own.
        joins_M: int64, the published ordinal that it joins, -1 where none.
        reason_M: why it is refused; empty where it is not.
        partner_M: int64, row of the provisional identity with which it was merged, or to which it gave way; -1.
        cos_M: their cosine, or that to the published one; NaN where neither.
        alike: pairs of published ordinals that a new identity matches both, and its two cosines' lesser.
    """

    root_M: Int64
    joins_M: Int64
    reason_M: tuple[str, ...]
    partner_M: Int64
    cos_M: Float64
    alike: tuple[tuple[int, int, float], ...]


def read_provisional(kit: Kit, parts: Parts, units: Sequence[str]) -> Provisional:
    """Return what the clean units of a generation left, bucket by bucket, ordered by first input."""
    names = ["provisional", "owner", "cluster", "images", "first_row", "sum", "posterior"]
    keys: list[tuple[int, int]] = []
    owners: list[str] = []
    posteriors: list[Mapping[str, float]] = []
    numbers: list[tuple[int, int, int]] = []
    sums: list[Float32] = []
    for bucket, unit in enumerate(units):
        found = kit.grouped.read(parts.store, provisional_path(unit), names, 0)
        if not len(found["provisional"]):
            continue
        keys += [(bucket, int(n)) for n in found["provisional"]]
        owners += found["owner"]
        posteriors += found["posterior"]
        numbers += list(zip(*(found[k].tolist() for k in ("first_row", "cluster", "images")), strict=True))
        sums.append(found["sum"])
    if not keys:
        none = np.empty(0, np.int64)
        return Provisional({}, (), none, none, np.empty((0, parts.judge.space.dimensions), np.float32), ())
    order = sorted(range(len(keys)), key=lambda n: (numbers[n][0], numbers[n][1], keys[n]))
    return Provisional(
        {keys[n]: row for row, n in enumerate(order)},
        [owners[n] for n in order],
        np.array([numbers[n][1] for n in order], np.int64),
        np.array([numbers[n][2] for n in order], np.int64),
        np.concatenate(sums)[order],
        [posteriors[n] for n in order],
    )


def between(people: Provisional, there: Standing, limits: Limits, decisions: Decisions = NONE) -> Between:
    """Return who is whom; what people decided about pairs comes before any threshold.

    Raises:
        UserError: a decision is about somebody who is not there, or contradicts the others.
    """
    _require_known(people, decisions)
    count = len(people.owners)
    joins, reason = np.full(count, -1, np.int64), [""] * count
    partner, cos = np.full(count, -1, np.int64), np.full(count, np.nan)
    alike: list[tuple[int, int, float]] = []
    if count and len(there.ordinals):
        alike = _against_published(people, there, limits, joins, reason, cos)
    left = np.flatnonzero((joins < 0) & np.array([not r for r in reason], bool))
    root = np.arange(count)
    sums, images = people.sums_ME.astype(np.float64), people.images_M.copy()
    left = _joined_by_review(people, decisions, left, root, partner, sums, images)
    if left.size:
        place = {int(n): row for row, n in enumerate(left)}
        merged = merge_identities(
            sums[left],
            images[left],
            merge_cos=limits.merge_cos,
            drop_cos=limits.drop_cos,
            apart=_known_apart(people, decisions, root, place),
        )
        into = np.arange(count)
        into[left] = left[merged.into_M]
        root = into[root]
        found = merged.partner_M >= 0
        partner[left[found]] = left[merged.partner_M[found]]
        cos[left[found]] = merged.cos_M[found]
        for n in np.flatnonzero(np.isin(root, left[merged.dropped_M])):
            reason[n] = LOOKS_LIKE
    return Between(root, joins, tuple(reason), partner, cos, tuple(alike))


def digest_of_pair(people: Provisional, one: int, other: int) -> str:
    """Return the digest of two people's numbers, whichever is named first."""
    low, high = sorted((one, other))
    return sha256_hex(people.sums_ME[low].tobytes() + people.sums_ME[high].tobytes())


def _require_known(people: Provisional, decisions: Decisions) -> None:
    for pair, digest in decisions.pairs.items():
        rows = [people.place[p] for p in pair if p in people.place]
        if len(rows) < 2 or digest_of_pair(people, rows[0], rows[1]) != digest:
            raise UserError(
                f"decision about {_both(pair)}: {'they are not both here' if len(rows) < 2 else 'they are others here'}"
                "; give back the queue of this very dataset"
            )


def _both(pair: Pair) -> str:
    return " and ".join(named(place) for place in sorted(pair))


def _joined_by_review(
    people: Provisional,
    decisions: Decisions,
    left: Int64,
    root: Int64,
    partner: Int64,
    sums: Float64,
    images: Int64,
) -> Int64:
    """Put together what people say is one person; return who is left to be compared."""
    able = set(left.tolist())
    for pair in sorted(decisions.same, key=sorted):
        rows = sorted({int(root[people.place[p]]) for p in pair if p in people.place} & able)
        if len(rows) == 2:
            low, high = rows
            sums[low] += sums[high]
            images[low] += images[high]
            root[root == high] = low
            partner[high] = low
            able.discard(high)
    return np.array(sorted(able), np.int64)


def _known_apart(
    people: Provisional, decisions: Decisions, root: Int64, place: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Return the pairs that people say are two, as rows of those that are compared."""
    out = []
    for pair in decisions.apart:
        roots = {int(root[people.place[p]]) for p in pair}
        if len(roots) < 2:
            raise UserError(f"decisions: {_both(pair)} are apart, and by others the same; take one of these out")
        rows = sorted(place[r] for r in roots if r in place)
        if len(rows) == 2:
            out.append((rows[0], rows[1]))
    return sorted(out)


def _against_published(
    people: Provisional, there: Standing, limits: Limits, joins: Int64, reason: list[str], cos: Float64
) -> list[tuple[int, int, float]]:
    """Decide who joins somebody published, who looks too much like one; return published pairs that look alike."""
    templates = unit_rows(people.sums_ME, "provisional identities")
    references = References(there.templates_PE, "published identities")
    best, row = nearest(templates, references)
    place = {ordinal: n for n, ordinal in enumerate(there.ordinals)}
    for n, owner in enumerate(people.owners):
        mine = place.get(there.owner.get(owner, -1))
        if mine is not None and people.clusters_M[n] == 0:
            own = float(exact_cosines(templates, np.array([n]), references.rows_ME, np.array([mine]))[0])
            cos[n] = own
            if own >= limits.keep_cos:
                joins[n] = there.ordinals[mine]
                continue
        if best[n] >= limits.merge_cos:
            joins[n], cos[n] = there.ordinals[int(row[n])], best[n]
        elif mine is not None and people.clusters_M[n] == 0:
            reason[n] = NOT_PUBLISHED
        elif best[n] >= limits.drop_cos:
            reason[n], cos[n] = LOOKS_PUBLISHED, best[n]
    return _alike(templates, references, there, limits)


def _alike(templates: Float32, references: References, there: Standing, limits: Limits) -> list[tuple[int, int, float]]:
    """Return pairs of published identities that one new identity matches both, the nearest first."""
    if limits.merge_cos > 1.0:
        return []
    (rows, columns), cos = pairs_above(templates, references.rows_ME, limits.merge_cos)
    found: dict[tuple[int, int], float] = {}
    for n in np.unique(rows):
        mine = np.flatnonzero(rows == n)
        for a in mine:
            for b in mine[mine > a]:
                one, other = sorted((there.ordinals[int(columns[a])], there.ordinals[int(columns[b])]))
                both = float(min(cos[a], cos[b]))
                found[one, other] = max(found.get((one, other), -1.0), both)
    return sorted(((a, b, c) for (a, b), c in found.items()), key=lambda p: (-p[2], p[0], p[1]))
