"""The worker: does whichever unit it is handed, with models loaded once, and leaves the receipt in the store."""

from __future__ import annotations

from pipeline.domain.manifest import Receipt
from pipeline.domain.records import Identity
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.audit import audit_unit
from pipeline.flow.commit import enrolled_count, enrolled_paths, receipts
from pipeline.flow.enrol import enrol_unit
from pipeline.flow.make import make_unit
from pipeline.flow.parts import Parts


class UnitWorker:
    """Implements `ports.Worker` over a bundle of parts."""

    def __init__(self, parts: Parts) -> None:
        """Keep the parts; models load when the first unit needs them."""
        self._parts = parts
        self._enrolled: dict[int, dict[int, Identity]] = {}
        self._erased: dict[int, int] = {}

    def device_kind(self) -> str:
        """Return the device kind that receipts of this worker state."""
        return str(self._parts.run_facts["device_kind"])

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, commit it, and return its receipt."""
        if unit.stage is Stage.ENROL:
            return enrol_unit(unit, self._parts)
        if unit.stage is Stage.AUDIT:
            return audit_unit(unit, self._parts)
        enrolled = self._identities(unit.generation)
        return make_unit(unit, self._parts, enrolled, self._erased[unit.generation])

    def _identities(self, generation: int) -> dict[int, Identity]:
        if generation not in self._enrolled:
            known: dict[int, Identity] = {}
            for path in enrolled_paths(self._parts.store, generation + 1):
                rows, space = self._parts.segments.read_identities(self._parts.store, path)
                self._parts.generator.space.require_same(space, path)
                known |= {i.ordinal: i for i in rows}
            self._enrolled[generation] = known
            closed = receipts(self._parts.store, "enrolled-")
            # without receipts nobody was erased: erasing writes them
            self._erased[generation] = max(0, enrolled_count(closed, generation + 1) - len(known))
        return self._enrolled[generation]
