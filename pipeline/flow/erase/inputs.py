"""What erasing takes out of a curated dataset's own tables: what was found of each input, and where inputs lie.

Everything lies under `private/`. Rows of an input that goes stay as bare numbers, so that every input is accounted for,
and hold nothing of it any more; who it was said to be, and vectors, go. Tables are written over in their places, as
nothing that is published rests on them, and their receipts after them: killed in between, the same is done again, which
changes nothing where it is done.

Legend: N rows of a table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.manifest import FileEntry, Receipt
from pipeline.domain.plain_tables import GroupedTables, PlainTables
from pipeline.domain.privacy import BETWEEN, CLEANED, FEATURES, SOURCES
from pipeline.domain.unit import Stage
from pipeline.flow.commit import stored_sha256
from pipeline.flow.curating.clean import CLEANED_COLUMNS, PROVISIONAL_COLUMNS
from pipeline.flow.curating.listing import COLUMNS as LISTING_COLUMNS
from pipeline.flow.curating.listing import listing_path, place_digest
from pipeline.flow.curating.outcomes import (
    IDENTITY_COLUMNS,
    NOBODY,
    OUTCOME_COLUMNS,
    identities_path,
    outcome_path,
)
from pipeline.flow.curating.rows import FEATURE_COLUMNS, NO_LABEL, cleaned_path, provisional_path
from pipeline.flow.erase.gone import Gone
from pipeline.flow.parts import Parts

ERASED = "erased"
"""Why an input is refused that was erased: the words of its rows, and of the account of inputs."""
_TABLES = (SOURCES, FEATURES, CLEANED, BETWEEN)
_FACES = 1 << 20
"""More faces than a picture has: row and face make one number."""
_SILENT: Mapping[str, Any] = {
    "found": "", "value": None, "threshold": None, "sha256": "", "hash": 0, "mirrored": 0, "reason": ERASED,
}  # fmt: skip
_FEATURE: Mapping[str, Any] = {
    **_SILENT, "owner": "", "stage": "measure", "points": None, "embedding": None, "measures": {}, "notes": [],
    "marks": [],
}  # fmt: skip
_OUTCOME: Mapping[str, Any] = {**_SILENT, "stage": "clean", "moved": False, "bucket": -1, "group": -1}
_INPUT: Mapping[str, Any] = {
    "path": b"", "member": "", "offset": 0, "length": 0, "stamp": "", "label": None, "columns": {},
    "fault": "", "found": "",
}  # fmt: skip
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tables:
    """What reads and writes a curated dataset's tables."""

    plain: PlainTables
    grouped: GroupedTables


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which inputs go; nothing of a minted dataset.

    Attributes:
        faces: rising, (row, face) of every row that goes.
        rows: rising, inputs that go whole: no face of theirs is anybody's who stays.
    """

    faces: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything goes."""
        return bool(self.faces or self.rows)


def find_inputs(
    parts: Parts, tables: Tables, known: Mapping[str, Receipt], gone: Gone, rows: Iterable[int] = ()
) -> Inputs:
    """Return which inputs hold something of what goes.

    Of a person these are the faces that cleaning gave to them, what was refused under the same name, and other copies
    of the same files; of an image its face and those copies. Reads only.

    Args:
        parts: the ports.
        tables: read the tables.
        known: every receipt.
        gone: what goes.
        rows: inputs that are asked for by number.
    """
    asked = np.array(sorted(rows), np.int64)
    slots = {(identity, slot) for identity, slot, _ in gone.images}
    faces: set[tuple[int, int]] = set()
    shas: set[str] = set()
    held: dict[int, Mapping[str, Any]] = {}
    for generation in _generations(parts):
        told = tables.plain.read(parts.store, outcome_path(generation), ["row", "face", "identity", "slot", "sha256"])
        held[generation] = told
        mine = np.isin(told["identity"], sorted(gone.identities)) | np.isin(told["row"], asked)
        mine |= _among(told["identity"], told["slot"], slots)
        faces |= _pairs(told, mine)
        shas |= {told["sha256"][n] for n in np.flatnonzero(mine)} - {""}
    owners = _owners(parts, tables, gone)
    for generation, told in held.items():
        kept = _keys(told)[np.asarray(told["identity"]) >= 0]
        for path in _features(known, generation):
            found = tables.grouped.read(parts.store, path, ["row", "face", "owner", "sha256"])
            if len(found["row"]):
                same = np.array([o in owners for o in found["owner"]]) | np.array([s in shas for s in found["sha256"]])
                # whoever has it by now is another person
                faces |= _pairs(found, same & ~np.isin(_keys(found), kept))
    whole: set[int] = set()
    for told in held.values():
        mine = np.isin(told["row"], [row for row, _ in faces])
        stays = (np.asarray(told["identity"]) >= 0) & ~np.isin(_keys(told), [r * _FACES + f for r, f in faces])
        left = set(np.asarray(told["row"])[mine & stays].tolist())
        whole |= set(np.asarray(told["row"])[mine].tolist()) - left
    for told in held.values():
        faces |= _pairs(told, np.isin(told["row"], sorted(whole)))
    return Inputs(tuple(sorted(faces)), tuple(sorted(whole)))


def slots_of_input(parts: Parts, tables: Tables, row: int) -> tuple[list[tuple[int, int]], bool]:
    """Return the (identity, slot) pairs that an input's faces have, and whether there is such an input."""
    for generation in _generations(parts):
        told = tables.plain.read(parts.store, outcome_path(generation), ["row", "identity", "slot"])
        mine = np.flatnonzero(np.asarray(told["row"]) == row)
        if mine.size:
            given = [n for n in mine.tolist() if told["identity"][n] >= 0]
            return [(int(told["identity"][n]), int(told["slot"][n])) for n in given], True
    return [], False


def input_digests(parts: Parts, tables: Tables, known: Mapping[str, Receipt], inputs: Inputs) -> list[str]:
    """Return SHA-256 of every source file that goes, and of where each lies; some are gone where this began before."""
    wanted = [r * _FACES + f for r, f in inputs.faces]
    out: set[str] = set()
    for generation in _generations(parts):
        for path in _features(known, generation):
            found = tables.grouped.read(parts.store, path, ["row", "face", "sha256"])
            if len(found["row"]):
                out |= {found["sha256"][n] for n in np.flatnonzero(np.isin(_keys(found), wanted))}
        listed = tables.plain.read(parts.store, listing_path(generation), ["row", "source", "path", "member"])
        for n in np.flatnonzero(np.isin(listed["row"], inputs.rows)):
            if listed["path"][n]:
                out.add(place_digest(listed["source"][n], listed["path"][n], listed["member"][n]))
    return sorted(out - {""})


def rewrite_inputs(parts: Parts, tables: Tables, known: Mapping[str, Receipt], inputs: Inputs, gone: Gone) -> None:
    """Write every table without what goes; where that is done already, nothing changes."""
    faces, rows = set(inputs.faces), set(inputs.rows)
    for generation in _generations(parts):
        for path in _features(known, generation):
            _rewrite_features(parts, tables, path, faces)
        for name in _cleaned(known, generation):
            _rewrite_cleaned(parts, tables, name, faces)

        def listed(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, **_INPUT} if row["row"] in rows else row

        def outcome(row: dict[str, Any]) -> dict[str, Any]:
            if (row["row"], row["face"]) not in faces:
                return row
            # of who stays the number of the slot stays too: it is not given again
            nobody = NOBODY if row["identity"] in gone.identities else {}
            return {**row, **_OUTCOME, **nobody}

        _rewrite_plain(parts, tables, listing_path(generation), LISTING_COLUMNS, listed, sorted(rows))
        _rewrite_plain(parts, tables, outcome_path(generation), OUTCOME_COLUMNS, outcome, sorted(r for r, _ in faces))
    _rewrite_identities(parts, tables, gone)


def renewed(parts: Parts, known: Mapping[str, Receipt]) -> dict[str, Receipt]:
    """Put receipts of tables that were written over in their own places; return all receipts as they are then."""
    out = dict(known)
    for name, receipt in sorted(known.items()):
        if not any(f.path.startswith(_TABLES) for f in receipt.files):
            continue
        files = tuple(_as_stored(parts, f) if f.path.startswith(_TABLES) else f for f in receipt.files)
        if files != receipt.files:
            out[name] = replace(receipt, files=files)
            parts.guard()
            parts.store.put(receipt.path, out[name].to_json())
    return out


def _as_stored(parts: Parts, entry: FileEntry) -> FileEntry:
    size = parts.store.size(entry.path)
    return entry if size is None else FileEntry(entry.path, stored_sha256(parts.store, entry), size)


def _rewrite_features(parts: Parts, tables: Tables, path: str, faces: set[tuple[int, int]]) -> None:
    found = tables.grouped.read(parts.store, path, ["row", "face"])
    if not _touched(found, faces):
        return
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for group, row in _grouped_rows(parts, tables, path, FEATURE_COLUMNS):
        goes = (row["row"], row["face"]) in faces
        groups[NO_LABEL if goes else group].append({**row, **_FEATURE} if goes else row)
    parts.guard()
    tables.grouped.write(parts.store, path, FEATURE_COLUMNS, groups)


def _rewrite_cleaned(parts: Parts, tables: Tables, name: str, faces: set[tuple[int, int]]) -> None:
    """Drop faces, and provisional identities that have none any more: nothing but a rerun would read either."""
    path = cleaned_path(name)
    if _touched(tables.grouped.read(parts.store, path, ["row", "face"]), faces):
        groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for group, row in _grouped_rows(parts, tables, path, CLEANED_COLUMNS):
            if (row["row"], row["face"]) not in faces:
                groups[group].append(row)
        parts.guard()
        tables.grouped.write(parts.store, path, CLEANED_COLUMNS, groups)
    held = tables.grouped.read(parts.store, path, ["provisional"])["provisional"]
    there, people = set(np.asarray(held).tolist()), defaultdict(list)
    lost = False
    for group, row in _grouped_rows(parts, tables, provisional_path(name), PROVISIONAL_COLUMNS):
        lost |= row["provisional"] not in there
        if row["provisional"] in there:
            people[group].append(row)
    if lost:
        parts.guard()
        tables.grouped.write(parts.store, provisional_path(name), PROVISIONAL_COLUMNS, people)


def _rewrite_plain(
    parts: Parts,
    tables: Tables,
    path: str,
    columns: Mapping[str, str],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    wanted: Sequence[int],
) -> None:
    if not np.isin(tables.plain.read(parts.store, path, ["row"])["row"], wanted).any():
        return
    held = tables.plain.read(parts.store, path, list(columns))
    parts.guard()
    tables.plain.write(parts.store, path, columns, (change(row) for row in _rows(held, columns)))


def _rewrite_identities(parts: Parts, tables: Tables, gone: Gone) -> None:
    """Take the names of whoever goes out of all tables first, then the rows that tell whose names these were."""
    owners = _owners(parts, tables, gone)

    def names_out(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["ordinal"] < 0 and row["owner"] in owners:
            return None
        return {**row, "partner": ""} if row["partner"] in owners else row

    def people_out(row: dict[str, Any]) -> dict[str, Any] | None:
        return None if row["ordinal"] in gone.identities else row

    for change in (names_out, people_out):
        for generation in _generations(parts):
            path = identities_path(generation)
            before = list(_rows(tables.plain.read(parts.store, path, list(IDENTITY_COLUMNS)), IDENTITY_COLUMNS))
            after = [row for row in map(change, before) if row is not None]
            if after != before:
                parts.guard()
                tables.plain.write(parts.store, path, IDENTITY_COLUMNS, after)


def _generations(parts: Parts) -> list[int]:
    """Return the generations of which an outcome is stored, rising."""
    stems = (p.removeprefix(BETWEEN).removesuffix(".parquet") for p in parts.store.list(f"{BETWEEN}g"))
    return sorted(int(stem[1:]) for stem in stems if stem[1:].isdecimal())


def _of_stage(known: Mapping[str, Receipt], stage: Stage, generation: int) -> list[Receipt]:
    mine = (r for r in known.values() if r.unit["stage"] == stage.value and r.unit["generation"] == generation)
    return sorted(mine, key=lambda r: r.name)


def _features(known: Mapping[str, Receipt], generation: int) -> list[str]:
    """Return the files of what ingest found."""
    return [f.path for r in _of_stage(known, Stage.INGEST, generation) for f in r.files]


def _cleaned(known: Mapping[str, Receipt], generation: int) -> list[str]:
    """Return the names of the clean units."""
    return [r.name for r in _of_stage(known, Stage.CLEAN, generation)]


def _owners(parts: Parts, tables: Tables, gone: Gone) -> set[str]:
    """Return under which names whoever goes was brought."""
    out: set[str] = set()
    for generation in _generations(parts):
        told = tables.plain.read(parts.store, identities_path(generation), ["owner", "ordinal"])
        mine = np.isin(told["ordinal"], sorted(gone.identities))
        out |= {told["owner"][n] for n in np.flatnonzero(mine)}
    return out - {""}


def _keys(told: Mapping[str, Any]) -> Int64:
    """Return row and face as one number each, (N,)."""
    return np.asarray(told["row"], np.int64) * _FACES + np.asarray(told["face"], np.int64)


def _pairs(told: Mapping[str, Any], mine: npt.NDArray[np.bool_]) -> set[tuple[int, int]]:
    where = np.flatnonzero(mine)
    return set(zip(np.asarray(told["row"])[where].tolist(), np.asarray(told["face"])[where].tolist(), strict=True))


def _among(identity_N: Int64, slot_N: Int64, slots: set[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    wanted = np.array([i * _FACES + s for i, s in slots], np.int64)
    return np.isin(np.asarray(identity_N, np.int64) * _FACES + slot_N, wanted) & (np.asarray(identity_N) >= 0)


def _touched(found: Mapping[str, Any], faces: set[tuple[int, int]]) -> bool:
    if not len(found["row"]):
        return False
    return bool(np.isin(_keys(found), [r * _FACES + f for r, f in faces]).any())


def _grouped_rows(
    parts: Parts, tables: Tables, path: str, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for group in tables.grouped.groups(parts.store, path):
        held = tables.grouped.read(parts.store, path, list(columns), group)
        for row in _rows(held, columns):
            yield group, row


def _rows(held: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as they were handed to its writer: what is not there is None again."""
    kinds = list(columns.items())
    for n in range(len(held[kinds[0][0]])):
        yield {name: _value(held[name][n], optional=kind.endswith("?")) for name, kind in kinds}


def _value(value: Any, *, optional: bool) -> Any:
    if isinstance(value, np.ndarray):
        return None if optional and np.isnan(value).any() else value
    plain = value.item() if isinstance(value, np.generic) else value
    return None if optional and isinstance(plain, float) and math.isnan(plain) else plain
