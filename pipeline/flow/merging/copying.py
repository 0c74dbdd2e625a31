"""Copying the images of a merged dataset, in units: bytes as they are, numbers as they are, under their new keys.

A unit is one of making, of a generation that stands for a source; which images it copies stands in the table of that
source. So audits, measures, reports and exports work on a merged dataset as on any other.

Legend: N images, E judge dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, FileEntry, Receipt, segment_path, sha256_hex
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.records import Candidate, Cell, Identity, Sample, Verdict
from pipeline.domain.storage import Store
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.audit import audit_unit
from pipeline.flow.commit import commit, enrolled_path, enrolled_paths, receipt_of
from pipeline.flow.judge import NEAREST_ORDINAL
from pipeline.flow.merging.merge import COLUMNS, Decided, Source, Taken, table_path
from pipeline.flow.parts import Parts
from pipeline.flow.sidecars import read_sidecars
from pipeline.flow.wholes import altered_wholes, whole_bytes

_SAMPLE = (
    "key", "order", "identity", "slot", "attempt", "conditions", "measures", "verdicts", "off_target", "accepted",
)  # fmt: skip


def write_table(tables: PlainTables, store: Store, generation: int, taken: Sequence[Taken]) -> FileEntry:
    """Write which images a source gives."""
    rows = ({name: getattr(t, name) for name in COLUMNS} for t in taken)
    return tables.write(store, table_path(generation), COLUMNS, rows)


def read_table(tables: PlainTables, store: Store, generation: int) -> list[Taken]:
    """Return which images a source gives; raises StoreError where the table is gone or damaged."""
    path = table_path(generation)
    try:
        found = tables.read(store, path, list(COLUMNS))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; restore it from a copy, or merge again to another --out") from None
    columns = [c.tolist() if isinstance(c, np.ndarray) else c for c in (found[name] for name in COLUMNS)]
    return [Taken(*row) for row in zip(*columns, strict=True)]


def write_enrolled(parts: Parts, source: Source, generation: int, decided: Decided, first_candidate: int) -> FileEntry:
    """Write the identities that a source gives, under their new ordinals, with the vectors that they were made of.

    A template is the one of enrolment where the judge stayed the same, else that of the images that are taken.
    """
    labels = {t.source_identity: t.label for t in decided.taken}
    cells = {t.source_identity: t.cell for t in decided.taken}
    turn: dict[str, int] = defaultdict(int)
    rows: dict[int, Identity] = {}
    space = None
    for path in enrolled_paths(source.store, source.manifest.generation + 1):
        identities, space = source.segments.read_identities(source.store, path)
        rows |= {i.ordinal: i for i in identities if i.ordinal in labels}
    if space is None or (gone := labels.keys() - rows.keys()):
        whose = f"identity {min(gone)}" if space is not None else "anybody"
        raise StoreError(f"{source.store.uri}: enrolled/ does not hold {whose}; look with `facemint verify`")
    out = []
    for ordinal in sorted(rows, key=lambda o: labels[o]):
        there, cell = rows[ordinal], cells[ordinal]
        if source.judge:
            template_E, images, cos = decided.templates[ordinal + source.offset]
            there = replace(there, template_E=template_E, template_images=images, quality=cos)
        numbered = replace(there, ordinal=ordinal + source.offset, candidate=there.candidate + first_candidate)
        out.append(replace(numbered, cell=Cell.parse(cell), rank=turn[cell]))
        turn[cell] += 1
    return parts.segments.write_identities(parts.store, enrolled_path(generation), out, space)


def plan_copies(taken: Sequence[Taken], generation: int, size: int) -> list[Unit]:
    """Return the units that copy a source's images: so many identities each, rising."""
    who = sorted({t.identity for t in taken})
    return [
        Unit(Stage.MAKE, generation, n, 0, ordinals=tuple(who[at : at + size]))
        for n, at in enumerate(range(0, len(who), size))
    ]


@dataclass(slots=True)
class CopyingWorker:
    """Implements `ports.Worker` for merging: copies units, and audits what was copied.

    Args:
        parts: the ports of the merged dataset.
        sources: where images come from, by generation.
        tables: reads which.
        added: measures that were added to every source, and are stored with the image here.
    """

    parts: Parts
    sources: Sequence[Source]
    tables: PlainTables
    added: frozenset[str] = frozenset()
    _taken: dict[int, dict[int, list[Taken]]] = field(default_factory=dict)
    _read: tuple[int, str, Mapping[str, Any]] = (-1, "", {})

    def device_kind(self) -> str:
        """Return the device kind that receipts of this worker state."""
        return str(self.parts.run_facts["device_kind"])

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, commit it, and return its receipt.

        Raises:
            StoreError: an image of a source is not what its table says.
        """
        if unit.stage is Stage.AUDIT:
            return audit_unit(unit, self.parts)
        started_s = self.parts.clock.now_s()
        rows = list(self._candidates(unit))
        wholes = self.sources[unit.generation].keeps_wholes
        files = self.parts.segments.write_images(self.parts.store, unit.name, rows, wholes=wholes)
        images = [r for r in rows if not is_twin(r.sample.key)]
        counts = Counts.of((True, r.off_target, ()) for r in images)
        counts = replace(counts, twins=len(rows) - len(images), wholes=len(images) if wholes else 0)
        receipt = receipt_of(unit, self.parts, counts, files, started_s)
        commit(self.parts, receipt)
        return receipt

    def _candidates(self, unit: Unit) -> Iterator[Candidate]:
        by_identity = self._table(unit.generation)
        order = 0
        for ordinal in unit.ordinals:
            for image in by_identity[ordinal]:
                # a twin has the place of the image that it was made of, which stands right before it
                order += not is_twin(image.key)
                yield self._copied(unit.generation, image, order - 1)

    def _table(self, generation: int) -> dict[int, list[Taken]]:
        if generation not in self._taken:
            by_identity: dict[int, list[Taken]] = defaultdict(list)
            for image in read_table(self.tables, self.parts.store, generation):
                by_identity[image.identity].append(image)
            self._taken[generation] = by_identity
        return self._taken[generation]

    def _copied(self, generation: int, image: Taken, order: int) -> Candidate:
        source = self.sources[generation]
        segment = self._segment(generation, image.segment)
        n = segment["row"][image.source_key]
        data = segment["tar"][image.offset : image.offset + image.length]
        if sha256_hex(data) != image.sha256 or not segment["accepted"][n]:
            raise StoreError(
                f"{source.store.uri}: {image.source_key} in {segment_path(image.segment, 'tar')} is not the image that "
                "was there when merging began; look with `facemint verify --deep`"
            )
        whole = segment["wholes"].get(image.source_key)
        if whole is not None and altered_wholes(segment["tar"], {image.source_key: whole}):
            path = segment_path(image.segment, "tar")
            raise StoreError(
                f"{source.store.uri}: {path}: the whole picture of {image.source_key} is not what its row says; look "
                "with `facemint verify --deep`"
            )
        measures = {k: v for k, v in segment["added"].get(image.source_key, {}).items() if k in self.added}
        measures |= segment["measures"][n]
        if NEAREST_ORDINAL in measures:
            measures[NEAREST_ORDINAL] += float(source.offset)
        return Candidate(
            sample=Sample(
                key=image.key,
                identity=image.identity,
                slot=int(segment["slot"][n]),
                attempt=int(segment["attempt"][n]),
                conditions=dict(segment["conditions"][n]),
                measures=measures,
                embedding_E=segment["emb"][image.source_key],
            ),
            order=order,
            verdicts=tuple(Verdict(**v) for v in segment["verdicts"][n]),
            accepted=True,
            off_target=bool(segment["off_target"][n]),
            jpeg=data,
            whole=None if whole is None else whole_bytes(segment["tar"], whole),
        )

    def _segment(self, generation: int, name: str) -> Mapping[str, Any]:
        """Return a source's segment by columns, and its tar; the last is kept, as units follow the order of sources."""
        if self._read[:2] != (generation, name):
            source = self.sources[generation]
            columns = dict(source.columns(name, _SAMPLE))
            columns["tar"] = source.tar(name)
            keys, emb_NE = source.embeddings(name)
            columns["wholes"] = source.wholes(name)
            columns["row"] = {k: n for n, k in enumerate(columns["key"])}
            columns["emb"] = dict(zip(keys, emb_NE, strict=True))
            columns["added"] = read_sidecars(source.segments, source.store, name) if self.added else {}
            self._read = (generation, name, columns)
        return self._read[2]
