"""Cleaning labels: which images of a folder are one person, which folders are one person, whose a stray image is.

Within an identity a graph of linked images (DBSCAN) finds the main cluster, and its template then decides about every
image, so that a chain of look-alikes does not carry strangers in. Between identities templates are compared exactly
and blocked; what is merged is pooled again before it is compared again, for the same reason. Every comparison is the
exact cosine of `pipeline.domain.cosines`: no block size, order of work or device changes an outcome.

Sources: M. Ester et al., "A density-based algorithm for discovering clusters", KDD 1996; the cleaning of WebFace260M
(Z. Zhu et al., CVPR 2021): main cluster of a folder, merge above one centre cosine, drop the smaller above another.

Legend: N images of one identity, M identities, E dimensions, P pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipeline.domain.cosines import Float64, Int64, NumpyProduct, Pairs, exact_cosines
from pipeline.domain.one_to_many import References, nearest
from pipeline.domain.records import Float32, require_unit_rows, unit_rows
from pipeline.domain.separation import separate

Bool = npt.NDArray[np.bool_]
STRAY = -1
"""The cluster of an image that is linked to too few others."""
BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """What becomes of an identity's images.

    Attributes:
        kept_N: in the main cluster, as its template sees it.
        cluster_N: int64, the linked cluster: 0 the largest, 1 the next (of equals the one with the earlier image),
            STRAY where there is none.
        own_cos_N: float64, cosine to the template of the kept ones without the image itself; NaN where there are none.
    """

    kept_N: Bool
    cluster_N: Int64
    own_cos_N: Float64


def main_cluster(emb_NE: Float32, *, link_cos: float, keep_cos: float, neighbours: int = 2) -> Cluster:
    """Return which images of one identity are of its main person.

    Images are linked at `link_cos` (sample against sample). One with at least `neighbours` linked images, itself
    counted, is a core; cores that are linked are one cluster, and others belong to the cluster of the nearest core that
    they are linked to. From the largest cluster on, the kept ones are those at or above `keep_cos` (sample against
    template) of the template of the other kept ones, until nothing changes. A single image is kept; where several are
    there and no two are linked, none is.

    Raises:
        BadVectorError: a row is NaN, infinite or not of unit length.
    """
    emb = require_unit_rows(emb_NE, "images of an identity")
    if len(emb) < 2:
        return Cluster(np.ones(len(emb), bool), np.zeros(len(emb), np.int64), np.full(len(emb), np.nan))
    cluster = _clusters(emb, link_cos, neighbours)
    kept = cluster == 0
    seen: set[bytes] = set()
    own = _own_cos(emb, kept)
    while kept.any():
        now = own >= keep_cos
        if (now == kept).all():
            break
        if now.tobytes() in seen:
            # two sets that lead to each other: what both hold is sure
            kept = now & kept
            own = _own_cos(emb, kept)
            break
        seen.add(now.tobytes())
        kept = now
        own = _own_cos(emb, kept)
    if kept.sum() < 2:
        kept = np.zeros(len(emb), bool)
    return Cluster(kept, cluster, own)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What becomes of identities that look like each other.

    Attributes:
        into_M: int64, the identity that it is part of now: itself, or the one with the lower number.
        dropped_M: looks like a larger one, and not enough to be it.
        partner_M: int64, the identity that it was merged with or gave way to; -1 where neither.
        cos_M: float64, their cosine then; NaN where neither.
    """

    into_M: Int64
    dropped_M: Bool
    partner_M: Int64
    cos_M: Float64


def merge_identities(
    sums_ME: Float64,
    images_M: npt.ArrayLike,
    *,
    merge_cos: float,
    drop_cos: float,
    apart: Collection[tuple[int, int]] = (),
) -> Merged:
    """Return which identities are one person, and which give way to a look-alike.

    In each round the pairs of templates at or above `merge_cos` are taken from the highest cosine down, each identity
    in one pair at most; what was merged is pooled and compared again. Of what is left, an identity at or above
    `drop_cos` of one with more images (of equals the earlier) gives way to it.

    Args:
        sums_ME: float64, sums of each identity's unit embeddings.
        images_M: how many each sum holds.
        merge_cos: template against template; above 1 to merge nothing.
        drop_cos: template against template; above 1 to drop nothing.
        apart: pairs (lower, higher) of which somebody knows that they are two people: they are never merged, and
            neither gives way to the other.

    Raises:
        ValueError: `drop_cos` lies above `merge_cos`, though neither is switched off.
        BadVectorError: a sum is NaN or of no length.
    """
    if merge_cos < drop_cos <= 1.0:
        raise ValueError(f"drop_cos {drop_cos} lies above merge_cos {merge_cos}: what is merged cannot be dropped")
    sums, images = np.array(sums_ME, np.float64), np.array(images_M, np.int64)
    count = len(sums)
    into, partner, cos = np.arange(count), np.full(count, -1, np.int64), np.full(count, np.nan)
    dropped = np.zeros(count, bool)
    if count < 2:
        return Merged(into, dropped, partner, cos)
    templates = unit_rows(sums, "templates of identities")
    alive = np.ones(count, bool)
    changed = np.ones(count, bool)
    while changed.any():
        taken = np.zeros(count, bool)
        for value, low, high in _best_pairs(templates, alive, changed, merge_cos):
            if apart and _kept_apart(into, low, high, apart):
                continue
            taken[[low, high]] = True
            sums[low] += sums[high]
            images[low] += images[high]
            alive[high] = False
            into[into == high] = low
            partner[high], cos[high] = low, value
            templates[low] = unit_rows(sums[low][None], "templates of identities")[0]
        changed = taken & alive
    left = np.flatnonzero(alive)
    order = left[np.lexsort((left, -images[left]))]
    found = separate(templates[order], min(drop_cos, 1.0)) if drop_cos <= 1.0 else None
    if found is not None:
        lost = np.flatnonzero(~found.kept_N)
        lost = lost[[not _kept_apart(into, order[n], order[found.collided_with_N[n]], apart) for n in lost]]
        dropped[order[lost]] = True
        partner[order[lost]], cos[order[lost]] = order[found.collided_with_N[lost]], found.cos_N[lost]
    # what is part of a dropped one goes with it
    dropped |= dropped[into]
    return Merged(into, dropped, partner, cos)


def _kept_apart(into: Int64, one: int, other: int, apart: Collection[tuple[int, int]]) -> bool:
    """Return whether any part of one identity and any of the other are known to be two people."""
    return any({int(into[a]), int(into[b])} == {int(one), int(other)} for a, b in apart)


def whose(
    emb_NE: Float32, references: References, own_N: Int64, *, match_cos: float, margin_cos: float
) -> tuple[Int64, Float64]:
    """Return, for stray images, the identity that each is of, or -1, and the cosine to the nearest one.

    An image is of the identity whose template is nearest, if that is at or above `match_cos` and the next one at least
    `margin_cos` further away.

    Args:
        emb_NE: float32 unit rows.
        references: templates.
        own_N: int64, the identity that an image was taken out of, with which it is not compared; -1 for none.
        match_cos: sample against template, for the number of templates (1:N).
        margin_cos: least distance of the second nearest.
    """
    best, row = nearest(emb_NE, references, own_N)
    found = np.flatnonzero((best >= match_cos) & (row >= 0))
    second = np.full(len(best), -1.0)
    second[found] = _second(emb_NE[found], references, (own_N[found], row[found]), best[found] - margin_cos)
    sure = (best >= match_cos) & (best - second >= margin_cos) & (row >= 0)
    return np.where(sure, row, -1), best


def _second(emb_NE: Float32, references: References, but: tuple[Int64, Int64], floor_N: Float64) -> Float64:
    """Return each row's largest cosine to a reference but two, or -1 where none comes near its floor."""
    second = np.full(len(emb_NE), -1.0)
    # images of like floors share a block, so that the lowest of a block is hardly lower than the others
    order = np.argsort(-floor_N, kind="stable")
    for at in range(0, len(order), BLOCK):
        who = order[at : at + BLOCK]
        (rows, columns), cos = pairs_above(emb_NE[who], references.rows_ME, float(floor_N[who].min()) - 1e-9)
        others = (columns != but[0][who[rows]]) & (columns != but[1][who[rows]])
        np.maximum.at(second, who[rows[others]], cos[others])
    return second


def pairs_above(rows_AE: Float32, others_BE: Float32, floor_cos: float) -> tuple[Pairs, Float64]:
    """Return every pair of rows whose exact cosine is at least `floor_cos`, ordered, and these cosines."""
    product = NumpyProduct()
    mine, theirs, values = [], [], []
    for a in range(0, len(rows_AE), BLOCK):
        held = product.hold(rows_AE[a : a + BLOCK])
        for b in range(0, len(others_BE), BLOCK):
            rows, columns = product.contenders(held, product.hold(others_BE[b : b + BLOCK]), floor_cos)
            rows, columns = rows + a, columns + b
            cos = exact_cosines(rows_AE, rows, others_BE, columns)
            sure = cos >= floor_cos
            mine.append(rows[sure])
            theirs.append(columns[sure])
            values.append(cos[sure])
    if not mine:
        return (np.empty(0, np.int64), np.empty(0, np.int64)), np.empty(0)
    rows_P, columns_P, cos_P = np.concatenate(mine), np.concatenate(theirs), np.concatenate(values)
    order = np.lexsort((columns_P, rows_P))
    return (rows_P[order], columns_P[order]), cos_P[order]


def _best_pairs(templates: Float32, alive: Bool, changed: Bool, floor_cos: float) -> Iterator[tuple[float, int, int]]:
    """Yield (cosine, lower, higher) of pairs of which one has changed, the nearest first, each row in one at most."""
    if floor_cos > 1.0:
        return
    new, all_ = np.flatnonzero(changed & alive), np.flatnonzero(alive)
    (rows, columns), cos = pairs_above(templates[new], templates[all_], floor_cos)
    mine, theirs = new[rows], all_[columns]
    # of two that have changed the pair is found from both sides
    once = (mine < theirs) | ((mine > theirs) & ~changed[theirs])
    low, high, cos = np.minimum(mine, theirs)[once], np.maximum(mine, theirs)[once], cos[once]
    order = np.lexsort((high, low, -cos))
    free = np.ones(len(templates), bool)
    for start in range(0, len(order), BLOCK):
        # most pairs of many look-alikes are taken already, and left out together
        part = order[start : start + BLOCK]
        for n in part[free[low[part]] & free[high[part]]]:
            if free[low[n]] and free[high[n]]:
                free[[low[n], high[n]]] = False
                yield float(cos[n]), int(low[n]), int(high[n])


def _clusters(emb: Float32, link_cos: float, neighbours: int) -> Int64:
    """Return the cluster of each row, the largest first."""
    count = len(emb)
    core = np.ones(count, bool)
    if neighbours > 2:
        links = np.ones(count, np.int64)
        for rows, _, _ in _links(emb, link_cos):
            links += np.bincount(rows, minlength=count)
        core = links >= neighbours
    linked, part = np.zeros(count, bool), np.arange(count)
    border: list[tuple[Int64, Int64]] = []
    for rows, columns, cos in _links(emb, link_cos):
        linked[rows] = True
        both = core[rows] & core[columns]
        edges = np.unique(part[rows[both]] * count + part[columns[both]])
        graph = csr_array((np.ones(len(edges), np.int8), np.divmod(edges, count)), shape=(count, count))
        part = connected_components(graph, directed=False)[1].astype(np.int64)[part]
        # a row at the border belongs to the nearest core that it is linked to, of equals to the earlier one
        near = ~core[rows] & core[columns]
        order = np.lexsort((columns[near], -cos[near], rows[near]))
        who = rows[near][order]
        first = np.flatnonzero(np.diff(who, prepend=-1))
        border.append((who[first], columns[near][order][first]))
    out = np.where(core & linked, part, STRAY)
    for who, nearest_core in border:
        out[who] = part[nearest_core]
    return _by_size(out)


def _links(emb: Float32, link_cos: float) -> Iterator[tuple[Int64, Int64, Float64]]:
    """Yield the pairs that are linked, all those of some rows at a time: together they would not fit into memory."""
    for start in range(0, len(emb), BLOCK // 2):
        (rows, columns), cos = pairs_above(emb[start : start + BLOCK // 2], emb, link_cos)
        linked = rows + start != columns
        yield rows[linked] + start, columns[linked], cos[linked]


def _by_size(part_N: Int64) -> Int64:
    """Return clusters numbered by falling size, of equals by their first row; a cluster of one image is none."""
    names, first, counts = np.unique(part_N, return_index=True, return_counts=True)
    real = (names != STRAY) & (counts > 1)
    ranked = sorted(zip(-counts[real], first[real], names[real], strict=True))
    number = {int(name): n for n, (_, _, name) in enumerate(ranked)}
    return np.array([number.get(int(p), STRAY) for p in part_N], np.int64)


def _own_cos(emb: Float32, kept: Bool) -> Float64:
    """Return each row's cosine to the template of the kept rows but itself; NaN where that is of nobody."""
    total = np.zeros(emb.shape[1])
    wide = emb.astype(np.float64)
    if kept.any():
        # row by row, so that a sum is one number everywhere
        total = np.cumsum(wide[kept], axis=0)[-1]
    rest = total - np.where(kept[:, None], wide, 0.0)
    others = int(kept.sum()) - kept.astype(np.int64)
    lengths = np.sqrt(np.cumsum(rest * rest, axis=1)[:, -1])
    sound = (others > 0) & (lengths > 1e-9)
    template = (rest / np.where(sound, lengths, 1.0)[:, None]).astype(np.float32)
    cos = np.cumsum(wide * template, axis=1)[:, -1]
    return np.where(sound, cos, np.nan)
