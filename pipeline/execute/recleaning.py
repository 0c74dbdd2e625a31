"""Cleaning a published set again under another recogniser, from the embeddings that were added beside its segments.

A recogniser errs in its own way, so what one lets pass another may find; that is a round of the cleaning of WebFace260M
(Z. Zhu et al., CVPR 2021, "cleaning automatically utilizing self-training"). Labels never change and nobody is merged:
images that are not of their identity's main cluster get a number that says so, by which judging again leaves them out,
and pairs of identities that the recogniser takes for one person are reported.

Legend: N images of one identity, M identities, E dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.cleaning import main_cluster, pairs_above
from pipeline.domain.errors import PlanMismatchError, StoreError, UserError
from pipeline.domain.manifest import Counts, IndexRow, Receipt, canonical_json, sha256_hex
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.sidecar import SideCar
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import receipt_of
from pipeline.flow.parts import Parts
from pipeline.flow.sidecars import (
    folder_of,
    read_added_embeddings,
    record_path,
    remaining,
    side_car_path,
    side_car_records,
)

TOGETHER = 4096
"""Identities whose embeddings are read together."""
MOST_PAIRS = 1000
"""Pairs that are written down, the nearest first; all are counted."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a set is cleaned by.

    Attributes:
        by: name of the recogniser that was added.
        model: who it is, as its side-cars say.
        version: the version whose images are cleaned.
        link_cos, keep_cos: image against image, and image against template.
        same_cos: template against template, at which two identities are reported; above 1 for none.
        min_images: identities that keep fewer leave as a whole.
    """

    by: str
    model: Mapping[str, Any]
    version: str
    link_cos: float
    keep_cos: float
    same_cos: float
    min_images: int

    @property
    def side_car(self) -> str:
        """Return the name of the side-cars with the numbers."""
        return f"main-cluster-{self.by}"

    @property
    def measures(self) -> tuple[str, str]:
        """Return the names of the numbers: 1 where an image is of its main cluster, else 0; cosine to its template."""
        return f"main_cluster@{self.by}", f"own_cos@{self.by}"

    def about(self, found: Recleaned) -> dict[str, Any]:
        """Return what a side-car says of who found its numbers, and of whom it takes for one person."""
        options = {
            "by": self.by, "version": self.version, "link_cos": self.link_cos, "keep_cos": self.keep_cos,
            "same_cos": self.same_cos, "min_images": self.min_images,
        }  # fmt: skip
        said = {"name": self.side_car, "component": "main-cluster", "options": options, "model": dict(self.model)}
        pairs = [[a, b, round(cos, 6)] for a, b, cos in found.alike[:MOST_PAIRS]]
        return {**said, "measures": list(self.measures), "space": None, "alike": pairs}


@dataclass(frozen=True, slots=True)
class Recleaned:
    """What a recogniser says of a published set.

    Attributes:
        numbers: key -> whether the image is of its identity's main cluster, and its cosine to the others' template
            (NaN where there is none).
        unreadable: images in which the recogniser read nothing.
        emptied: labels of which fewer images than asked for are left, none of which stays.
        alike: pairs of labels whose templates it takes for one person's, and their cosine; the nearest first.
    """

    numbers: Mapping[str, tuple[bool, float]] = field(repr=False)
    unreadable: int
    emptied: tuple[int, ...]
    alike: tuple[tuple[int, int, float], ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Return what people are told of it."""
        stays = sum(inside for inside, _ in self.numbers.values())
        return {
            "images": len(self.numbers),
            "images_left_out": len(self.numbers) - stays,
            "unreadable": self.unreadable,
            "identities_left_out": len(self.emptied),
            "alike": [[a, b, round(cos, 6)] for a, b, cos in self.alike[:MOST_PAIRS]],
            "alike_in_all": len(self.alike),
        }


def reclean(parts: Parts, rows: Sequence[IndexRow], asked: Asked) -> Recleaned:
    """Return what the recogniser says of the images of a version; reads only.

    Args:
        parts: the ports.
        rows: the version's index without twins, by label.
        asked: by whom, and how strictly.

    Raises:
        UserError: the recogniser was not added to every image.
        StoreError: a side-car is damaged.
    """
    _require_added(parts, {row.segment for row in rows}, asked.by)
    numbers: dict[str, tuple[bool, float]] = {}
    labels: list[int] = []
    templates: list[Float32] = []
    emptied: list[int] = []
    unreadable = 0
    for label, keys, emb in _identities(parts, rows, asked.by):
        sound: npt.NDArray[np.bool_] = np.asarray(np.isfinite(emb).all(axis=1))
        unreadable += int((~sound).sum())
        numbers |= dict.fromkeys(keys, (False, float("nan")))
        found = main_cluster(emb[sound], link_cos=asked.link_cos, keep_cos=asked.keep_cos)
        stays = int(found.kept_N.sum()) >= max(1, asked.min_images)
        if not stays:
            emptied.append(label)
        else:
            labels.append(label)
            total = np.cumsum(emb[sound][found.kept_N].astype(np.float64), axis=0)[-1:]
            templates.append(unit_rows(total, "templates"))
        read = [key for key, able in zip(keys, sound.tolist(), strict=True) if able]
        for n, key in enumerate(read):
            numbers[key] = (stays and bool(found.kept_N[n]), float(found.own_cos_N[n]))
    return Recleaned(numbers, unreadable, tuple(emptied), _alike(labels, templates, asked.same_cos))


def _require_added(parts: Parts, segments: Collection[str], by: str) -> None:
    there = side_car_records(parts.store)
    lacks = [s for s in sorted(segments) if all(r.unit["side_car"] != by for r in there.get(s, ()))]
    if lacks:
        raise UserError(
            f"{parts.store.uri}: {len(lacks)} of {len(segments)} segments have no embeddings by {by!r} ({lacks[0]}); "
            f"run the same `facemint measure --add {by}` again, which adds what is missing"
        )


def _identities(parts: Parts, rows: Sequence[IndexRow], by: str) -> Iterator[tuple[int, list[str], Float32]]:
    """Yield each label with the keys and embeddings of its images, in the order of the index."""
    block: dict[int, list[IndexRow]] = defaultdict(list)
    for row in rows:
        if row.label not in block and len(block) == TOGETHER:
            yield from _embedded(parts, block, by)
            block.clear()
        block[row.label].append(row)
    yield from _embedded(parts, block, by)


def _embedded(
    parts: Parts, block: Mapping[int, Sequence[IndexRow]], by: str
) -> Iterator[tuple[int, list[str], Float32]]:
    wanted: dict[str, set[str]] = defaultdict(set)
    for mine in block.values():
        for row in mine:
            wanted[row.segment].add(row.key)
    emb: dict[str, Float32] = {}
    for segment, keys in sorted(wanted.items()):
        there, rows_NE = read_added_embeddings(parts.segments, parts.store, segment, by)
        emb |= {key: rows_NE[n] for n, key in enumerate(there) if key in keys}
        if lacks := keys - set(there):
            raise StoreError(
                f"{segment}: {min(lacks)} has no embedding by {by!r}, and others have; add it with --replace"
            )
    for label, mine in block.items():
        yield label, [row.key for row in mine], np.stack([emb[row.key] for row in mine])


def _alike(labels: Sequence[int], templates: Sequence[Float32], same_cos: float) -> tuple[tuple[int, int, float], ...]:
    if same_cos > 1.0 or len(labels) < 2:
        return ()
    all_ME = np.concatenate(templates)
    (rows, columns), cos = pairs_above(all_ME, all_ME, same_cos)
    found = [(labels[a], labels[b], float(c)) for a, b, c in zip(rows, columns, cos, strict=True) if a < b]
    return tuple(sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1])))


def write_numbers(
    parts: Parts, known: Mapping[str, Receipt], asked: Asked, found: Recleaned, *, replace: bool = False
) -> int:
    """Write the numbers beside the segments, and a record of each side-car; return how many were written.

    Images that the version does not publish get none, so a filter that reads them lets none of these pass.

    Raises:
        UserError: the set was cleaned by this recogniser before, with other thresholds.
    """
    about = asked.about(found)
    digest = sha256_hex(canonical_json(about))[:32]
    folder = folder_of(parts.recipe.kind)
    made = [r for _, r in sorted(known.items()) if r.unit["stage"] == Stage.MAKE.value and r.counts.accepted]
    units = [
        Unit(
            Stage.MEASURE, r.unit["generation"], r.unit["index"], r.unit["round"],
            of=r.name, reader=digest, side_car=asked.side_car,
        )
        for r in made
    ]  # fmt: skip
    try:
        left = remaining(parts.store, folder, units, replace=replace)
    except PlanMismatchError:
        raise UserError(
            f"{parts.store.uri}: was cleaned by {asked.by!r} before, with other thresholds or other embeddings; take "
            "that back with `facemint refilter`, and clean anew with --replace"
        ) from None
    for unit in left:
        _write_one(parts, unit, asked, found, about)
    return len(left)


def _write_one(parts: Parts, unit: Unit, asked: Asked, found: Recleaned, about: Mapping[str, Any]) -> None:
    started_s = parts.clock.now_s()
    folder, (inside, own) = folder_of(parts.recipe.kind), asked.measures
    columns = parts.segments.read_columns(parts.store, unit.of, ["key", "accepted"])
    keys = tuple(k for k, kept in zip(columns["key"], columns["accepted"], strict=True) if kept)
    rows = []
    for key in keys:
        kept, cos = found.numbers.get(key, (None, float("nan")))
        row = {} if kept is None else {inside: float(kept)}
        rows.append(row | ({own: cos} if np.isfinite(cos) else {}))
    car = SideCar(unit.of, keys, tuple(rows), np.empty((len(keys), 0), np.float32), about)
    parts.guard()
    entry = parts.segments.write_side_car(parts.store, side_car_path(unit, folder), car)
    receipt = receipt_of(unit, parts, Counts(len(keys), len(keys), 0, {}), (entry,), started_s)
    parts.guard()
    parts.store.put_if_absent(record_path(unit, folder), receipt.to_json())
