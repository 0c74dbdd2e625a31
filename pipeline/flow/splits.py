"""Splits of a dataset: who is in which part, kept beside the versions so that the next one extends it.

    splits/<name>.parquet   identity (int64), part (string), by identity: whoever ever had a part, save the erased
    splits/<name>.json      what was asked, what each cell got, of which version, and the digest of the table

The table is written first, the record last. A run that was killed between the two is mended by running it again: who
stands in the table keeps his part.

Legend: M identities, E judge dimensions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from pipeline.domain.cosines import BlockProduct, exact_cosines
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.manifest import FileEntry, Manifest, canonical_json
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.records import Float32
from pipeline.domain.seal import sealed, unbroken
from pipeline.domain.splits import FOLDER, Part, assign, assign_by_cell, draws, reached, split_paths
from pipeline.domain.storage import Store
from pipeline.flow.commit import stored_sha256

COLUMNS = {"identity": "int64", "part": "string"}
MOST_PAIRS = 100
"""Pairs of identities that a record lists; all of them are counted."""
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)
_MEND = "restore it from a copy, or delete both files of this split and run the same split command again"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a split is to be: its name, its parts, and whether every cell is divided as asked."""

    name: str
    parts: tuple[Part, ...]
    by_cell: bool = False

    def said(self) -> dict[str, Any]:
        """Return what decides about a split, JSON-ready."""
        return {"parts": {p.name: str(p.share) for p in self.parts}, "by_cell": self.by_cell}


@dataclass(frozen=True, slots=True)
class Near:
    """Pairs of different identities that the judge takes for one: (earlier, later, cosine), the nearest first."""

    threshold_cos: float
    pairs: tuple[tuple[int, int, float], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Split:
    """A split as it stands: its record, and the part of everybody who has one."""

    record: Mapping[str, Any]
    part_of: Mapping[int, str] = field(repr=False)


def split_version(
    store: Store,
    tables: PlainTables,
    manifest: Manifest,
    cells: Mapping[int, str],
    near: Near,
    asked: Asked,
    run_seed: int,
    guard: Callable[[], None],
) -> Split:
    """Divide a version's identities, extending what stands; return the split.

    Args:
        store: the dataset.
        tables: keeps the table.
        manifest: the version.
        cells: ordinal -> cell, of everybody that it holds.
        near: who comes too near to whom; pairs on two sides are reported, and nobody is moved for them: a part that
            followed from others could change when they do.
        asked: what the split is to be.
        run_seed: of the dataset's recipe.
        guard: raises where another run has taken the dataset over.

    Raises:
        UserError: a split of this name stands that was asked for otherwise.
        StoreError: what stands is damaged.
    """
    before = _standing(store, tables, asked)
    who = sorted(cells)
    draw_N = draws(run_seed, asked.name, who)
    mine = [cells[o] for o in who]
    keeps = {o: before[o] for o in who if o in before}
    dealt = assign_by_cell(asked.parts, draw_N, who, mine, keeps) if asked.by_cell else assign(asked.parts, draw_N)
    # who left the version for a while finds his part again
    part_of = before | dict(zip(who, dealt, strict=True)) | keeps
    source = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}
    said = {"schema": 1, "name": asked.name, **asked.said(), "run_seed": run_seed, "source": source}
    record = said | _outcome(asked.parts, cells, part_of, near)
    return _written(store, tables, asked.name, record, part_of, guard)


def read_split(store: Store, tables: PlainTables, name: str) -> Split:
    """Return a split that stands.

    Raises:
        UserError: there is none of this name.
        StoreError: its record or its table is damaged.
    """
    record = _record(store, name)
    if record is None:
        known = ", ".join(split_names(store)) or "none"
        raise UserError(f"{store.uri}: no split {name!r}; splits here: {known}; make one with `facemint split`")
    return Split(record, _table(store, tables, name))


def split_names(store: Store) -> list[str]:
    """Return the names of the splits of a dataset, sorted."""
    return [p.removeprefix(FOLDER).removesuffix(".json") for p in store.list(FOLDER) if p.endswith(".json")]


def forget(
    store: Store,
    tables: PlainTables,
    erased: Collection[int],
    cells: Mapping[int, str],
    guard: Callable[[], None] = lambda: None,
) -> list[str]:
    """Take erased identities out of every split; return the names of those that held one.

    Args:
        store: the dataset.
        tables: keeps the tables.
        erased: ordinals.
        cells: ordinal -> cell, of everybody whom the newest version holds.
        guard: raises where another run has taken the dataset over.

    Raises:
        StoreError: a split is damaged.
    """
    gone, out = set(erased), []
    there = {split_paths(name)[0] for name in split_names(store)}
    for path in store.list(FOLDER):
        # left by a split that was killed before its record: the same command divides the same way again
        if path.endswith(".parquet") and path not in there:
            guard()
            store.delete(path)
    for name in split_names(store):
        split = read_split(store, tables, name)
        near = split.record["near"]
        listed = [p for p in near["listed"] if not gone & {int(p["identity"]), int(p["other"])}]
        # a run that was killed behind the table left a record that names the table before
        whole = stored_sha256(store, record_entry(split.record)) == split.record["table"]["sha256"]
        if whole and len(listed) == len(near["listed"]) and not gone & split.part_of.keys():
            continue
        part_of = {o: p for o, p in split.part_of.items() if o not in gone}
        parts = [Part(n, Fraction(s)) for n, s in split.record["parts"].items()]
        here = {o: c for o, c in cells.items() if o in part_of}
        record = {**split.record, **_counts(parts, here, part_of), "near": {**near, "listed": listed}}
        _written(store, tables, name, record, part_of, guard)
        out.append(name)
    return out


def near_pairs(ordinals: Sequence[int], templates_ME: Float32, threshold_cos: float, product: BlockProduct) -> Near:
    """Return every pair of templates whose exact cosine reaches the threshold."""
    rows, columns = product.block
    found: list[tuple[int, int, float]] = []
    blocks = [(at, product.hold(templates_ME[at : at + columns])) for at in range(0, len(templates_ME), columns)]
    for start in range(0, len(templates_ME), rows):
        held = product.hold(templates_ME[start : start + rows])
        for at, other in blocks:
            if at >= start + rows:
                break
            a, b = product.contenders(held, other, threshold_cos)
            a, b = a + start, b + at
            a, b = a[a > b], b[a > b]
            cos = exact_cosines(templates_ME, a, templates_ME, b)
            found += [
                (ordinals[j], ordinals[i], c)
                for i, j, c in zip(a.tolist(), b.tolist(), cos.tolist(), strict=True)
                if c >= threshold_cos
            ]
    return Near(threshold_cos, tuple(sorted(found, key=lambda p: (-p[2], p[0], p[1]))))


def _outcome(parts: Sequence[Part], cells: Mapping[int, str], part_of: Mapping[int, str], near: Near) -> dict[str, Any]:
    across = [p for p in near.pairs if part_of[p[0]] != part_of[p[1]]]
    listed = [{"identity": b, "other": a, "cos": cos, "parts": [part_of[b], part_of[a]]} for a, b, cos in across]
    return {
        **_counts(parts, cells, part_of),
        "near": {
            "threshold_cos": near.threshold_cos,
            "pairs": len(near.pairs),
            "across": len(across),
            "listed": listed[:MOST_PAIRS],
        },
    }


def _counts(parts: Sequence[Part], cells: Mapping[int, str], part_of: Mapping[int, str]) -> dict[str, Any]:
    who = sorted(cells)
    total = Counter(part_of[o] for o in who)
    return {
        "identities": len(who),
        "reached": {p.name: total[p.name] for p in parts},
        "reached_by_cell": reached(parts, [cells[o] for o in who], [part_of[o] for o in who]),
    }


def _standing(store: Store, tables: PlainTables, asked: Asked) -> dict[int, str]:
    """Return who has a part already."""
    record = _record(store, asked.name)
    if record is not None and {k: record.get(k) for k in asked.said()} != asked.said():
        stood = ",".join(f"{n}={s}" for n, s in record.get("parts", {}).items())
        raise UserError(
            f"{store.uri}: split {asked.name!r} stands with {stood}{' by cell' if record.get('by_cell') else ''}; "
            "nobody changes sides: ask for the same again, or give another --name"
        )
    try:
        there = _table(store, tables, asked.name)
    except StoreError:
        if record is not None:
            raise
        return {}
    known = {p.name for p in asked.parts}
    if record is None and not set(there.values()) <= known:
        # left by a run that was killed before its record, and asked for something else
        return {}
    return there


def _record(store: Store, name: str) -> dict[str, Any] | None:
    path = split_paths(name)[1]
    try:
        raw = json.loads(unbroken(store.get(path)))
        record_entry(raw)
        return dict(raw)
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        raise StoreError(f"{path}: not the record of a split ({type(error).__name__}); {_MEND}") from None


def record_entry(raw: Mapping[str, Any]) -> FileEntry:
    """Return the table that a split's record names; raises KeyError, TypeError or ValueError on others."""
    return FileEntry(str(raw["table"]["path"]), str(raw["table"]["sha256"]), int(raw["table"]["bytes"]))


def _table(store: Store, tables: PlainTables, name: str) -> dict[int, str]:
    path = split_paths(name)[0]
    try:
        found = tables.read(store, path, list(COLUMNS))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; {_MEND}") from None
    return dict(zip(found["identity"].tolist(), found["part"], strict=True))


def _written(
    store: Store,
    tables: PlainTables,
    name: str,
    record: Mapping[str, Any],
    part_of: Mapping[int, str],
    guard: Callable[[], None],
) -> Split:
    path, beside = split_paths(name)
    guard()
    entry = tables.write(store, path, COLUMNS, ({"identity": o, "part": part_of[o]} for o in sorted(part_of)))
    whole = sealed({**record, "table": {"path": entry.path, "sha256": entry.sha256, "bytes": entry.bytes}})
    guard()
    store.put(beside, canonical_json(whole))
    return Split(whole, dict(part_of))
