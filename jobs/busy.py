"""What a run does where another one holds its dataset: fail, let it be, or wait as long as a dead run's hold lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import typer

from pipeline.domain.errors import LeaseHeldError

Opened = TypeVar("Opened")
WAIT_S = 90.0
"""A hold that nobody renews is over after 60 s."""
LOOK_S = 1.0


class IfBusy(StrEnum):
    """What to do where another run holds the dataset."""

    FAIL = "fail"
    OK = "ok"
    WAIT = "wait"


def unless_busy(
    take: Callable[[], Opened], if_busy: IfBusy, check: Callable[[], None], *, wait_s: float = WAIT_S
) -> Opened | None:
    """Return what `take` returns once it gets the lease; None where another run holds it and that is well.

    Args:
        take: takes the lease, or raises LeaseHeldError.
        if_busy: what else to do.
        check: raises where the run was asked to end meanwhile.
        wait_s: with `wait`, the longest wait; a holder that lives keeps its lease beyond it.

    Raises:
        LeaseHeldError: another run holds the dataset, and that is not well.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return take()
        except LeaseHeldError as held:
            if if_busy is IfBusy.OK:
                typer.echo(f"facemint: {held}; nothing was done, as --if-busy ok asks", err=True)
                return None
            if if_busy is IfBusy.FAIL or time.monotonic() > deadline_s:
                raise
        check()
        time.sleep(LOOK_S)
