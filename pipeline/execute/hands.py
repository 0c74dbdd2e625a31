"""One worker of a pool, as its driver sees it: where it is, whether it stands, what it has in hand."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.unit import Unit


@dataclass(slots=True, eq=False)
class Hand:
    """One worker, as the driver sees it."""

    handle: Any
    where: Any
    """Call that tells node, host and process: answered once it is placed."""
    hello: Any
    """Call that tells the device kind: answered once it stands; made again after idling; None when answered."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Node, host, process, then device kind; empty until it is placed."""
    queue: deque[tuple[Any, Unit]] = field(default_factory=deque)
    """(call, unit) in the order in which it works them."""
    placed_s: float = 0.0
    """When it was placed: from then on it is paid for."""
    since_s: float = 0.0
    """When it began what it does: when it was placed, last answered, or was given a unit while idle."""

    @property
    def awaited(self) -> Any:
        """Return the call that it answers next, or None where it idles."""
        if not self.facts:
            return self.where
        return self.hello if self.hello is not None else self.queue[0][0] if self.queue else None

    @property
    def ready(self) -> bool:
        """Return whether it can be given units."""
        return bool(self.facts) and self.hello is None
