"""How a run is asked to end: by a signal, or by a budget or deadline that executors look at between units.

A signal has a grace, after which nobody waits. A limit that was met has none: what is being worked ends, however long
it takes, and nothing new begins.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.domain.errors import InterruptedRunError, StoppedError

GRACE_S = 14.0
"""How long units in flight may take to end after a signal; the rest of 20 s is for letting workers and lease go."""


@dataclass(slots=True)
class Stop:
    """Whether somebody asked the run to end. Once it is asked, executors issue no new unit and end what is
    in flight.

    Plain values and no lock: a signal handler that interrupts another would wait for ever for a lock of its own thread.
    """

    asked: bool = False
    """Whether the run shall end."""
    overdue: bool = False
    """Whether the grace is over too, and nothing is waited for any more."""
    signum: int = signal.SIGTERM
    limit: Callable[[], StoppedError | None] | None = None
    """Tells which budget is spent or which deadline is over, if any."""
    met: StoppedError | None = None
    """The limit that was met; where a signal came too, the signal ends the run."""

    def ask(self, signum: int = signal.SIGTERM) -> None:
        """Ask the run to end."""
        self.signum, self.met = signum, None
        self.asked = True

    def look(self) -> bool:
        """Return whether the run shall end; looks at the limits where nobody has asked yet."""
        if not self.asked and self.limit is not None:
            self.met = self.limit()
            self.asked = self.met is not None
        return self.asked

    def check(self) -> None:
        """Raise where the run shall end; called between units, when nothing is in flight.

        Raises:
            InterruptedRunError: a signal asked for it.
            StoppedError: a budget is spent, or the deadline is over.
        """
        if self.look():
            raise self.met or InterruptedRunError(self.signum)


@contextmanager
def on_signals(stop: Stop, grace_s: float = GRACE_S) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask `stop` while the block lasts; main thread only.

    The first signal asks; when the grace is over, or at a second signal, whatever runs is left at once. Nothing is
    half-visible then either, as every write is whole; only the unit in hand is worked again.
    """

    def asked(signum: int, _frame: FrameType | None) -> None:
        if stop.asked and stop.met is None:
            stop.overdue = True
            raise InterruptedRunError(signum)
        stop.ask(signum)
        signal.setitimer(signal.ITIMER_REAL, grace_s)

    def over(_signum: int, _frame: FrameType | None) -> None:
        # noted too: an error raised while foreign code runs may be swallowed there
        stop.overdue = True
        stop.check()

    handlers = {signal.SIGINT: asked, signal.SIGTERM: asked, signal.SIGALRM: over}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
