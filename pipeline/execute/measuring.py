"""A run that adds to a dataset: a side-car for every unit of making, on any executor. Running it again resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.domain.errors import OutputError
from pipeline.domain.ports import Executor, Observer
from pipeline.execute.stop import Stop
from pipeline.flow.commit import receipts
from pipeline.flow.erase.journal import require_none_unfinished
from pipeline.flow.heartbeat import Heartbeat, Progress
from pipeline.flow.lease import Lease
from pipeline.flow.parts import Parts
from pipeline.flow.sidecars import Addition, folder_of, plan_additions, remaining


@dataclass(frozen=True, slots=True)
class Measuring:
    """What such a run needs."""

    parts: Parts
    addition: Addition
    executor: Executor
    observer: Observer
    """Is told everything, as is `progress`."""
    progress: Progress
    lease: Lease
    stop: Stop = field(default_factory=Stop)
    replace: bool = False
    """Make side-cars anew that stand."""


def measure(run: Measuring) -> Mapping[str, Any]:
    """Add to every unit that has images and no such side-car yet; return what was done.

    Raises:
        OutputError: no image is stored here.
        PlanMismatchError: side-cars of this name were made by another model, or with other options.
        QuarantinedError: units killed their worker three times.
        LeaseHeldError: another run took the dataset over.
        StoreError: the store failed, or holds something altered.
        InterruptedRunError: the run was asked to stop.
    """
    parts, addition = run.parts, run.addition
    with Heartbeat(run.lease, parts.store, parts.clock, run.progress):
        try:
            require_none_unfinished(parts.store)
            known = receipts(parts.store, "make-")
            units = plan_additions(known, addition)
            if not units:
                raise OutputError(f"{parts.store.uri}: no image is stored here yet; run `facemint generate` first")
            run.stop.check()
            parts.guard()
            left = remaining(parts.store, folder_of(parts.recipe.kind), units, replace=run.replace)
            done = len(units) - len(left)
            run.observer.event("stage", name=f"measure {addition.name}", total=len(units), done=done)
            run.observer.event("workers", number=run.executor.workers)
            images = size = 0
            for receipt in run.executor.run(left) if left else ():
                images += receipt.counts.candidates
                size += sum(entry.bytes for entry in receipt.files)
                run.observer.event("unit", receipt=receipt)
            return {"units": len(units), "units_before": done, "images": images, "bytes": size}
        finally:
            run.executor.close()
