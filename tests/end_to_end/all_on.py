"""The life of a dataset with everything on: packed identities, cones, a gallery, siblings, twins, two labellers.

It is minted, grown, measured anew, judged anew and filled up; tests run each of these steps otherwise, and compare.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jobs import wiring
from jobs.wiring.measuring import measure_on
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.ports import Store
from pipeline.execute.run import complete, generate, refilter
from pipeline.execute.session import Session
from pipeline.flow.verify import verify
from tests.end_to_end.test_same_digest import Shuffled
from tests.recipes import all_on_recipe
from tests.worlds import Silent, copy_of, sketches

LOOKAHEAD = 3
INLINE: dict[str, Any] = {"executor": "inline"}


def promised(store: Store) -> dict[str, bytes]:
    """Return all that follows from the recipe: every file but who ran it and when, of receipts what they state."""
    out = {}
    for path in store.list(""):
        # a recipe is kept as it was run, with how many batches in flight
        if path.startswith(("runs/", "recipes/")):
            continue
        data = store.get(path)
        if path.startswith(("receipts/", "measures/")) and path.endswith(".json"):
            said = {k: v for k, v in json.loads(data).items() if k not in ("run", "seal")}
            # of a unit that was made again while growing, that of the larger plan
            said.get("content", {}).pop("plan_digest", None)
            data = json.dumps(said, sort_keys=True).encode()
        out[path] = data
    return out


def require_equal(store: Store, wanted: Mapping[str, bytes]) -> None:
    """Fail, naming the files, unless a store holds what is wanted, and verifies."""
    there = promised(store)
    assert sorted(there.keys() ^ wanted.keys()) == []
    assert [path for path in wanted if there[path] != wanted[path]] == []
    assert [str(p) for p in verify(store, Segments(), JpegCodec(), deep=True).problems] == []


# ------------------------------------------------------------------------------------- the life of one dataset


def tighter(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe with filters under which some images go, one of them reading what was measured later."""
    others = [f for f in recipe["filters"] if f["use"] not in ("own-template", "sibling-duplicate")]
    mine = [
        {"use": "own-template", "cos": 0.72},
        {"use": "sibling-duplicate", "max_cos": 0.83},
        {"use": "range", "measure": "under_exposed_share", "max": 0.5},
    ]
    return {**recipe, "filters": [*mine, *others]}


SMALL, LARGE = all_on_recipe(), all_on_recipe(10, 4)
Step = Callable[[Store, int | None, Mapping[str, Any]], object]


def session_for(recipe: Mapping[str, Any], store: Store, seed: int | None, compute: Mapping[str, Any]) -> Session:
    """Return a session; with a seed, its units come in an order of their own."""
    session = wiring.session_on(
        sketches(**{**recipe, "compute": {**INLINE, **compute}}), store, Silent(), allow_short=True
    )
    return session if seed is None else replace(session, executor=Shuffled(session.executor, seed))


def minted(recipe: Mapping[str, Any], store: Store, seed: int | None, compute: Mapping[str, Any]) -> None:
    """Mint, or grow."""
    generate(session_for(recipe, store, seed, compute))


def added(store: Store, seed: int | None, compute: Mapping[str, Any]) -> None:
    """Measure every image anew, beside its segment."""
    on = {k: v for k, v in compute.items() if k != "in_flight"}
    measure_on(store, "natural-colour", [], Silent(), **on)


def judged(store: Store, seed: int | None, compute: Mapping[str, Any]) -> None:
    """Publish the version under tighter filters."""
    refilter(session_for(tighter(LARGE), store, seed, compute))


def filled(store: Store, seed: int | None, compute: Mapping[str, Any]) -> None:
    """Make what the tighter filters freed."""
    complete(session_for(tighter(LARGE), store, seed, compute))


STEPS: dict[str, Step] = {
    "minted": functools.partial(minted, SMALL),
    "grown": functools.partial(minted, LARGE),
    "added": added,
    "judged": judged,
    "filled": filled,
}


class Life:
    """The states of a dataset that nothing happens to, each worked out when it is first asked for."""

    def __init__(self) -> None:
        """Begin with an empty place."""
        self._states = [MemoryStore()]

    def after(self, name: str) -> MemoryStore:
        """Return the dataset after a step; never to be written."""
        return self._state(list(STEPS).index(name) + 1)

    def before(self, name: str) -> MemoryStore:
        """Return the dataset as it was before a step; never to be written."""
        return self._state(list(STEPS).index(name))

    def _state(self, number: int) -> MemoryStore:
        while len(self._states) <= number:
            store = copy_of(self._states[-1])
            list(STEPS.values())[len(self._states) - 1](store, None, {})
            self._states.append(store)
        return self._states[number]
