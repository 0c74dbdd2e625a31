"""Exporting: which images of a version an export is handed, under which labels, and where it is written.

Four steps, in this order: twins or not; at most so many images of an identity; the parts of a split; dense labels. A
split is one of identities, and twins, like everything else that was made of an image, have the identity of that image:
so linked images never lie on two sides of it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.domain.errors import OutputError, UserError
from pipeline.domain.manifest import IndexRow, Manifest, Receipt, segment_path
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.ports import Exporter, SegmentWriter, Store
from pipeline.domain.privacy import is_personal, is_private, of_real_people, private_path
from pipeline.domain.recipe import ExportNode
from pipeline.domain.records import Conditions, Float32, Measures, Whole
from pipeline.domain.twins import is_twin, parent_of, without_twins
from pipeline.flow.sidecars import open_side_car, read_added_measures, side_car_records
from pipeline.flow.splits import read_split
from pipeline.flow.wholes import KEPT

JUDGE = "judge"
"""Whose embeddings the segments hold."""


class StoredFacts:
    """Implements `ports.ImageFacts` over a dataset's segments and side-cars: what may be published of it.

    Of real people that is no embedding, and no number that says what they look like unless their segments publish it.
    """

    def __init__(self, store: Store, segments: SegmentWriter) -> None:
        self._store, self._segments = store, segments

    @functools.cached_property
    def _added(self) -> Mapping[str, Sequence[Receipt]]:
        # one listing for all segments: across a network each costs a request
        return side_car_records(self._store)

    def numbers(self, segment: str) -> Mapping[str, tuple[Conditions, Measures]]:
        """Return key -> conditions and measures of a segment's accepted images."""
        columns = self._segments.read_published(self._store, segment, ["key", "accepted", "conditions", "measures"])
        records = self._added.get(segment, ())
        added = read_added_measures(self._segments, self._store, records)
        if any(is_private(f.path) for r in records for f in r.files):
            added = {k: {name: v for name, v in row.items() if not is_personal(name)} for k, row in added.items()}
        rows = zip(columns["key"], columns["accepted"], columns["conditions"], columns["measures"], strict=True)
        return {k: (dict(asked), {**dict(read), **added.get(k, {})}) for k, kept, asked, read in rows if kept}

    def sourced(self, segment: str) -> Mapping[str, Mapping[str, str]]:
        """Return key -> the words that came with a segment's accepted images and are published, of photographs."""
        columns = self._segments.read_published(self._store, segment, ["key", "accepted", "sourced"])
        rows = zip(columns["key"], columns["accepted"], columns["sourced"], strict=True)
        return {key: words for key, kept, words in rows if kept}

    def wholes(self, segment: str) -> Mapping[str, Whole]:
        """Return key -> whole picture of the images of a segment that have theirs stored beside them."""
        return self._segments.read_wholes(self._store, segment) or {}

    def embeddings(self, segment: str, recogniser: str) -> Mapping[str, Float32]:
        """Return key -> embedding (E,) of a segment's accepted images; NaN where a recogniser could not read a face.

        Raises:
            UserError: no such recogniser was added, or the embeddings are of real people.
        """
        if recogniser != JUDGE:
            for record in self._added.get(segment, ()):
                if record.unit["side_car"] == recogniser:
                    self._require_public(record.files[0].path)
                    car = open_side_car(self._segments, self._store, record)
                    if car.embedding_NE.shape[1]:
                        return dict(zip(car.keys, car.embedding_NE, strict=True))
            there = sorted({str(r.unit["side_car"]) for r in self._added.get(segment, ())})
            raise UserError(
                f"no embeddings named {recogniser!r} were added (to {segment}, for one); name {JUDGE!r}"
                + (f", or what was added: {', '.join(there)}" if there else "")
                + f"; or run `facemint measure ... --add {recogniser}` first"
            )
        path = private_path(segment_path(segment, "parquet"))
        if self._store.size(path) is not None:
            self._require_public(path)
        columns = self._segments.read_columns(self._store, segment, ["key", "accepted", "embedding"])
        rows = zip(columns["key"], columns["accepted"], columns["embedding"], strict=True)
        return {key: emb_E for key, kept, emb_E in rows if kept}

    def _require_public(self, path: str) -> None:
        if is_private(path):
            raise UserError(
                f"{self._store.uri}: embeddings of real people stay under private/ ({path}) and are not exported; "
                "export without features"
            )


def about_export(manifest: Manifest, seed: int, margin: float | None = None) -> dict[str, Any]:
    """Return what every export of a version is told: name, version, digest, licence, the run's seed, whose cells.

    `margin`: what stored crops show beyond the judge's on every side, as a share of its side; None where they are his.
    """
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "licence": manifest.use.get("licence"),
        "seed": seed,
        "balance": manifest.figures["balance"]["by"],
        "real_people": of_real_people(manifest),
        "crop_margin": margin,
        KEPT: int(manifest.counts.get(KEPT, 0)),
    }


def write_exports(
    exporter: Exporter,
    store: Store,
    segments: SegmentWriter,
    tables: PlainTables,
    rows: Sequence[IndexRow],
    about: Mapping[str, Any],
    place: Callable[[str], Store],
) -> list[dict[str, Any]]:
    """Write an export of a version, or one for each part of a split; return their manifests and `uri`s.

    Args:
        exporter: writes it; its options say of which images.
        store: the dataset.
        segments: reads it.
        tables: reads its splits.
        rows: the version's index, twins included.
        about: see `about_export`.
        place: opens where an export is written: the folder of a part by its name, or the export's own by "".

    Raises:
        UserError: no such split or part, or the split says nothing of somebody.
        OutputError: there is no image to export, or another export lies there.
        StoreError: an image is not where the index says.
    """
    options, facts, written = exporter.options, StoredFacts(store, segments), []
    kept = chosen_rows(rows, options)
    for part, of_part, said in _parts(store, tables, kept, options):
        if not of_part:
            # a small set may leave a part of a split empty; there is nothing to write of it
            continue
        dense, labels = dense_labels(of_part)
        told = {**about, "chosen": {**_choice(options, about), **said}, "labels": labels}
        target = place("" if options.part else part)
        try:
            manifest = exporter.export(store, dense, target, told, facts)
        except UserError as error:
            if not part:
                raise
            raise type(error)(f"part {part!r} of split {options.split!r}: {error}") from None
        written.append({**manifest, "uri": target.uri})
    if not written:
        of = f" in part {options.part!r} of split {options.split!r}" if options.part else ""
        raise OutputError(f"no image to export{of}; publish a version with images, or choose others")
    return written


def chosen_rows(rows: Sequence[IndexRow], options: ExportNode) -> list[IndexRow]:
    """Return the rows to export, in their order: with or without twins, at most so many images of each identity.

    Of an identity's n images in the order of their keys, m are taken at even distances, the first and the last half a
    step from the ends. A twin goes where its image goes.
    """
    plain = without_twins(rows)
    if options.max_per_identity is not None:
        by_identity: dict[int, list[str]] = defaultdict(list)
        for row in plain:
            by_identity[row.identity].append(row.key)
        taken = {key for keys in by_identity.values() for key in _evenly(sorted(keys), options.max_per_identity)}
        plain = [row for row in plain if row.key in taken]
    if not options.twins:
        return plain
    stay = {row.key for row in plain}
    return [row for row in rows if (parent_of(row.key) if is_twin(row.key) else row.key) in stay]


def _evenly(keys: Sequence[str], most: int) -> Sequence[str]:
    count = len(keys)
    return keys if count <= most else [keys[(2 * n + 1) * count // (2 * most)] for n in range(most)]


def dense_labels(rows: Sequence[IndexRow]) -> tuple[list[IndexRow], tuple[int, ...]]:
    """Return the rows under labels 0 to K - 1 in the order of their labels in the version, and those by new label."""
    labels = tuple(sorted({row.label for row in rows}))
    if labels == tuple(range(len(labels))):
        return list(rows), labels
    new = {label: number for number, label in enumerate(labels)}
    return [replace(row, label=new[row.label]) for row in rows], labels


def _choice(options: ExportNode, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, other than their defaults, by which an export's images were chosen or changed."""
    said: dict[str, Any] = {}
    if options.max_per_identity is not None:
        said["max_per_identity"] = options.max_per_identity
    if options.image_px is not None:
        said |= {"image_px": options.image_px, "image_quality": options.image_quality}
    if options.aligned and about.get("crop_margin"):
        said["aligned"] = True
    return said


def _parts(
    store: Store, tables: PlainTables, rows: Sequence[IndexRow], options: ExportNode
) -> Iterator[tuple[str, list[IndexRow], dict[str, Any]]]:
    """Yield name, rows and what the manifest says of every part to export; without a split, all rows under ""."""
    if options.split is None:
        yield "", list(rows), {}
        return
    split = read_split(store, tables, options.split)
    known = list(split.record["parts"])
    if options.part is not None and options.part not in known:
        raise UserError(f"split {options.split!r} has no part {options.part!r}; its parts: {', '.join(known)}")
    without = {row.identity for row in rows} - split.part_of.keys()
    if without:
        raise UserError(
            f"split {options.split!r} says nothing of {len(without):,} identities of this version (identity "
            f"{min(without)} is one); run the same `facemint split` again, which gives them a part and moves nobody"
        )
    said = {"split": options.split, "split_sha256": split.record["table"]["sha256"]}
    for part in known if options.part is None else [options.part]:
        yield part, [row for row in rows if split.part_of[row.identity] == part], {**said, "part": part}
