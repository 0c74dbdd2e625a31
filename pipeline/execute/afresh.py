"""Beginning afresh: a curation whose first version ended with nobody left, under a milder recipe or with more images.

Nothing of it is published, so nothing has to stay: all that was listed, found and written is removed, and curating
begins as in an empty place. Prepared galleries stay, as they depend on no recipe. A first version that was stopped half
way did not end, and goes on under its own recipe alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.domain.intake import Fault
from pipeline.domain.manifest import receipt_path
from pipeline.domain.ports import Store
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import HELD
from pipeline.domain.seal import sealed_text
from pipeline.execute.generations import generations, read_step, recipe_path
from pipeline.execute.session import Session
from pipeline.flow.commit import NOTES, receipts
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import earlier, listing_name, new_inputs
from pipeline.flow.parts import Parts
from pipeline.flow.quarantine import PREFIX as QUARANTINE
from pipeline.flow.versions import versions

ENDED = "ended"
"""What a step's file says of a first version that was gone through to its end, and of which nothing is published."""
NOBODY, REMOVED = "nobody is left", "is being removed"
HOW = "nothing is published, so the same command begins afresh once the recipe is milder or the sources hold more"
"""What whoever is left with nobody is told."""
_FOLDERS = (*HELD, "segments/", "audits/", PREVIEWS, NOTES, QUARANTINE, "receipts/")
_TOGETHER = 200


def end_with_nobody(parts: Parts, generation: int) -> None:
    """Note that a first version is gone through, and that nobody is left; of a later one nothing has to be noted."""
    if not generation:
        _say(parts, NOBODY)


def begins_afresh(parts: Parts, kit: Kit) -> bool:
    """Return whether a first version that ended with nobody can end otherwise now, reading only.

    It can where the recipe is another one, where the sources hold what was not listed, or where something that was
    listed could not be read. A first version that listed nothing gives way to any other recipe.
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
    if there[ENDED] == REMOVED or _is_another(parts, there) or _was_unread(store):
        return True
    seen = earlier(kit, parts, 1)
    return next(new_inputs(kit, seen), None) is not None or seen.changed > 0


def begin_afresh(session: Session, kit: Kit) -> None:
    """Remove a first version that ended with nobody, where another try can end otherwise; else change nothing.

    A run that is killed on the way is gone on with by the next one, whatever its recipe.
    """
    parts = session.parts
    if not begins_afresh(parts, kit):
        return
    session.observer.event("stage", name="begin afresh", total=1, done=0)
    _say(parts, REMOVED)
    for folder in _FOLDERS:
        paths = list(parts.store.list(folder))
        for start in range(0, len(paths), _TOGETHER):
            parts.guard()
            for path in paths[start : start + _TOGETHER]:
                parts.store.delete(path)
    parts.guard()
    # last: as long as it stands, the next run knows that there is something to remove
    parts.store.delete(recipe_path(0))
    session.observer.event("step")


def _say(parts: Parts, ended: str) -> None:
    body = {**read_step(parts.store, 0), ENDED: ended}
    parts.guard()
    parts.store.put(recipe_path(0), sealed_text(yaml.safe_dump(body, sort_keys=False).encode()))


def _is_another(parts: Parts, there: Mapping[str, Any]) -> bool:
    mine = parts.prints
    return (mine.fingerprint, mine.plan_digest) != (there["fingerprint"], there["plan_digest"])


def _was_unread(store: Store) -> bool:
    faults = {fault.value for fault in Fault}
    return any(faults & receipt.counts.reasons.keys() for receipt in receipts(store).values())
