"""The clean unit: the faces of one bucket of labels, label by label: copies out, main cluster kept, strays set apart.

What is left of a label is one provisional identity or several: its main cluster, and its further clusters, which may be
other people. Faces that nobody labels are clustered alike. Who is whom between labels is decided afterwards, on
templates, by `between`.

Legend: N faces of a label, E dimensions, K faces of a provisional identity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.cleaning import STRAY, main_cluster, pairs_above
from pipeline.domain.curation import Cleaning, Duplicates
from pipeline.domain.hashes import hamming
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.ports import Recogniser
from pipeline.domain.records import Float32
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.rows import FACE_COLUMNS, FEATURE_COLUMNS, cleaned_path, features_path, provisional_path
from pipeline.flow.enrol import resolve
from pipeline.flow.parts import Parts

Int64 = npt.NDArray[np.int64]
COPY, NEAR_COPY, OTHER_FACE, STRAYED, NO_CLUSTER, OTHER_PERSON = (
    "duplicate_bytes", "near_duplicate", "other_face_of_picture", "not_of_its_label", "label_without_cluster",
    "further_person_of_label",
)  # fmt: skip
CLEANED_COLUMNS: Mapping[str, str] = {
    "row": "int64",
    "face": "int32",
    "owner": "string",
    "provisional": "int32",
    "own_cos": "double?",
    **FACE_COLUMNS,
    "marks": "strings",
}
"""One row per face with an embedding; `provisional` -1 where it is of nobody (yet)."""
PROVISIONAL_COLUMNS: Mapping[str, str] = {
    "provisional": "int32",
    "owner": "string",
    "cluster": "int32",
    "images": "int64",
    "first_row": "int64",
    "sum": "vector",
    "posterior": "map",
}
_TOGETHER = 256
"""Faces that are compared at once where copies are looked for: bounds memory, and changes nothing."""
GROUP = 64
"""Provisional identities whose faces share a group of a table; group -1 holds those of nobody."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The cleaning's thresholds as cosines; above 1 where nothing is asked for."""

    link_cos: float
    keep_cos: float
    merge_cos: float
    drop_cos: float


def limits_of(judge: Recogniser, clean: Cleaning) -> Limits:
    """Return the thresholds of a recipe, false match rates turned into cosines by the judge's calibration.

    Raises:
        CalibrationError: a rate that the calibration does not support.
    """
    images = clean.template_images

    def cos(threshold: Any, probe: int, reference: int) -> float:
        if threshold is None:
            return 2.0
        if threshold.cos is not None:
            return float(threshold.cos)
        return resolve(threshold, judge.calibration, probe, reference)

    return Limits(
        cos(clean.link, 1, 1),
        cos(clean.keep, 1, images),
        cos(clean.merge, images, images),
        cos(clean.drop, images, images),
    )


def plan_clean(generation: int, buckets: int) -> list[Unit]:
    """Return one unit per bucket."""
    return [Unit(Stage.CLEAN, generation, n, 0) for n in range(buckets)]


@dataclass(slots=True)
class _Settled:
    """What became of the faces of one label, by row of the label; reasons empty where a face is kept."""

    provisional_N: npt.NDArray[np.int64]
    own_cos_N: npt.NDArray[np.float64]
    reason_N: list[str]
    found_N: list[str]
    value_N: npt.NDArray[np.float64]
    threshold_N: npt.NDArray[np.float64]
    clusters: list[int]


def clean_unit(unit: Unit, parts: Parts, kit: Kit, ingested: Sequence[Unit]) -> Receipt:
    """Clean the labels of one bucket, write what became of each face and who is left, commit.

    Args:
        unit: a clean unit.
        parts: the ports.
        kit: what curating needs beside them.
        ingested: the ingest units of its generation.
    """
    started_s = parts.clock.now_s()
    asked = curation(parts)
    limits = limits_of(parts.judge, asked.clean)
    faces = _bucket(kit, parts, ingested, unit.index)
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    people: list[dict[str, Any]] = []
    first = 0
    for owner, rows in sorted(_by_owner(faces).items()):
        mine = np.array(rows, np.int64)
        settled = _settle(faces, mine, limits, asked.clean, labelled=bool(owner))
        people += _people(faces, mine, settled, owner, first)
        for n, row in enumerate(mine):
            told = _cleaned(faces, int(row), settled, n, first, owner)
            groups[told["provisional"] // GROUP if told["provisional"] >= 0 else -1].append(told)
        first += len(settled.clusters)
    written = (
        kit.grouped.write(parts.store, cleaned_path(unit.name), CLEANED_COLUMNS, groups),
        kit.grouped.write(parts.store, provisional_path(unit.name), PROVISIONAL_COLUMNS, {0: people}),
    )
    outcomes = (r for group in groups.values() for r in group)
    counts = Counts.of((not r["reason"], False, (r["reason"],)) for r in outcomes)
    receipt = receipt_of(unit, parts, counts, written, started_s)
    commit(parts, receipt)
    return receipt


def _bucket(kit: Kit, parts: Parts, ingested: Sequence[Unit], bucket: int) -> dict[str, Any]:
    """Return the faces of a bucket in the order of the listing, as columns."""
    blocks = []
    for unit in ingested:
        found = kit.grouped.read(parts.store, features_path(unit), list(FEATURE_COLUMNS), bucket)
        if len(found["row"]):
            blocks.append(found)
    if not blocks:
        return {name: [] for name in FEATURE_COLUMNS}
    return {
        name: np.concatenate([b[name] for b in blocks])
        if isinstance(blocks[0][name], np.ndarray)
        else [value for b in blocks for value in b[name]]
        for name in FEATURE_COLUMNS
    }


def _by_owner(faces: Mapping[str, Any]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = defaultdict(list)
    for n, owner in enumerate(faces["owner"]):
        out[owner].append(n)
    return out


def _settle(
    faces: Mapping[str, Any], mine: npt.NDArray[np.int64], limits: Limits, clean: Cleaning, *, labelled: bool
) -> _Settled:
    """Return what becomes of the faces of one label, or of those without one."""
    count = len(mine)
    out = _Settled(
        np.full(count, -1, np.int64), np.full(count, np.nan), [""] * count, [""] * count,
        np.full(count, np.nan), np.full(count, np.nan), [],
    )  # fmt: skip
    _take_copies_out(faces, mine, clean.duplicates, out)
    left = np.flatnonzero([not r for r in out.reason_N])
    if not left.size:
        return out
    emb = faces["embedding"][mine[left]]
    found = main_cluster(emb, link_cos=limits.link_cos, keep_cos=limits.keep_cos, neighbours=clean.neighbours)
    if not labelled:
        _cluster_everybody(left, found.cluster_N, out)
        return out
    kept = left[found.kept_N]
    out.own_cos_N[left] = found.own_cos_N
    if kept.size:
        out.provisional_N[kept] = 0
        out.clusters.append(0)
    for cluster in range(1, int(found.cluster_N.max(initial=0)) + 1):
        # of a further cluster only those that the main one has not taken
        others = left[(found.cluster_N == cluster) & ~found.kept_N]
        if len(others) < 2:
            continue
        if clean.others == "drop":
            _refuse(
                out,
                others,
                OTHER_PERSON,
                found.own_cos_N[(found.cluster_N == cluster) & ~found.kept_N],
                limits.keep_cos,
            )
            continue
        out.provisional_N[others] = len(out.clusters)
        out.clusters.append(cluster)
    strays = left[[out.provisional_N[n] < 0 and not out.reason_N[n] for n in left]]
    reason = STRAYED if kept.size else NO_CLUSTER
    _refuse(out, strays, reason, out.own_cos_N[strays], limits.keep_cos)
    _one_face_per_picture(faces, mine, out)
    return out


def _cluster_everybody(left: npt.NDArray[np.int64], cluster_N: npt.NDArray[np.int64], out: _Settled) -> None:
    """Make every cluster of unlabelled faces, and every face of none, a provisional identity."""
    for cluster in range(int(cluster_N.max(initial=-1)) + 1):
        out.provisional_N[left[cluster_N == cluster]] = len(out.clusters)
        out.clusters.append(cluster)
    for alone in left[cluster_N == STRAY]:
        out.provisional_N[alone] = len(out.clusters)
        out.clusters.append(STRAY)


def _take_copies_out(faces: Mapping[str, Any], mine: npt.NDArray[np.int64], asked: Duplicates, out: _Settled) -> None:
    """Refuse copies of a picture within a label: of copies the one with the largest face stays, then the first."""
    size = np.array([faces["measures"][n].get("inter_eye_px", 0.0) for n in mine])
    order = np.lexsort((np.arange(len(mine)), -size))
    seen: dict[str, int] = {}
    for n in order:
        key = f"{faces['sha256'][mine[n]]} {faces['face'][mine[n]]}"
        if key in seen:
            _refuse(out, np.array([n]), COPY, np.array([np.nan]), np.nan, f"row {faces['row'][mine[seen[key]]]}")
        else:
            seen[key] = int(n)
    for n, twin, value, threshold in _near_copies(faces, mine, asked, order, out):
        _refuse(out, np.array([n]), NEAR_COPY, np.array([value]), threshold, f"row {faces['row'][mine[twin]]}")


def _near_copies(
    faces: Mapping[str, Any],
    mine: npt.NDArray[np.int64],
    asked: Duplicates,
    order: npt.NDArray[np.int64],
    out: _Settled,
) -> list[tuple[int, int, float, float]]:
    """Return (copy, what it is a copy of, value, threshold), by exact greedy choice in the order of preference."""
    hashes = [np.asarray(faces[name])[mine].astype(np.int64).view(np.uint64) for name in ("hash", "mirrored")]
    emb, rows = faces["embedding"][mine], np.asarray(faces["row"])[mine]
    left = np.array([n for n in order if not out.reason_N[n]], np.int64)
    kept = np.empty(0, np.int64)
    found: list[tuple[int, int, float, float]] = []
    for start in range(0, len(left), _TOGETHER):
        block = left[start : start + _TOGETHER]
        # compared with what stays, so that of many copies of one picture hardly a pair is held
        others = np.concatenate([kept, block])
        alike = _alike(hashes, emb, block, others, asked)
        stays = np.concatenate([np.ones(len(kept), bool), np.zeros(len(block), bool)])
        for n, pairs in enumerate(alike):
            # several faces of one picture are no copies of each other
            before = [p for p in pairs if stays[p[0]] and rows[others[p[0]]] != rows[block[n]]]
            if before:
                twin, value, threshold = min(before, key=lambda p: p[0])
                found.append((int(block[n]), int(others[twin]), value, threshold))
            stays[len(kept) + n] = not before
        kept = others[stays]
    return found


def _alike(
    hashes: Sequence[npt.NDArray[np.uint64]], emb_NE: Float32, block: Int64, others: Int64, asked: Duplicates
) -> list[list[tuple[int, float, float]]]:
    """Return, for each face of a block, which before it in `others` are alike: place there, value, threshold."""
    plain, mirrored = hashes
    out: list[list[tuple[int, float, float]]] = [[] for _ in block]
    before = np.arange(len(others)) < np.arange(len(others) - len(block), len(others))[:, None]
    if asked.bits is not None:
        first, second = np.minimum(block[:, None], others), np.maximum(block[:, None], others)
        near = np.minimum(hamming(plain[first], plain[second]), hamming(mirrored[first], plain[second]))
        for a, b in zip(*np.nonzero((near <= asked.bits) & before), strict=True):
            out[a].append((int(b), float(near[a, b]), float(asked.bits)))
    if asked.cos is not None:
        (rows, columns), cos = pairs_above(emb_NE[block], emb_NE[others], asked.cos)
        sooner = np.flatnonzero(before[rows, columns])
        for a, b, value in zip(*(of[sooner].tolist() for of in (rows, columns, cos)), strict=True):
            out[a].append((b, value, asked.cos))
    return out


def _one_face_per_picture(faces: Mapping[str, Any], mine: npt.NDArray[np.int64], out: _Settled) -> None:
    """Of several kept faces of one picture keep the one nearest to its template; the others are somebody else's."""
    best: dict[int, int] = {}
    for n in np.flatnonzero(out.provisional_N >= 0):
        row = int(faces["row"][mine[n]])
        now = best.setdefault(row, int(n))
        if now == n:
            continue
        keeps, goes = (int(n), now) if _nearer(out, int(n), now) else (now, int(n))
        best[row] = keeps
        out.provisional_N[goes] = -1
        _refuse(out, np.array([goes]), OTHER_FACE, out.own_cos_N[[goes]], float(out.own_cos_N[keeps]))


def _nearer(out: _Settled, a: int, b: int) -> bool:
    """Return whether `a` is rather the one meant: of the main cluster first, then by its cosine."""
    one, other = ((-out.provisional_N[n], np.nan_to_num(out.own_cos_N[n], nan=-1.0)) for n in (a, b))
    return bool(one > other)


def _refuse(
    out: _Settled,
    who: npt.NDArray[np.int64],
    reason: str,
    value: npt.NDArray[np.float64],
    threshold: float,
    found: str = "",
) -> None:
    for n, number in zip(who, value, strict=True):
        out.reason_N[int(n)], out.found_N[int(n)] = reason, found
        out.value_N[int(n)], out.threshold_N[int(n)] = number, threshold


def _people(
    faces: Mapping[str, Any], mine: npt.NDArray[np.int64], settled: _Settled, owner: str, first: int
) -> list[dict[str, Any]]:
    """Return the provisional identities of a label; those that lost every face to another picture are left out."""
    out = []
    for number, cluster in enumerate(settled.clusters):
        rows = mine[settled.provisional_N == number]
        if not rows.size:
            continue
        emb = faces["embedding"][rows].astype(np.float64)
        out.append(
            {
                "provisional": first + number,
                "owner": owner,
                "cluster": cluster,
                "images": len(rows),
                "first_row": int(np.min(np.asarray(faces["row"])[rows])),
                # added one by one, so that a sum is one number everywhere
                "sum": _float32(np.cumsum(emb, axis=0)[-1]),
                "posterior": _posterior([faces["measures"][n] for n in rows]),
            }
        )
    return out


def _float32(total: npt.NDArray[np.float64]) -> Float32:
    return total.astype(np.float32)


def _posterior(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every attribute estimate over faces, by name."""
    names = sorted({name for one in measures for name in one if "=" in name})
    return {name: float(np.mean([one[name] for one in measures if name in one])) for name in names}


def _cleaned(faces: Mapping[str, Any], row: int, settled: _Settled, n: int, first: int, owner: str) -> dict[str, Any]:
    provisional = int(settled.provisional_N[n])
    points = faces["points"][row]
    return {
        "row": int(faces["row"][row]),
        "face": int(faces["face"][row]),
        "owner": owner,
        "provisional": first + provisional if provisional >= 0 else -1,
        "own_cos": _number(settled.own_cos_N[n]),
        "reason": settled.reason_N[n],
        "found": settled.found_N[n],
        "value": _number(settled.value_N[n]),
        "threshold": _number(settled.threshold_N[n]),
        "sha256": faces["sha256"][row],
        "hash": int(faces["hash"][row]),
        "mirrored": int(faces["mirrored"][row]),
        "points": points if np.isfinite(points).all() else None,
        "embedding": faces["embedding"][row],
        "measures": faces["measures"][row],
        "marks": list(faces["marks"][row]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
