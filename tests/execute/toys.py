"""A real, small worker for executors: it writes receipts in a store and can be told how to misbehave, unit by unit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.adapters.stores.local import LocalStore
from pipeline.domain.errors import RetryableStoreError, UserError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.quarantine import PREFIX, Quarantine


class FixedClock:
    """A clock that stands still."""

    def now_s(self) -> float:
        """Return the same second always."""
        return 1_000.0


def units(*numbers: int) -> list[Unit]:
    """Return make units of these numbers."""
    return [Unit(Stage.MAKE, 0, n, 0) for n in numbers]


def name(number: int) -> str:
    """Return the name of a make unit."""
    return units(number)[0].name


@dataclass(frozen=True)
class Toy:
    """Builds toy workers on a folder, and reads what they left there; travels to other processes.

    Attributes:
        folder: where store and notes lie.
        tricks: unit number -> `kill` (its process, at every try), `kill N` (at the first N), `error`, `flaky N`
            (a store error that passes, N times), `hang`, `wait` (until somebody calls `let_go`).
        seconds: how long a unit takes.
        start: `kill` to die while starting, `error` to raise then.
        kind: the device kind.
    """

    folder: Path
    tricks: Mapping[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    start: str = ""
    kind: str = "toy"

    def __call__(self) -> ToyWorker:
        """Build a worker, in whichever process this is called."""
        if self.start == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.start == "error":
            raise UserError("the models are not there")
        return ToyWorker(self)

    @property
    def store(self) -> LocalStore:
        """Return the store that the workers write."""
        return LocalStore(self.folder / "store")

    @property
    def quarantine(self) -> Quarantine:
        """Return the quarantine in that store."""
        return Quarantine(self.store, FixedClock())

    def let_go(self, number: int) -> None:
        """Let a unit end that waits."""
        (self.folder / f"let-go-{number}").touch()

    def tries(self, number: int) -> list[str]:
        """Return one entry per try of a unit: process, and how many deaths of it were written when the try began."""
        note = self.folder / f"tries-{number}"
        return note.read_text().splitlines() if note.exists() else []


class ToyWorker:
    """Implements `ports.Worker`."""

    def __init__(self, toy: Toy) -> None:
        """Keep what to do."""
        self._toy = toy
        self._store = toy.store

    def device_kind(self) -> str:
        """Return the kind it was told to have."""
        return self._toy.kind

    def work(self, unit: Unit) -> Receipt:
        """Note the try, misbehave or leave a receipt."""
        before = len(self._toy.tries(unit.index))
        deaths = len(self._store.list(f"{PREFIX}{unit.name}-"))
        with (self._toy.folder / f"tries-{unit.index}").open("a") as note:
            note.write(f"{os.getpid()} {deaths}\n")
        self._misbehave(unit, before)
        time.sleep(self._toy.seconds)
        receipt = Receipt(unit.to_dict(), unit.name, "f", "p", Counts(0, 0, 0, {}), ())
        self._store.put_if_absent(receipt.path, receipt.to_json())
        return receipt

    def _misbehave(self, unit: Unit, before: int) -> None:
        trick, _, times = self._toy.tricks.get(unit.index, "").partition(" ")
        if times and before >= int(times):
            return
        if trick == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if trick == "hang":
            time.sleep(600.0)
        deadline_s = time.monotonic() + 120.0
        while trick == "wait" and not (self._toy.folder / f"let-go-{unit.index}").exists():
            assert time.monotonic() < deadline_s, "nobody let it go"
            time.sleep(0.02)
        if trick == "error":
            raise UserError(f"unit {unit.index} asks for the impossible")
        if trick == "flaky":
            raise RetryableStoreError(f"receipts: time-out at try {before + 1}; wait, then run the command again")
