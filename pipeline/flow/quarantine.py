"""The quarantine: which units killed their worker, how often, and which are set aside for it.

Every death is a file of its own, `quarantine/make-g0-000003-1.json`, created if absent before the unit is issued
again. So a driver that is killed forgets nothing, two drivers cannot lose a death between them, and the next run
starts where this one ended. A unit with `DEATHS_ALLOWED` deaths is set aside until a person releases it; a receipt
that came all the same wins over its deaths.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.domain.manifest import Receipt, canonical_json, receipt_path
from pipeline.domain.ports import Clock, Store
from pipeline.domain.unit import Unit

PREFIX = "quarantine/"
DEATHS_ALLOWED = 3
"""With this many deaths a unit is set aside."""


class Quarantine:
    """The deaths of units, in a store.

    What the store holds is read once per run (`read`) and kept up to date from then on by `record` and `release`.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep where the deaths lie and what tells their time."""
        self._store = store
        self._clock = clock
        self._deaths: Counter[str] | None = None

    def read(self) -> None:
        """Read what the store holds, in one listing: at the start of every run."""
        names = (_parsed(path) for path in self._store.list(PREFIX))
        self._deaths = Counter(name for name in names if name is not None)

    def deaths(self, unit_name: str) -> int:
        """Return how many workers died on a unit."""
        return self._known()[unit_name]

    def is_full(self, unit_name: str) -> bool:
        """Return whether a unit has had all the deaths that it may have: it is issued no more."""
        return self.deaths(unit_name) >= DEATHS_ALLOWED

    def record(self, unit_name: str, why: str, facts: Mapping[str, Any] | None = None) -> int:
        """Write one more death of a unit, before it is issued again; return how many there are now.

        Args:
            unit_name: the unit that was being worked.
            why: what is known of the cause, in one line.
            facts: what is known of the worker: node, host, process, device kind.
        """
        known = self._known()
        body = {
            "unit": unit_name,
            "why": why,
            "worker": dict(facts or {}),
            "at_s": round(self._clock.now_s(), 3),
        }
        while True:
            known[unit_name] += 1
            number = known[unit_name]
            # where the number is taken, a driver that was thought dead wrote a death of its own: both count
            if self._store.put_if_absent(_path(unit_name, number), canonical_json({**body, "number": number})):
                return number

    def why(self, unit_name: str) -> str:
        """Return the cause of a unit's last death, or an empty string where nothing readable tells it."""
        try:
            raw = json.loads(self._store.get(_path(unit_name, self.deaths(unit_name))))
            return str(raw["why"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""

    def quarantined(self) -> list[str]:
        """Return the units that are set aside, sorted; those that have a receipt by now are not."""
        full = sorted(name for name in self._known() if self.is_full(name))
        return [name for name in full if self._store.size(receipt_path(name)) is None]

    def done_after_all(self, unit: Unit) -> Receipt | None:
        """Return the receipt that a unit's lost worker left, or None: some die with their last answer unsent."""
        try:
            receipt = Receipt.from_json(self._store.get(receipt_path(unit.name)))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return receipt if receipt.unit == unit.to_dict() else None

    def release(self) -> list[str]:
        """Forget the deaths of every unit that is set aside, so that it is tried again; return their names."""
        self.read()
        released = self.quarantined()
        for path in self._store.list(PREFIX):
            if _parsed(path) in released:
                self._store.delete(path)
        self.read()
        return released

    def _known(self) -> Counter[str]:
        if self._deaths is None:
            self.read()
        assert self._deaths is not None
        return self._deaths


def _path(unit_name: str, number: int) -> str:
    return f"{PREFIX}{unit_name}-{number}.json"


def _parsed(path: str) -> str | None:
    """Return the unit that a path is about, or None where it is no death of ours."""
    name, _, number = path.removeprefix(PREFIX).removesuffix(".json").rpartition("-")
    return name if name and number.isdecimal() and path.endswith(".json") else None
