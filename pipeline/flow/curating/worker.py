"""The worker of a curation: ingest, clean and write units; what all runs share it leaves to the common worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from pipeline.domain.manifest import Receipt, receipt_path
from pipeline.domain.records import Identity
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import enrolled_paths, read_receipt
from pipeline.flow.curating.clean import clean_unit
from pipeline.flow.curating.ingest import ingest_unit, plan_ingest
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.listing import listing_name
from pipeline.flow.curating.write import Assigned, read_assigned, write_unit
from pipeline.flow.parts import Parts
from pipeline.flow.worker import UnitWorker


class CurateWorker:
    """Implements `ports.Worker` over a bundle of parts and what curating needs beside them."""

    def __init__(self, parts: Parts, open_kit: Callable[[], Kit]) -> None:
        """Keep the parts; sources are opened and models loaded when the first unit needs them."""
        self._parts, self._open_kit = parts, open_kit
        self._common = UnitWorker(parts)
        self._assigned: dict[int, Assigned] = {}
        self._enrolled: dict[int, dict[int, Identity]] = {}

    @cached_property
    def _kit(self) -> Kit:
        return self._open_kit()

    def device_kind(self) -> str:
        """Return the device kind that receipts of this worker state."""
        return self._common.device_kind()

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, commit it, and return its receipt."""
        if unit.stage is Stage.INGEST:
            return ingest_unit(unit, self._parts, self._kit)
        if unit.stage is Stage.CLEAN:
            return clean_unit(unit, self._parts, self._kit, ingested(self._parts, unit.generation))
        if unit.stage is Stage.MAKE:
            return write_unit(unit, self._parts, self._kit, self._given(unit), self._people(unit.generation))
        return self._common.work(unit)

    def _given(self, unit: Unit) -> Assigned:
        if unit.generation not in self._assigned:
            self._assigned[unit.generation] = read_assigned(self._kit, self._parts, unit.generation)
        return self._assigned[unit.generation]

    def _people(self, generation: int) -> dict[int, Identity]:
        if generation not in self._enrolled:
            known: dict[int, Identity] = {}
            for path in enrolled_paths(self._parts.store, generation + 1):
                rows, space = self._parts.segments.read_identities(self._parts.store, path)
                self._parts.judge.space.require_same(space, path)
                known |= {i.ordinal: i for i in rows}
            self._enrolled[generation] = known
        return self._enrolled[generation]


def ingested(parts: Parts, generation: int) -> list[Unit]:
    """Return the ingest units of a generation whose listing stands."""
    listed = read_receipt(parts.store, receipt_path(listing_name(generation)))
    first, stop = listed.unit["rows"]
    return plan_ingest(generation, (int(first), int(stop)), curation(parts).rows)
