"""When workers that have nothing to do are let go, so that a cluster that grows and shrinks can take their nodes back.

While units are worked the pool looks for itself. Between two barriers the driver is busy with other things, for hours
where a dataset is large: there a thread keeps the time. It never runs beside the pool: whoever needs the pool next
ends it first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Idling:
    """Calls something once nobody has asked for the pool for a while.

    Args:
        idle_s: for how long; None for never.
        let_go: lets idle workers go.
    """

    def __init__(self, idle_s: float | None, let_go: Callable[[], None]) -> None:
        self._idle_s, self._let_go = idle_s, let_go
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Nobody needs the pool from now on."""
        self.end()
        if self._idle_s is not None:
            self._timer = threading.Timer(self._idle_s, self._let_go)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Somebody needs the pool; returns when nothing is let go any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None

    def is_over(self, idle_for_s: float) -> bool:
        """Return whether a worker that has idled for so long may go."""
        return self._idle_s is not None and idle_for_s > self._idle_s
