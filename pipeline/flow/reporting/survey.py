"""One pass over the segments of a version: every candidate counted, every measure's histogram, every template's sum.

Memory is that of the index, of one segment and of what is asked for; it does not grow with the candidates. Nothing is
embedded or decoded: judge embeddings stand in the segments, the auditor's in the audits.

Three words that are easily mixed up. *Accepted* says what became of a candidate when it was made. *Published* is what
the version's index names, and it may be less: an identity that could not be filled, or filters that judged again since,
leave accepted images out. *Refused* are the candidates that were not accepted when they were made.

Legend: N rows of a segment, M identities whose templates are compared, S images whose pairs are, E dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import StoreError
from pipeline.domain.histograms import Histograms
from pipeline.domain.manifest import Counts, IndexRow, Manifest, Receipt
from pipeline.domain.pair_curves import even_rows
from pipeline.domain.ports import SegmentWriter, Store
from pipeline.domain.records import Cell, Float32
from pipeline.domain.spread import Sums, places_of
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Stage
from pipeline.flow.commit import enrolled_paths
from pipeline.flow.judge import NEAREST_ORDINAL
from pipeline.flow.reporting.picks import Lowest, random_keys
from pipeline.flow.sidecars import read_added_measures
from pipeline.flow.wholes import wholes_of

MOST_IMAGES = 8_000
"""Images whose pairs are compared, of whole identities where they are fewer, else of evenly chosen ones."""
MOST_EACH = 16
"""Images of one identity among them, evenly chosen, where a version has more than `MOST_IMAGES`."""
MOST_TEMPLATES = 20_000
"""Identities whose templates are compared with each other, evenly chosen where there are more."""
NO_QUANTITIES = (NEAREST_ORDINAL, "phash_hi", "phash_lo")
"""Stored numbers that are names of something: of how they are distributed nothing follows."""
PUBLISHED, LEFT_OUT, REFUSED = range(3)
"""What became of a candidate: in the index, accepted and not in the index, refused."""
JUDGE, AUDITOR = "judge", "auditor"

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The version that is looked at.

    Attributes:
        store: the dataset.
        segments: reads it.
        manifest: of the version; its documents may be missing.
        rows: its index without twins, sorted by label.
        made: receipts of the make units that it stands on, by name.
        cells: ordinal -> cell, of everybody enrolled.
        has_twins: whether segments may hold rows of twins.
        added: make unit -> records of the side-cars whose measures are told too.
    """

    store: Store
    segments: SegmentWriter
    manifest: Manifest
    rows: Sequence[IndexRow]
    made: Mapping[str, Receipt]
    cells: Mapping[int, Cell]
    has_twins: bool
    added: Mapping[str, Sequence[Receipt]] = field(default_factory=dict)

    def cell_of(self, row: IndexRow) -> str:
        """Return the cell in which an image is counted: that of its person, which an index of real people hides."""
        return str(self.cells[row.identity]) if row.identity in self.cells else row.cell


@dataclass(slots=True)
class CellCounts:
    """What became of a cell's candidates."""

    candidates: int = 0
    accepted: int = 0
    published: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Which identities and images are compared, and their embeddings by role.

    Attributes:
        ordinals_M: int64, rising: whose templates are summed.
        sums: role -> their sums; a role whose embeddings are of no length is not there.
        places: key -> place of an image among the S.
        owner_S: int64, the identity of each.
        emb: role -> float32 (S, E).
    """

    ordinals_M: Int64
    sums: dict[str, Sums]
    places: Mapping[str, int]
    owner_S: Int64
    emb: dict[str, Float32]


@dataclass(slots=True)
class Survey:
    """What a pass found.

    Attributes:
        cells: names of the cells, the order of the groups of histograms.
        counts: of every candidate, as made.
        left_out: accepted candidates that the index does not name.
        by_cell: cell -> counts.
        measures: name -> histograms; group `status * len(cells) + cell`.
        compared: what is known of similarity.
        lowest: measure -> the published images with the least of it.
        random: keys of the random gallery.
        numbers: key -> measures, of the images that galleries show.
        added: names of the measures that side-cars hold.
    """

    cells: tuple[str, ...]
    counts: Counts
    left_out: int
    by_cell: dict[str, CellCounts]
    measures: dict[str, Histograms]
    compared: Compared
    lowest: Lowest
    random: tuple[str, ...]
    numbers: dict[str, dict[str, float]]
    added: set[str] = field(default_factory=set)

    def groups(self, status: int, cell: str | None = None) -> list[int]:
        """Return the groups of histograms of a status, of one cell or of all."""
        begin = status * len(self.cells)
        return [begin + self.cells.index(cell)] if cell is not None else list(range(begin, begin + len(self.cells)))


def survey(subject: Subject) -> Survey:
    """Read every make unit of a version once; segment by segment, in the order of names.

    Raises:
        StoreError: a receipt or a file is missing, or rows do not count what the receipts say.
    """
    names = tuple(sorted({str(cell) for cell in subject.cells.values()} | {subject.cell_of(r) for r in subject.rows}))
    return _Pass(subject, names).run()


def units_of(manifest: Manifest) -> list[str]:
    """Return the make units that a version stands on, as its manifest names their segments."""
    paths = (f.path for f in manifest.files)
    prefix = f"segments/{Stage.MAKE.value}-"
    tables = (p for p in paths if p.startswith(prefix) and p.endswith(".parquet"))
    return sorted(p.removeprefix("segments/").removesuffix(".parquet") for p in tables)


def cells_of(segments: SegmentWriter, store: Store, generation: int) -> dict[int, Cell]:
    """Return ordinal -> cell of everybody enrolled up to a generation."""
    return {
        m.ordinal: m.cell for path in enrolled_paths(store, generation + 1) for m in segments.read_members(store, path)
    }


def compared_rows(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Return the images whose pairs are compared: all where they are few, else some of evenly chosen identities.

    Args:
        rows: an index without twins, sorted by label and key.
    """
    if len(rows) <= MOST_IMAGES:
        return list(rows)
    labels = np.fromiter((r.label for r in rows), np.int64, len(rows))
    begins = np.flatnonzero(np.diff(labels, prepend=-1))
    held = np.diff(np.append(begins, len(rows)))
    chosen = even_rows(len(begins), max(2, MOST_IMAGES // min(MOST_EACH, int(held.max()))))
    return [rows[int(begins[n] + k)] for n in chosen for k in even_rows(int(held[n]), MOST_EACH)]


class _Pass:
    def __init__(self, subject: Subject, names: tuple[str, ...]) -> None:
        self._subject, self._names = subject, names
        cell_at = {name: n for n, name in enumerate(names)}
        ordinals = np.array(sorted(subject.cells), np.int64)
        self._ordinals = ordinals
        self._cell_of = np.array([cell_at[str(subject.cells[int(o)])] for o in ordinals], np.int64)
        published = np.unique(np.fromiter((r.identity for r in subject.rows), np.int64, len(subject.rows)))
        chosen = compared_rows(subject.rows)
        self._compared = Compared(
            ordinals_M=published[even_rows(len(published), MOST_TEMPLATES)],
            sums={},
            places={row.key: n for n, row in enumerate(chosen)},
            owner_S=np.array([r.identity for r in chosen], np.int64),
            emb={},
        )
        self._rows_of: dict[str, list[int]] = defaultdict(list)
        for n, row in enumerate(subject.rows):
            self._rows_of[row.segment].append(n)
        self._random = random_keys(subject.rows)
        self._found = Survey(
            cells=names,
            counts=Counts(0, 0, 0, {}),
            left_out=0,
            by_cell={name: CellCounts() for name in names},
            measures={},
            compared=self._compared,
            lowest=Lowest(),
            random=self._random,
            numbers={},
        )
        self._first: Counter[str] = Counter()
        self._every: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._seen_G = np.zeros(3 * len(names), np.int64)

    def run(self) -> Survey:
        subject = self._subject
        for unit in units_of(subject.manifest):
            if unit not in subject.made:
                raise StoreError(f"receipts/{unit}.json: missing; restore receipts/ from a copy")
            self._unit(unit)
        counts, said = self._counts(), Counts.total(r.counts for r in subject.made.values())
        if counts.to_dict() != said.to_dict():
            raise StoreError(
                f"{subject.manifest.path}: its segments count {counts.to_dict()}, their receipts {said.to_dict()}; "
                "run `facemint verify --deep` to learn which file is altered"
            )
        found = self._found
        found.counts = counts
        for row in subject.rows:
            found.by_cell[subject.cell_of(row)].published += 1
        for histograms in found.measures.values():
            # an image without the number is not in a segment's map at all
            histograms.missing_G += self._seen_G - histograms.counts_GL.sum(axis=1) - histograms.missing_G
        keep = {*found.random, *found.lowest.keys()}
        found.numbers = {k: v for k, v in found.numbers.items() if k in keep}
        return found

    def _counts(self) -> Counts:
        total = self._totals
        return Counts(
            total["candidates"], total["accepted"], total["candidates"] - total["accepted"],
            dict(sorted(self._first.items())), total["off_target"], dict(sorted(self._every.items())), total["twins"],
            total["wholes"],
        )  # fmt: skip

    def _unit(self, unit: str) -> None:
        subject = self._subject
        published = {subject.rows[n].key: n for n in self._rows_of.get(unit, ())}
        wanted = ["key", "identity", "accepted", "off_target", "reasons", "measures"]
        wanted += ["embedding"] if published else []
        columns = dict(subject.segments.read_columns(subject.store, unit, wanted))
        self._totals["wholes"] += len(wholes_of(subject.segments, subject.store, subject.made[unit]) or {})
        if published:
            self._auditor(unit, published)
        if subject.has_twins:
            columns = self._without_twins(columns)
        keys, accepted = columns["key"], np.asarray(columns["accepted"], bool)
        named = np.fromiter((key in published for key in keys), bool, len(keys))
        if named.sum() != len(published) or (named & ~accepted).any():
            raise StoreError(
                f"segments/{unit}.parquet: the index of {subject.manifest.version} names images that it has not "
                "accepted; run `facemint verify --deep`"
            )
        status = np.where(named, PUBLISHED, np.where(accepted, LEFT_OUT, REFUSED))
        cell = self._cell_of[places_of(np.asarray(columns["identity"]), self._ordinals)]
        self._count(columns, accepted, status, cell)
        group = status * len(self._names) + cell
        self._seen_G += np.bincount(group, minlength=len(self._seen_G))
        self._measures(self._with_added(unit, columns["measures"], keys), keys, group, named)
        if "embedding" in columns:
            mine = [keys[n] for n in np.flatnonzero(named)]
            self._embedded(JUDGE, mine, columns["embedding"][named], np.asarray(columns["identity"])[named])

    def _without_twins(self, columns: dict[str, Any]) -> dict[str, Any]:
        twins = np.fromiter((is_twin(key) for key in columns["key"]), bool, len(columns["key"]))
        self._totals["twins"] += int((twins & np.asarray(columns["accepted"], bool)).sum())
        mine = np.flatnonzero(~twins)
        return {
            name: values[mine] if isinstance(values, np.ndarray) else [values[n] for n in mine]
            for name, values in columns.items()
        }

    def _count(self, columns: Mapping[str, Any], accepted: Any, status: Int64, cell: Int64) -> None:
        found, number = self._found, len(self._names)
        self._totals["candidates"] += len(accepted)
        self._totals["accepted"] += int(accepted.sum())
        self._totals["off_target"] += int((accepted & np.asarray(columns["off_target"], bool)).sum())
        found.left_out += int((status == LEFT_OUT).sum())
        made, kept = np.bincount(cell, minlength=number), np.bincount(cell[accepted], minlength=number)
        for n, name in enumerate(self._names):
            found.by_cell[name].candidates += int(made[n])
            found.by_cell[name].accepted += int(kept[n])
        for n in np.flatnonzero(~accepted).tolist():
            reasons = columns["reasons"][n]
            self._first[reasons[0]] += 1
            self._every.update(reasons)
            found.by_cell[self._names[cell[n]]].reasons[reasons[0]] += 1

    def _with_added(self, unit: str, rows: Sequence[Mapping[str, float]], keys: Sequence[str]) -> Any:
        records = self._subject.added.get(unit)
        if not records:
            return rows
        added = read_added_measures(self._subject.segments, self._subject.store, records)
        self._found.added.update(chain.from_iterable(added.values()))
        return [{**row, **added.get(key, {})} for key, row in zip(keys, rows, strict=True)]

    def _measures(self, rows: Sequence[Mapping[str, float]], keys: Sequence[str], group: Int64, named: Any) -> None:
        found = self._found
        lowest = found.lowest
        for name, values, at in _columns(rows):
            if name in NO_QUANTITIES:
                continue
            if name not in found.measures:
                found.measures[name] = Histograms(3 * len(self._names))
            found.measures[name].add(values, group[at])
            if lowest.wants(name):
                mine = named[at]
                lowest.offer(name, values[mine], at[mine], keys)
        wanted = {*self._random, *lowest.keys()}
        for n in np.flatnonzero(named).tolist():
            if keys[n] in wanted:
                found.numbers[keys[n]] = dict(rows[n])

    def _auditor(self, unit: str, published: Mapping[str, int]) -> None:
        audited = self._subject.segments.read_audit(self._subject.store, unit)
        mine = np.fromiter((k in published for k in audited.keys), bool, len(audited.keys))
        owners = [self._subject.rows[published[k]].identity for k in audited.keys if k in published]
        keys = [k for k in audited.keys if k in published]
        self._embedded(AUDITOR, keys, audited.auditor_NE[mine], np.array(owners, np.int64))

    def _embedded(self, role: str, keys: Sequence[str], emb_NE: Float32, owner_N: Int64) -> None:
        compared = self._compared
        if role not in compared.sums:
            size = emb_NE.shape[1]
            compared.sums[role] = Sums(len(compared.ordinals_M), size)
            compared.emb[role] = np.full((len(compared.owner_S), size), np.nan, np.float32)
        place = places_of(owner_N, compared.ordinals_M)
        mine = place >= 0
        compared.sums[role].add(emb_NE[mine], place[mine])
        for n, key in enumerate(keys):
            if (at := compared.places.get(key)) is not None:
                compared.emb[role][at] = emb_NE[n]


def _columns(rows: Sequence[Mapping[str, float]]) -> Iterable[tuple[str, npt.NDArray[np.float64], Int64]]:
    """Yield each measure as its values and the rows that have it; rows of equal names are taken together."""
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for n, row in enumerate(rows):
        alike[tuple(row)].append(n)
    for names, at in sorted(alike.items()):
        flat = chain.from_iterable(rows[n].values() for n in at)
        table = np.fromiter(flat, np.float64, len(at) * len(names)).reshape(len(at), len(names))
        places = np.array(at, np.int64)
        for column, name in enumerate(names):
            yield name, table[:, column], places
