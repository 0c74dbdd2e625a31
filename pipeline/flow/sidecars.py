"""Adding to what stands: another measure, or another recogniser, reads the stored images; segments stay as they are.

One side-car per make unit and per addition, and beside it the record that it is whole, written last:

    measures/make-g0-000003-lighting.parquet
    measures/make-g0-000003-lighting.json

Of a curated set they lie under `private/`. Which side-cars stand follows from these records alone, so a killed run goes
on where it was.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.domain.errors import PlanMismatchError, StoreError
from pipeline.domain.manifest import Counts, Receipt, canonical_json, receipt_path, segment_path, sha256_hex
from pipeline.domain.ports import Measurer, ModelCard, Recogniser, SegmentWriter, Store
from pipeline.domain.records import Float32, UInt8
from pipeline.domain.sidecar import SideCar
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import read_receipt, receipt_of, same_content
from pipeline.flow.parts import Parts, decoded, embed_each, measure_fixed

FOLDERS = ("measures/", "private/measures/")
"""Where side-cars lie: those of minted sets, and those of curated ones."""
READ_TOGETHER = 256
"""Images decoded at once: bounds memory, and changes nothing, as models see full batches either way."""


@dataclass(frozen=True)
class Addition:
    """What is added: a measure, or the embeddings of a recogniser.

    Attributes:
        name: that of its side-cars: the component's, with its labeller.
        component: the component's name.
        options: the component's options, JSON-ready.
        part: the measure or the recogniser.
        batch: rows that it sees at once.
    """

    name: str
    component: str
    options: Mapping[str, Any]
    part: Measurer | Recogniser
    batch: int

    @functools.cached_property
    def digest(self) -> str:
        """Return the digest of everything that its numbers follow from."""
        return sha256_hex(canonical_json({**self.about(), "batch": self.batch}))[:32]

    def about(self) -> dict[str, Any]:
        """Return what a side-car says of who found its numbers."""
        card: ModelCard = self.part.card
        said = {
            "name": self.name,
            "component": self.component,
            "options": dict(self.options),
            "model": {"name": card.name, "sha256": card.sha256, "licence": card.licence, "epoch": card.epoch},
        }
        if isinstance(self.part, Measurer):
            return {**said, "measures": list(self.part.names), "space": None}
        return {**said, "measures": [], "space": self.part.space.to_dict()}


def folder_of(kind: str) -> str:
    """Return where the side-cars of a dataset of this kind lie."""
    return FOLDERS[kind == "curate"]


def side_car_path(unit: Unit, folder: str) -> str:
    """Return where a unit's side-car lies."""
    return f"{folder}{unit.of}-{unit.side_car}.parquet"


def record_path(unit: Unit, folder: str) -> str:
    """Return where the record of a unit's side-car lies."""
    return f"{folder}{unit.of}-{unit.side_car}.json"


def plan_additions(known: Mapping[str, Receipt], addition: Addition) -> list[Unit]:
    """Return a unit for every committed unit of making that has images."""
    made = (r for _, r in sorted(known.items()) if r.unit["stage"] == Stage.MAKE.value and r.counts.accepted)
    return [
        Unit(
            Stage.MEASURE,
            r.unit["generation"],
            r.unit["index"],
            r.unit["round"],
            of=r.name,
            reader=addition.digest,
            side_car=addition.name,
        )
        for r in made
    ]


def remaining(store: Store, folder: str, units: Sequence[Unit], *, replace: bool = False) -> list[Unit]:
    """Return the units whose side-car does not stand whole: with a record, and of the size that this says.

    A record that is torn, or whose side-car is gone or cut, is removed, and with `replace` every one.

    Raises:
        PlanMismatchError: a side-car of this name was made by another model or with other options.
    """
    sizes = {entry.path: entry.bytes for entry in store.entries(folder)}
    paths = {unit: record_path(unit, folder) for unit in units}
    records = store.get_many([path for path in paths.values() if path in sizes])
    out = []
    for unit in units:
        data = records.get(paths[unit])
        record = None if data is None else _record(data)
        if record is not None and not replace and record.unit != unit.to_dict():
            raise PlanMismatchError(
                f"{paths[unit]}: made by another model, or with other options; keep both by giving this one a name "
                "with --set labeller=NAME, or make it anew with --replace"
            )
        if record is None or replace or any(sizes.get(f.path) != f.bytes for f in record.files):
            if data is not None:
                store.delete(paths[unit])
            out.append(unit)
    return out


def add_to_unit(unit: Unit, parts: Parts, addition: Addition) -> Receipt:
    """Read one unit's stored images, write its side-car, and then the record of it.

    Raises:
        StoreError: the images are not those of the unit's receipt, or other numbers stand there already.
        LeaseHeldError: another run has taken the dataset over.
    """
    started_s = parts.clock.now_s()
    folder = folder_of(parts.recipe.kind)
    keys, blocks = _images(unit.of, parts)
    found = [_read(addition, block) for block in blocks]
    measures = [row for rows, _ in found for row in rows]
    emb = [rows for _, rows in found]
    car = SideCar(
        unit.of, keys, tuple(measures), np.concatenate(emb) if emb else np.empty((0, 0), np.float32), addition.about()
    )
    entry = parts.segments.write_side_car(parts.store, side_car_path(unit, folder), car)
    receipt = receipt_of(unit, parts, Counts(len(keys), len(keys), 0, {}), (entry,), started_s)
    parts.guard()
    path = record_path(unit, folder)
    if not parts.store.put_if_absent(path, receipt.to_json()):
        standing = _record(parts.store.get(path))
        if standing is None or not same_content(standing, receipt):
            raise StoreError(f"{path}: other numbers stand there already; use one device kind, or --replace")
    return receipt


def read_sidecars(segments: SegmentWriter, store: Store, unit: str) -> dict[str, dict[str, float]]:
    """Return key -> measure -> value of everything that was added about a make unit's images; embeddings apart.

    A number that came out NaN is not there. Two additions never give one name: that is refused when they are made.

    Raises:
        StoreError: a side-car is damaged or gone, though its record stands.
    """
    out: dict[str, dict[str, float]] = {}
    for _, car in _cars(segments, store, unit):
        for key, numbers in zip(car.keys, car.measures, strict=True):
            out.setdefault(key, {}).update(numbers)
    return out


def side_car_records(store: Store) -> dict[str, list[Receipt]]:
    """Return the records of side-cars by unit, in the order of their names, from one listing of each folder."""
    out: dict[str, list[Receipt]] = {}
    for record in _records(store):
        out.setdefault(str(record.unit["of"]), []).append(record)
    return out


def read_added_measures(
    segments: SegmentWriter, store: Store, records: Sequence[Receipt]
) -> dict[str, dict[str, float]]:
    """Return key -> measure -> value of what these records of one unit added; NaN where an image has no such number.

    So what judges them tells an image without a number, which passes nothing, from a number that nobody looked for.

    Raises:
        StoreError: a side-car is damaged or gone, though its record stands.
    """
    out: dict[str, dict[str, float]] = {}
    for record in records:
        car = open_side_car(segments, store, record)
        nothing = dict.fromkeys(car.about["measures"], float("nan"))
        for key, numbers in zip(car.keys, car.measures, strict=True):
            out.setdefault(key, {}).update({**nothing, **numbers})
    return out


def read_added_embeddings(
    segments: SegmentWriter, store: Store, unit: str, name: str
) -> tuple[tuple[str, ...], Float32]:
    """Return keys and embeddings (N, E) that a recogniser added about a unit; a row of NaN is an unreadable face.

    Raises:
        StoreError: no recogniser of that name was added, or its side-car is damaged.
    """
    for added, car in _cars(segments, store, unit):
        if added == name and car.embedding_NE.shape[1]:
            return car.keys, car.embedding_NE
    raise StoreError(f"{unit}: no embeddings named {name!r} were added; run `facemint measure ... --add {name}`")


def additions(segments: SegmentWriter, store: Store) -> dict[str, Mapping[str, Any]]:
    """Return what was added to a dataset: name -> who found it, as the first of its side-cars says that can be read."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in _records(store):
        name = str(record.unit["side_car"])
        if name not in found:
            # one that is damaged is made again by adding once more, which begins by asking here
            with suppress(StoreError):
                found[name] = open_side_car(segments, store, record).about
    return dict(sorted(found.items()))


def stored_measures(segments: SegmentWriter, store: Store) -> tuple[str, ...]:
    """Return the names of the measures that a dataset's segments hold, as the first unit of making has them."""
    units = store.list(f"receipts/{Stage.MAKE.value}-")
    if not units:
        return ()
    name = units[0].removeprefix("receipts/").removesuffix(".json")
    rows = segments.read_columns(store, name, ["measures"])["measures"]
    return tuple(sorted({measure for row in rows for measure in dict(row)}))


def _cars(segments: SegmentWriter, store: Store, unit: str) -> Iterator[tuple[str, SideCar]]:
    for record in _records(store, unit):
        yield str(record.unit["side_car"]), open_side_car(segments, store, record)


def open_side_car(segments: SegmentWriter, store: Store, record: Receipt) -> SideCar:
    """Return the side-car that a record names; raises StoreError where it is damaged or gone."""
    path = record.files[0].path
    try:
        return segments.read_side_car(store, path, str(record.unit["of"]))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; run the same `facemint measure` command again") from None


def _records(store: Store, unit: str = "") -> list[Receipt]:
    """Return the records of side-cars, of one unit or of all, in the order of their names."""
    paths = [p for folder in FOLDERS for p in store.list(f"{folder}{unit}") if p.endswith(".json")]
    data = store.get_many(paths)
    found = [record for path in paths if path in data and (record := _record(data[path])) is not None]
    return [r for r in found if not unit or r.unit["of"] == unit]


def _record(data: bytes) -> Receipt | None:
    try:
        record = Receipt.from_json(data)
        str(record.unit["of"]), str(record.unit["side_car"]), record.files[0]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return record


def _images(name: str, parts: Parts) -> tuple[tuple[str, ...], Iterator[UInt8]]:
    """Return the keys of a unit's stored images, and these decoded, some at a time."""
    made = read_receipt(parts.store, receipt_path(name))
    entry = next(f for f in made.files if f.path == segment_path(name, "tar"))
    columns = parts.segments.read_columns(parts.store, name, ["key", "accepted"])
    keys = tuple(k for k, kept in zip(columns["key"], columns["accepted"], strict=True) if kept)
    places, tar = parts.segments.locate(parts.store, name), parts.store.get(entry.path)
    if sha256_hex(tar) != entry.sha256 or set(places) != set(keys):
        raise StoreError(
            f"{entry.path}: its bytes are not those of its receipt; run `facemint generate` again with --deep to have "
            "its unit, and it alone, made again, or restore the file from a copy"
        )

    def blocks() -> Iterator[UInt8]:
        for start in range(0, len(keys), READ_TOGETHER):
            yield np.stack([decoded(name, key, tar, places[key], parts) for key in keys[start : start + READ_TOGETHER]])

    return keys, blocks()


def _read(addition: Addition, faces_NHWC: UInt8) -> tuple[list[dict[str, float]], Float32]:
    """Return per face the measures that are finite, and embeddings (N, E), NaN where there is none."""
    count = len(faces_NHWC)
    if isinstance(addition.part, Measurer):
        found = measure_fixed((addition.part,), faces_NHWC, addition.batch)
        rows = [{k: float(v[n]) for k, v in found.items() if np.isfinite(v[n])} for n in range(count)]
        return rows, np.empty((count, 0), np.float32)
    emb, sound = embed_each(addition.part, faces_NHWC, addition.batch)
    return [{} for _ in range(count)], np.where(sound[:, None], emb, np.float32(np.nan))


class AddingWorker:
    """Implements `ports.Worker`: adds one thing to whichever unit it is handed."""

    def __init__(self, parts: Parts, addition: Addition) -> None:
        """Keep the parts and what is added; the model loads with the first unit."""
        self._parts, self._addition = parts, addition

    def device_kind(self) -> str:
        """Return the device kind that records of this worker state."""
        return str(self._parts.run_facts["device_kind"])

    def work(self, unit: Unit) -> Receipt:
        """Write one unit's side-car, and return the record of it."""
        return add_to_unit(unit, self._parts, self._addition)
