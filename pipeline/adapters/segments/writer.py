"""`Segments`: what stands in which file, on top of the tar and the parquet beside this module.

Legend: D conditioning dimensions, E judge dimensions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.adapters.segments.archiving import archived
from pipeline.adapters.segments.audits import read_audit, read_places, write_audit
from pipeline.adapters.segments.candidates import IMAGES, WHOLES, RowGroup
from pipeline.adapters.segments.files import altered, hashed, scratch
from pipeline.adapters.segments.joining import (
    LiesApartError,
    belonging_to,
    joined_columns,
    joined_rows,
    published_of,
)
from pipeline.adapters.segments.previews import read_previews, write_previews
from pipeline.adapters.segments.reads import read_columns, read_table
from pipeline.adapters.segments.side_cars import read_side_car, write_side_car
from pipeline.adapters.segments.splitting import write_split
from pipeline.adapters.segments.tables import (
    Row,
    Spec,
    finite,
    pairs,
    write_groups,
    write_table,
)
from pipeline.adapters.segments.tars import locate, tar_writer
from pipeline.adapters.segments.wholes import read_wholes
from pipeline.domain.errors import BadVectorError
from pipeline.domain.manifest import FileEntry, IndexRow, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.previews import Preview
from pipeline.domain.records import Audited, Candidate, Cell, Identity, Member, Whole
from pipeline.domain.sidecar import SideCar
from pipeline.domain.space import Space

PROBES: Spec = {
    "candidate": "int64",
    "cell_asked": "string",
    "probes": "int32",
    "measures": "map",
    "posterior": "map",
    "vector": "vector",
    "template": "vector?",
    "quality": "double?",
    "probe_keys": "strings",
    "accepted": "bool",
    "reasons": "strings",
}
IDENTITIES: Spec = {
    "ordinal": "int64",
    "candidate": "int64",
    "cell": "string",
    "rank": "int32",
    "vector": "vector",
    "template": "vector",
    "template_images": "int32",
    "quality": "double",
}
INDEX: Spec = {
    "label": "int64",
    "key": "string",
    "identity": "int64",
    "cell": "string",
    "segment": "string",
    "offset": "int64",
    "length": "int64",
}


class Segments:
    """Writes and reads segments through any store; local temporary files hold at most one segment.

    Reading finds by itself what lies under `private/`.

    Args:
        dimensions: E, stated in the schema of a segment that has no row from which it could be read.
        private: write embeddings, audits and what the measures say of the people under `private/`: for real people.
        attributes: where private, publish what the measures say of the people all the same.
    """

    def __init__(self, dimensions: int = 0, *, private: bool = False, attributes: bool = False) -> None:
        self._dimensions, self._private, self._attributes = dimensions, private, attributes

    def write_images(
        self, store: Store, unit: str, rows: Iterable[Candidate], *, wholes: bool = False
    ) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.tar` (accepted images) and `.parquet` (every candidate), in the order given.

        Where private, there is `private/segments/<unit>.parquet` too. Memory is bounded by one row group. Nothing is
        stored before every row could be written. With `wholes` every accepted candidate but a twin brings the picture
        that it was cut from, which stands behind the crop in the tar; the parquet says where, in columns of its own.

        Raises:
            ValueError: a key is malformed or comes twice, an accepted candidate lacks its image or its whole picture
                or has one that is not asked for, a number is not finite.
            BadVectorError: an embedding is not finite, or not as long as the first.
        """
        if wholes and self._private:
            raise ValueError(f"{unit}: whole pictures of real people are not stored; only their crops are")
        with scratch() as here:
            tar, table = here / "images.tar", here / "rows.parquet"
            with hashed(tar) as out, tar_writer(out) as archive:
                if self._private:
                    tables = write_split(here, unit, archive, rows, self._attributes, self._dimensions)
                else:
                    path, marks = segment_path(unit, "parquet"), {"facemint_unit": unit}
                    groups = archived(archive, rows, functools.partial(RowGroup, wholes=wholes), wholes=wholes)
                    spec = {**IMAGES, **WHOLES} if wholes else IMAGES
                    tables = {table: write_groups(table, path, spec, groups, marks, self._dimensions)}
            images = out.entry(segment_path(unit, "tar"))
            store.put_file(images.path, tar)
            for local, entry in tables.items():
                store.put_file(entry.path, local)
        return images, *tables.values()

    def write_probes(self, store: Store, unit: str, rows: Sequence[Mapping[str, Any]]) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.parquet` with one row per probed candidate identity.

        A row holds exactly: candidate (int), cell_asked (str), probes (int, how many were made), measures
        (name -> mean over the probes), posterior (`field=value` -> share), vector (float32 (D,)), template
        (float32 (E,)) and quality (cosine), both None where there is no template, probe_keys (list of str),
        accepted (bool) and reasons (list of str).

        Raises:
            ValueError: a row lacks a key, has an unknown one, or holds a number that is not finite.
            BadVectorError: a vector is not finite, or not as long as the first of its column.
        """
        dicts = [_probe_row(r) for r in rows]
        return (self._store_rows(store, segment_path(unit, "parquet"), PROBES, dicts, {"facemint_unit": unit}),)

    def read_rows(self, store: Store, unit: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return a segment's parquet rows, all or some columns: maps as dicts, vectors as float32 arrays.

        Raises:
            FileNotFoundError: there is no such segment.
            StoreError: the file, or what lies under `private/` of it, is not what was written for this unit.
            UserError: what is asked for lies under `private/`, and this copy has no such folder.
            ValueError: a column is unknown.
        """
        path = segment_path(unit, "parquet")
        try:
            return read_table(store, path, columns, published_of(unit, columns))[1]
        except LiesApartError as apart:
            return joined_rows(store, unit, columns, apart.columns)

    def read_columns(self, store: Store, unit: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return some columns of a segment's parquet, in the order asked for; only these are fetched.

        Numbers and truth values are arrays (N,) of the stored type, NaN where there is none; vectors are one
        float32 array (N, E), rows of NaN where there is none; maps are a list of dict, strings and lists a list.
        Arrays may be read-only.

        Raises:
            FileNotFoundError: there is no such segment.
            StoreError: the file, or what lies under `private/` of it, is not what was written for this unit.
            UserError: what is asked for lies under `private/`, and this copy has no such folder.
            ValueError: a column is unknown.
        """
        try:
            return read_columns(store, segment_path(unit, "parquet"), columns, published_of(unit, columns))
        except LiesApartError as apart:
            return joined_columns(store, unit, columns, apart.columns)

    def read_wholes(self, store: Store, unit: str) -> dict[str, Whole] | None:
        """Return key -> whole picture of a unit's images; errors are those of `wholes.read_wholes`."""
        return read_wholes(store, unit)

    def read_published(self, store: Store, unit: str, columns: Sequence[str]) -> Mapping[str, Any]:
        """Return what `read_columns` does of what is published: nothing that lies under `private/` is read.

        Measures and verdicts are those that say nothing of what a real person looks like.

        Raises:
            FileNotFoundError: there is no such segment.
            StoreError: the file is not the parquet that was written for this unit.
            ValueError: a column is unknown, or not published.
        """
        return read_columns(store, segment_path(unit, "parquet"), columns, belonging_to(unit))

    def write_audit(self, store: Store, unit: str, found: Audited) -> FileEntry:
        """Write what the audit found about a make unit; errors are those of `audits.write_audit`."""
        _refuse_twins(found.keys, "key")
        return write_audit(store, unit, found, private=self._private)

    def read_audit(self, store: Store, unit: str) -> Audited:
        """Return what `write_audit` wrote; errors are those of `audits.read_audit`."""
        return read_audit(store, unit)

    def read_places(self, store: Store, unit: str) -> dict[str, tuple[int, int]]:
        """Return key -> (offset, length) as the audit found them; errors are those of `audits.read_audit`."""
        return read_places(store, unit)

    def write_side_car(self, store: Store, path: str, car: SideCar) -> FileEntry:
        """Write what was added about a unit's images; errors are those of `side_cars.write_side_car`."""
        _refuse_twins(car.keys, "key")
        return write_side_car(store, path, car)

    def read_side_car(self, store: Store, path: str, unit: str) -> SideCar:
        """Return what `write_side_car` wrote; errors are those of `side_cars.read_side_car`."""
        return read_side_car(store, path, unit)

    def write_previews(self, store: Store, unit: str, rows: Sequence[Preview]) -> FileEntry:
        """Write refused images that a make unit keeps; errors are those of `previews.write_previews`."""
        return write_previews(store, unit, rows)

    def read_previews(self, store: Store, unit: str) -> list[Preview]:
        """Return what `write_previews` wrote; errors are those of `previews.read_previews`."""
        return read_previews(store, unit)

    def locate(self, store: Store, unit: str) -> dict[str, tuple[int, int]]:
        """Return key -> (offset, length) of the image bytes within `segments/<unit>.tar`, from its headers.

        Raises:
            FileNotFoundError: there is no such segment.
            StoreError: the tar is truncated or damaged.
        """
        return locate(store, segment_path(unit, "tar"))

    def write_identities(self, store: Store, path: str, rows: Sequence[Identity], space: Space) -> FileEntry:
        """Write enrolled identities sorted by ordinal; the space of their vectors stands in the metadata.

        Raises:
            ValueError: two identities have one ordinal.
            BadVectorError: a vector is not finite, or has not the dimensions of `space`.
        """
        ordered = sorted(rows, key=lambda r: r.ordinal)
        _refuse_twins((r.ordinal for r in ordered), "ordinal")
        for row in ordered:
            if row.vector_D.shape != (space.dimensions,):
                raise BadVectorError(
                    f"identity {row.ordinal}: vector of shape {row.vector_D.shape}; "
                    f"vectors of space {space.name!r} have {space.dimensions} dimensions"
                )
        marks = {"facemint_space": json.dumps(space.to_dict(), sort_keys=True)}
        return self._store_rows(store, path, IDENTITIES, [_identity_row(r) for r in ordered], marks)

    def read_identities(self, store: Store, path: str) -> tuple[list[Identity], Space]:
        """Return enrolled identities in ordinal order, and the space of their vectors.

        Raises:
            FileNotFoundError: `path` is absent.
            StoreError: the file is damaged, or holds no identities.
        """
        marks, rows = read_table(store, path, None)
        space = _space(marks, path)
        return [_identity(r) for r in rows], space

    def read_members(self, store: Store, path: str) -> list[Member]:
        """Return enrolled identities in ordinal order without their vectors, which are not fetched.

        Raises:
            FileNotFoundError: `path` is absent.
            StoreError: the file is damaged, or holds no identities.
        """
        found = read_columns(store, path, ["ordinal", "candidate", "cell", "rank"], _space)
        cells = {name: Cell.parse(name) for name in set(found["cell"])}
        numbers = zip(found["ordinal"].tolist(), found["candidate"].tolist(), found["rank"].tolist(), strict=True)
        rows = zip(numbers, found["cell"], strict=True)
        return [Member(ordinal, candidate, cells[cell], rank) for (ordinal, candidate, rank), cell in rows]

    def write_index(self, store: Store, version: str, rows: Sequence[IndexRow]) -> FileEntry:
        """Write `versions/<version>/index-<first 16 digits of its SHA-256>.parquet`, sorted by label and key.

        Raises:
            ValueError: a key comes twice.
        """
        ordered = sorted(rows)
        _refuse_twins((r.key for r in ordered), "key")
        with scratch() as here:
            local = here / "rows.parquet"
            dicts = ({name: getattr(r, name) for name in INDEX} for r in ordered)
            written = write_table(local, "", INDEX, dicts, {}, 0)
            path = f"versions/{version}/index-{written.sha256[:16]}.parquet"
            store.put_file(path, local)
        return FileEntry(path, written.sha256, written.bytes)

    def read_index(self, store: Store, path: str) -> list[IndexRow]:
        """Return an index's rows in their order.

        Raises:
            FileNotFoundError: `path` is absent.
            StoreError: the file is damaged.
        """
        found = read_columns(store, path, list(IndexRow.__slots__), lambda *_: None)
        # row by row there are millions: columns become rows without a dictionary for each
        columns = (c.tolist() if isinstance(c, np.ndarray) else c for c in found.values())
        return list(map(IndexRow, *columns))

    def _store_rows(
        self, store: Store, path: str, spec: Spec, rows: Iterable[Row], marks: Mapping[str, str]
    ) -> FileEntry:
        with scratch() as here:
            entry = write_table(here / "rows.parquet", path, spec, rows, marks, self._dimensions)
            store.put_file(path, here / "rows.parquet")
        return entry


def _probe_row(row: Mapping[str, Any]) -> Row:
    whose = f"probes of candidate {row.get('candidate')}"
    if row.keys() != PROBES.keys():
        odd = ", ".join(sorted(row.keys() ^ PROBES.keys()))
        raise ValueError(f"{whose}: missing or unknown: {odd}; a row has {', '.join(PROBES)}")
    quality = None if row["quality"] is None else finite(row["quality"], f"{whose}: quality")
    maps = {name: pairs(row[name], whose) for name in ("measures", "posterior")}
    return {**row, **maps, "quality": quality}


def _identity_row(row: Identity) -> Row:
    return {
        "ordinal": row.ordinal,
        "candidate": row.candidate,
        "cell": str(row.cell),
        "rank": row.rank,
        "vector": row.vector_D,
        "template": row.template_E,
        "template_images": row.template_images,
        "quality": finite(row.quality, f"identity {row.ordinal}: quality"),
    }


def _identity(row: Row) -> Identity:
    return Identity(
        ordinal=row["ordinal"],
        candidate=row["candidate"],
        cell=Cell.parse(row["cell"]),
        rank=row["rank"],
        vector_D=row["vector"],
        template_E=row["template"],
        template_images=row["template_images"],
        quality=row["quality"],
    )


def _space(marks: Mapping[str, str], path: str) -> Space:
    if "facemint_space" not in marks:
        raise altered(path, "it does not state the space of its vectors")
    return Space.from_dict(json.loads(marks["facemint_space"]))


def _refuse_twins(values: Iterable[Any], what: str) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value!r} comes twice; each stands once")
        seen.add(value)
