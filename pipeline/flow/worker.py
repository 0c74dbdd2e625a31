"""The worker: does whichever unit it is handed, with models loaded once, and leaves the receipt in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.domain.manifest import Receipt
from pipeline.domain.records import Identity
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.audit import audit_unit
from pipeline.flow.enrol import enrol_unit
from pipeline.flow.make import make_unit
from pipeline.flow.parts import Parts


def enrolled_path(generation: int) -> str:
    """Return where the identities enrolled in a generation lie."""
    return f"enrolled/g{generation}.parquet"


class UnitWorker:
    """Implements `ports.Worker` over a bundle of parts."""

    def __init__(self, parts: Parts) -> None:
        """Keep the parts; models load when the first unit needs them."""
        self._parts = parts
        self._enrolled: dict[int, dict[int, Identity]] = {}

    def device_kind(self) -> str:
        """Return the device kind that receipts of this worker state."""
        return str(self._parts.run_facts["device_kind"])

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, commit it, and return its receipt."""
        if unit.stage is Stage.ENROL:
            return enrol_unit(unit, self._parts)
        return make_unit(unit, self._parts, self._identities(unit.generation))

    def audit(self, unit_name: str) -> Mapping[str, Any]:
        """Re-read one committed make unit."""
        return audit_unit(unit_name, self._parts)

    def _identities(self, generation: int) -> dict[int, Identity]:
        if generation not in self._enrolled:
            rows, space = self._parts.segments.read_identities(self._parts.store, enrolled_path(generation))
            self._parts.generator.space.require_same(space, enrolled_path(generation))
            self._enrolled[generation] = {i.ordinal: i for i in rows}
        return self._enrolled[generation]
