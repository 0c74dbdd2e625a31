"""Beginning afresh: a curation whose first version ended with nobody left, under a milder recipe or with more images.

Nothing of it is published, so nothing has to stay: all that was listed, found and written is removed, and curating
begins as in an empty place. Prepared galleries stay, as they depend on no recipe. A first version that was stopped half
way, or is held for review, did not end, and goes on under its own recipe alone. What people decided is never forgotten
by itself: where they gave decisions, a run begins afresh only with decisions that are given to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.domain.errors import PlanMismatchError
from pipeline.domain.intake import Fault
from pipeline.domain.manifest import receipt_path
from pipeline.domain.ports import Store
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import HELD
from pipeline.domain.review import decisions_of
from pipeline.domain.seal import sealed_text
from pipeline.execute.generations import generations, read_step, recipe_path
from pipeline.execute.session import Session
from pipeline.execute.settling import Reviewed
from pipeline.flow.commit import NOTES, receipts
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import earlier, listing_name, new_inputs
from pipeline.flow.curating.review import queue_path
from pipeline.flow.parts import Parts
from pipeline.flow.quarantine import PREFIX as QUARANTINE
from pipeline.flow.removal import remove
from pipeline.flow.versions import versions

ENDED = "ended"
"""What a step's file says of a first version that was gone through to its end, and of which nothing is published."""
NOBODY, REMOVED = "nobody is left", "is being removed"
HOW = "nothing is published, so the same command begins afresh once the recipe is milder or the sources hold more"
"""What whoever is left with nobody is told."""
_MAY_BE_READ_LATER = {fault.value for fault in (Fault.CHANGED, Fault.GONE, Fault.NOT_ALLOWED, Fault.READ_FAILED)}
"""Faults that can be over though the listing is as it was; of all others (a broken link, a bad archive) it tells."""
_FOLDERS = (*HELD, "segments/", "audits/", PREVIEWS, NOTES, QUARANTINE, "receipts/")


def end_with_nobody(parts: Parts, generation: int) -> None:
    """Note that a first version is gone through, and that nobody is left; of a later one nothing has to be noted."""
    if not generation:
        _say(parts, NOBODY)


def hold_for_review(parts: Parts, generation: int) -> None:
    """Take back that a first version ended, while people look at what it found: it then gives way to nothing."""
    if not generation and ENDED in read_step(parts.store, 0):
        _say(parts, None)


def begins_afresh(parts: Parts, kit: Kit) -> bool:
    """Return whether a first version that ended with nobody can end otherwise now, reading only.

    It can where the recipe is another one, where the sources hold what was not listed, or where something that was
    listed could not be read. What is of another name is somebody else's, and stays. A first version that listed nothing
    gives way to any other recipe.
    """
    store = parts.store
    if versions(store) or generations(store) != [0]:
        return False
    there = read_step(store, 0)
    if there["recipe"].get("kind") != "curate":
        return False
    if store.size(receipt_path(listing_name(0))) is None and ENDED not in there:
        return _is_another(parts, there) and not receipts(store)
    if ENDED not in there:
        return False
    if there[ENDED] == REMOVED:
        return True
    if there["recipe"].get("name") != parts.recipe.name:
        return False
    if _is_another(parts, there) or _was_unread(store):
        return True
    seen = earlier(kit, parts, 1)
    return next(new_inputs(kit, seen), None) is not None or seen.changed > 0


def begin_afresh(session: Session, kit: Kit, reviewed: Reviewed) -> None:
    """Remove a first version that ended with nobody, where another try can end otherwise; else change nothing.

    A run that is killed on the way is gone on with by the next one, whatever its recipe. Decisions that are given under
    the recipe that stands are about what it found, so that stays, unless it could not be read.

    Raises:
        PlanMismatchError: people decided about what would be removed, and no decisions are given to this run.
    """
    parts = session.parts
    if not begins_afresh(parts, kit):
        return
    there = read_step(parts.store, 0)
    if there.get(ENDED) == NOBODY:
        if reviewed.table and not _is_another(parts, there) and not _was_unread(parts.store):
            return
        _require_no_decision_lost(parts, reviewed)
    session.observer.event("stage", name="begin afresh", total=1, done=0)
    _say(parts, REMOVED)
    remove(parts, [path for folder in _FOLDERS for path in parts.store.list(folder)])
    # last: as long as it stands, the next run knows that there is something to remove
    parts.store.delete(recipe_path(0))
    session.observer.event("step")


def _require_no_decision_lost(parts: Parts, reviewed: Reviewed) -> None:
    given = queue_path(0, "given.csv")
    if reviewed.table or parts.store.size(given) is None or not decisions_of(parts.store.get(given), given):
        return
    raise PlanMismatchError(
        f"{parts.store.uri}: people decided about what is here ({given}), and nobody was left; beginning afresh would "
        "forget that: give the decisions again with --decisions, or first a table without any, which takes them back; "
        "or use another --out"
    )


def _say(parts: Parts, ended: str | None) -> None:
    body = {**read_step(parts.store, 0), ENDED: ended}
    if ended is None:
        del body[ENDED]
    parts.guard()
    parts.store.put(recipe_path(0), sealed_text(yaml.safe_dump(body, sort_keys=False).encode()))


def _is_another(parts: Parts, there: Mapping[str, Any]) -> bool:
    mine = parts.prints
    return (mine.fingerprint, mine.plan_digest) != (there["fingerprint"], there["plan_digest"])


def _was_unread(store: Store) -> bool:
    return any(_MAY_BE_READ_LATER & receipt.counts.reasons.keys() for receipt in receipts(store).values())
