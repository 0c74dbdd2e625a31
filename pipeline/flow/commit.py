"""Bytes first, receipt last: the one place where a unit's outcome becomes true.

A commit has three outcomes with three meanings: the receipt was created; it existed with equal content (a retry, or
a worker thought dead that was not: no harm); it existed with other content (the digest promise is broken somewhere:
an error, never a silent overwrite).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from pipeline.domain.errors import PlanMismatchError, StoreError
from pipeline.domain.manifest import Counts, FileEntry, Receipt
from pipeline.domain.ports import Store
from pipeline.domain.unit import Unit
from pipeline.flow.parts import Parts


class Commit(Enum):
    """How a commit ended."""

    COMMITTED = auto()
    ALREADY_COMMITTED = auto()


def receipt_of(unit: Unit, parts: Parts, counts: Counts, files: Sequence[FileEntry], started_s: float) -> Receipt:
    """Return the receipt of a finished unit."""
    run = {**parts.run_facts, "start_s": round(started_s, 3), "end_s": round(parts.clock.now_s(), 3)}
    return Receipt(
        unit=unit.to_dict(),
        name=unit.name,
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=counts,
        files=tuple(sorted(files)),
        run=run,
    )


def commit(parts: Parts, receipt: Receipt) -> Commit:
    """Create the receipt; the segment's bytes are in the store already.

    Raises:
        StoreError: another receipt with other content stands there.
        LeaseHeldError: another run has taken the dataset over.
    """
    parts.guard()
    if parts.store.put_if_absent(receipt.path, receipt.to_json()):
        return Commit.COMMITTED
    standing = read_receipt(parts.store, receipt.path)
    if standing.content() == receipt.content():
        return Commit.ALREADY_COMMITTED
    raise StoreError(
        f"{receipt.path}: a receipt with other content exists (made by {standing.run.get('host')}, "
        f"{standing.run.get('device_kind')}; ours: {receipt.run.get('device_kind')}); "
        "use one device kind per dataset, or set compute.mixed_devices"
    )


def read_receipt(store: Store, path: str) -> Receipt:
    """Return a stored receipt; raises StoreError, naming the file, where its bytes are no receipt."""
    try:
        return Receipt.from_json(store.get(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not a receipt ({type(error).__name__}); delete it to have its unit made again"
        ) from None


def receipts(store: Store, prefix: str = "") -> dict[str, Receipt]:
    """Return every receipt whose unit name starts with `prefix`, by unit name, from one listing."""
    paths = [p for p in store.list(f"receipts/{prefix}") if p.endswith(".json")]
    found = (read_receipt(store, path) for path in paths)
    return {r.name: r for r in found}


def remaining(units: Iterable[Unit], store: Store, done: dict[str, Receipt], fingerprint: str) -> list[Unit]:
    """Return the units that still have to be worked: the whole of resume.

    A receipt counts only if it is about this very unit and each of its files is there with its size; otherwise its
    receipt is removed and the unit is worked again.

    Raises:
        PlanMismatchError: a receipt was written under another fingerprint.
    """
    out = []
    for unit in units:
        receipt = done.get(unit.name)
        if receipt is None:
            out.append(unit)
            continue
        if receipt.fingerprint != fingerprint:
            raise PlanMismatchError(
                f"{receipt.path} was made under fingerprint {receipt.fingerprint[:12]}, this recipe has "
                f"{fingerprint[:12]}; use another --out, or the recipe that the dataset was made with"
            )
        whole = receipt.unit == unit.to_dict() and all(store.size(f.path) == f.bytes for f in receipt.files)
        if not whole:
            store.delete(receipt.path)
            done.pop(unit.name)
            out.append(unit)
    return out
