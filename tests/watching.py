"""Runs of the sketch world that are watched as the command line watches them, inline and in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.domain.ports import Store
from pipeline.execute.run import Published, generate
from pipeline.execute.stop import Stop
from tests.recipes import sketch_recipe
from tests.worlds import Silent, sketches

SMALL = {"identities": {**sketch_recipe()["identities"], "count": 4}}
"""What makes the sketch recipe small."""


@dataclass(frozen=True)
class Watched:
    """What came of a run."""

    store: Store
    published: Published
    events: list[tuple[str, dict[str, Any]]]
    watch: wiring.Watch


def mint_watched(folder: Path, stop: Stop | None = None, **outlets: Any) -> Watched:
    """Run a sketch recipe below a folder; `summary` and `metrics_file` are names there, `recipe` changes keys."""
    recipe = sketches(**{**SMALL, **outlets.pop("recipe", {})})
    places = {k: v if "://" in str(v) or k == "log_json" else str(folder / v) for k, v in outlets.items()}
    store, view, stop = LocalStore(folder / "set"), Silent(), stop or Stop()
    with wiring.watched(recipe, store.uri, view, wiring.Outlets(**places)) as watch:
        session = wiring.session_on(recipe, store, watch, stop=stop)
        published = watch.publish(generate(watch.begin(session)))
    return Watched(store, published, view.seen, watch)
