"""`Segments`: what stands in which file, on top of the tar and the parquet beside this module.

Legend: D conditioning dimensions, E judge dimensions.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.adapters.segments.files import altered, hashed, scratch
from pipeline.adapters.segments.tables import Row, Spec, finite, pairs, read_table, write_table
from pipeline.adapters.segments.tars import KEY, add_image, locate, tar_writer
from pipeline.domain.errors import BadVectorError
from pipeline.domain.manifest import FileEntry, IndexRow, segment_path
from pipeline.domain.ports import Store
from pipeline.domain.records import Candidate, Cell, Identity
from pipeline.domain.space import Space

IMAGES: Spec = {
    "key": "string",
    "order": "int32",
    "identity": "int64",
    "slot": "int32",
    "attempt": "int32",
    "conditions": "map",
    "measures": "map",
    "embedding": "vector",
    "verdicts": "verdicts",
    "accepted": "bool",
    "off_target": "bool",
    "reasons": "strings",
}
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

    Args:
        dimensions: E, stated in the schema of a segment that has no row from which it could be read.
    """

    def __init__(self, dimensions: int = 0) -> None:
        self._dimensions = dimensions

    def write_images(self, store: Store, unit: str, rows: Iterable[Candidate]) -> tuple[FileEntry, ...]:
        """Write `segments/<unit>.tar` (accepted images) and `.parquet` (every candidate), in the order given.

        Memory is bounded by one row group. Nothing is stored before every row could be written.

        Raises:
            ValueError: a key is malformed or comes twice, an accepted candidate lacks its image, a number is
                not finite.
            BadVectorError: an embedding is not finite, or not as long as the first.
        """
        with scratch() as here:
            tar, table = here / "images.tar", here / "rows.parquet"
            with hashed(tar) as out, tar_writer(out) as archive:
                dicts = _archived(archive, rows)
                marks = {"facemint_unit": unit}
                parquet = write_table(table, segment_path(unit, "parquet"), IMAGES, dicts, marks, self._dimensions)
            images = out.entry(segment_path(unit, "tar"))
            store.put_file(images.path, tar)
            store.put_file(parquet.path, table)
        return images, parquet

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
            StoreError: the file is not the parquet that was written for this unit.
            ValueError: a column is unknown.
        """
        path = segment_path(unit, "parquet")
        marks, rows = read_table(store, path, columns)
        if marks.get("facemint_unit") != unit:
            raise altered(path, f"it says that it belongs to unit {marks.get('facemint_unit')}")
        return rows

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
        if "facemint_space" not in marks:
            raise altered(path, "it does not state the space of its vectors")
        return [_identity(r) for r in rows], Space.from_dict(json.loads(marks["facemint_space"]))

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
        _, rows = read_table(store, path, None)
        return [IndexRow(**row) for row in rows]

    def _store_rows(
        self, store: Store, path: str, spec: Spec, rows: Iterable[Row], marks: Mapping[str, str]
    ) -> FileEntry:
        with scratch() as here:
            entry = write_table(here / "rows.parquet", path, spec, rows, marks, self._dimensions)
            store.put_file(path, here / "rows.parquet")
        return entry


def _archived(archive: tarfile.TarFile, rows: Iterable[Candidate]) -> Iterator[Row]:
    """Yield each candidate's parquet row after adding its image, if accepted, to the tar."""
    seen: set[str] = set()
    for candidate in rows:
        key = candidate.sample.key
        if not KEY.fullmatch(key) or key in seen:
            raise ValueError(
                f"key {key!r} is malformed or comes twice; it is 1 to 90 letters, digits, `_` and `-`, once"
            )
        seen.add(key)
        row = _image_row(candidate)
        if candidate.accepted:
            if not candidate.jpeg:
                raise ValueError(f"key {key!r} is accepted without an image; an accepted candidate carries its bytes")
            add_image(archive, candidate.jpeg, row)
        yield row


def _image_row(candidate: Candidate) -> Row:
    sample = candidate.sample
    verdicts = [
        {
            "filter": v.filter,
            "passed": bool(v.passed),
            "reason": v.reason,
            "value": finite(v.value, f"{sample.key}: value of {v.filter}"),
            "threshold": finite(v.threshold, f"{sample.key}: threshold of {v.filter}"),
        }
        for v in candidate.verdicts
    ]
    return {
        "key": sample.key,
        "order": int(candidate.order),
        "identity": int(sample.identity),
        "slot": int(sample.slot),
        "attempt": int(sample.attempt),
        "conditions": pairs(sample.conditions, sample.key),
        "measures": pairs(sample.measures, sample.key),
        "embedding": sample.embedding_E,
        "verdicts": verdicts,
        "accepted": bool(candidate.accepted),
        "off_target": bool(candidate.off_target),
        "reasons": list(candidate.reasons),
    }


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


def _refuse_twins(values: Iterable[Any], what: str) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value!r} comes twice; each stands once")
        seen.add(value)
