"""Generations: what a dataset was asked to be, step by step, and which step a recipe means.

Each step has a file `recipes/g<N>.yaml`, created once. The same fingerprint with the same plan resumes that step; with
a larger plan it begins the next one, once the last is published; another fingerprint is refused, naming the fields.
A step that changes the filters alone judges what is stored again; what follows grows under those filters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from pipeline.domain.errors import OutputError, PlanMismatchError, StoreError
from pipeline.domain.fingerprint import Prints, differences
from pipeline.domain.manifest import Manifest
from pipeline.domain.ports import Store
from pipeline.domain.recipe import NOT_TOLD, Recipe
from pipeline.domain.seal import sealed_text
from pipeline.domain.tombstones import Tombstones
from pipeline.flow.parts import Parts
from pipeline.flow.past import Step
from pipeline.flow.versions import read_manifests

PREFIX = "recipes/g"
GROWS = ("identities.count", "identities.images_per_identity")
PATIENCE = ("rounds", "enrol.rounds", "enrol.budget")
"""How long a step tries before it gives up: may be raised in the middle of one, as no unit follows from them.

None, of a budget, is without limit.
"""

FILTERS = ("filters", "model.filters ")
"""Beginnings of the fingerprint's fields that judging again may change."""
MODELS = "model."
"""Beginning of the fingerprint's fields that tell models by what they are, not by what the recipe calls them."""
FLAGS = ("rejudges", "completes", "erases")
"""What a step's file says of it beside its recipe, where it is so."""

_OPEN_PLACES = {*PATIENCE, "enrol.reserve"}
"""What changes nothing for a version in which no place is open."""


def recipe_path(generation: int) -> str:
    """Return where the recipe of a generation lies."""
    return f"{PREFIX}{generation}.yaml"


def generations(store: Store) -> list[int]:
    """Return the numbers of the generations begun, rising."""
    found = (re.fullmatch(r"recipes/g(\d+)\.yaml", path) for path in store.list(PREFIX))
    return sorted(int(match[1]) for match in found if match)


def is_begun(store: Store, generation: int) -> bool:
    """Return whether a generation has its file."""
    return store.size(recipe_path(generation)) is not None


def read_step(store: Store, generation: int) -> dict[str, Any]:
    """Return the file of a generation; raises OutputError where it is not one of ours."""
    path = recipe_path(generation)
    try:
        raw = dict(yaml.safe_load(store.get(path)))
        return {
            **raw,
            "recipe": dict(raw["recipe"]),
            **{k: dict(raw[k]) for k in ("fingerprint_fields", "plan_fields")},
        }
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise OutputError(f"{store.uri}: {path} is not a recipe of ours; use another --out") from None


def find_step(parts: Parts) -> Step:
    """Return the step that the recipe means, reading only.

    Raises:
        PlanMismatchError: another fingerprint, a plan that is not larger, or a step begun and not finished.
        OutputError: a step's file is damaged.
    """
    store, prints = parts.store, parts.prints
    require_not_merged(parts)
    manifests = read_manifests(store)
    # after the manifests: a step's file is written before its manifest, so none can be missing by being too new
    begun = generations(store)
    newest = max([*begun, *(m.generation for m in manifests)], default=-1)
    if gone := sorted(set(range(newest + 1)) - set(begun)):
        raise StoreError(f"{store.uri}: {recipe_path(gone[0])} is missing; restore it from a copy")
    if not begun:
        return Step(0)
    there = read_step(store, newest)
    require_same_fingerprint(store, prints, there, newest)
    published = next((m for m in reversed(manifests) if m.generation == newest), None)
    changed = _changed(prints.plan_fields, there["plan_fields"])
    less = [k for k in PATIENCE if _limit(prints.plan_fields, k) < _limit(there["plan_fields"], k)]
    if published is None and not changed - set(PATIENCE) and not less:
        return _step(store, newest, manifests)
    if published is not None and not changed - (_OPEN_PLACES if _is_full(published) else set()):
        return _step(store, newest, manifests)
    if published is None:
        raise PlanMismatchError(
            f"{store.uri}: generation {newest} is begun and not published, and this recipe has another plan "
            f"({_said(prints.plan_fields, there['plan_fields'])}); finish it first with {recipe_path(newest)}, "
            "then grow"
        )
    _require_larger(store, prints, there, newest)
    return _step(store, newest + 1, manifests)


def require_not_merged(parts: Parts) -> None:
    """Raise PlanMismatchError where a merged dataset is to change: nothing says which generator made whom."""
    there = read_step(parts.store, 0)["recipe"] if is_begun(parts.store, 0) else {}
    if "merge" in (str(parts.recipe.kind), there.get("kind")):
        raise PlanMismatchError(
            f"{parts.store.uri}: a merged dataset does not grow, makes no images and erases nobody; its sources do: "
            "change them, merge them again to another --out, and delete this one where somebody was erased"
        )


def rejudging_step(parts: Parts) -> Step:
    """Return the step under which stored candidates are judged by this recipe's filters, reading only.

    Raises:
        PlanMismatchError: nothing is published, another step is begun, or more than the filters differ.
        OutputError: a step's file is damaged.
    """
    store, prints = parts.store, parts.prints
    manifests = read_manifests(store)
    begun = generations(store)
    if not begun or not manifests:
        raise PlanMismatchError(f"{store.uri}: no version is published yet; finish it with `facemint generate` first")
    there = read_step(store, begun[-1])
    published = any(m.generation == begun[-1] for m in manifests)
    if prints.fingerprint == there["fingerprint"]:
        if not published and not any(there.get(flag) for flag in FLAGS):
            raise PlanMismatchError(
                f"{store.uri}: generation {begun[-1]} is begun and not published, and what it lacks has to be made; "
                f"finish it first: facemint generate with the recipe in {recipe_path(begun[-1])}"
            )
        return _step(store, begun[-1], manifests)
    others = {k for k in _changed(prints.fields, there["fingerprint_fields"]) if not k.startswith(FILTERS)}
    others |= _changed(prints.plan_fields, there["plan_fields"])
    if others:
        raise PlanMismatchError(
            f"{store.uri}: judging again changes the filters and nothing else; also different: "
            f"{', '.join(sorted(others)[:4])}; use another --out for those"
        )
    if not published:
        raise PlanMismatchError(
            f"{store.uri}: generation {begun[-1]} is begun and not published, under other filters; finish it first: "
            f"facemint generate with the recipe in {recipe_path(begun[-1])}"
        )
    return replace(_step(store, begun[-1] + 1, manifests), rejudges=True)


def erasing_step(store: Store, number: int, erased: Tombstones) -> Step:
    """Return the step of generation `number`, which leaves out what was erased, under the recipe before it."""
    manifests = read_manifests(store)
    return replace(_step(store, number, manifests), erases=True, erased=erased)


def completing_step(parts: Parts, step: Step) -> Step:
    """Return the step that makes what a published version lacks, under the same plan.

    The step itself where nothing is lacking, or where the version was made by such a step: what it lacks then has used
    its attempts up, and trying once more would end as before.
    """
    if step.published is None or _is_full(step.published) or step.completes:
        return step
    manifests = read_manifests(parts.store)
    return replace(_step(parts.store, step.number + 1, manifests), completes=True)


def earlier_fingerprints(store: Store) -> frozenset[str]:
    """Return the fingerprints under which the generations begun were made."""
    return frozenset(str(read_step(store, g)["fingerprint"]) for g in generations(store))


def another_try(parts: Parts, step: Step) -> Step:
    """Return the step that makes up for a published one's quarantined units, under the same plan.

    A version never changes, so what those units did not make comes as a generation of its own.
    """
    if step.published is None or not step.published.counts["units_quarantined"]:
        return step
    manifests = read_manifests(parts.store)
    return _step(parts.store, step.number + 1, manifests)


def begin(parts: Parts, step: Step) -> None:
    """Write the file of a step, or raise its patience where it stands with less."""
    body = {
        "recipe": stored_recipe(parts.recipe),
        "parent": None if step.parent is None else step.parent.version,
        "fingerprint": parts.prints.fingerprint,
        "plan_digest": parts.prints.plan_digest,
        "fingerprint_fields": dict(parts.prints.fields),
        "plan_fields": dict(parts.prints.plan_fields),
        **{flag: True for flag in FLAGS if getattr(step, flag)},
    }
    data = sealed_text(yaml.safe_dump(body, sort_keys=False).encode())
    path = recipe_path(step.number)
    parts.guard()
    if parts.store.put_if_absent(path, data) or step.published is not None:
        return
    there = read_step(parts.store, step.number)
    require_same_fingerprint(parts.store, parts.prints, there, step.number)
    changed = _changed(parts.prints.plan_fields, there["plan_fields"])
    if changed - set(PATIENCE):
        raise PlanMismatchError(
            f"{parts.store.uri}: another run began generation {step.number} with another plan meanwhile "
            f"({_said(parts.prints.plan_fields, there['plan_fields'])}); finish it first with {path}, then grow"
        )
    if changed:
        parts.store.put(path, data)


def stored_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as it is stored: without the places where galleries and photographs of people lie.

    Galleries are told by their digests, sources by their number; the listing under `private/` has their names.
    What was prepared from them stands under `private/`, so nothing that continues the dataset asks for them.
    """
    raw = recipe.model_dump(mode="json")
    settings = raw["leakage"]
    for gallery in settings["galleries"]:
        if gallery["digest"] is not None:
            gallery["source"] = f"{NOT_TOLD}{gallery['name']}"
    if settings["control_digest"] is not None:
        settings["control"] = f"{NOT_TOLD}control"
    for number, source in enumerate(raw.get("sources", ()), start=1):
        source["path"] = f"{NOT_TOLD}{number}"
    return raw


def images_of(recipe: Recipe | Mapping[str, Any]) -> int:
    """Return images per identity of a recipe, or of one as it lies in a step's file."""
    if isinstance(recipe, Recipe):
        return recipe.identities.images_per_identity
    return int(recipe["identities"]["images_per_identity"])


def step_at(store: Store, number: int) -> Step:
    """Return a step that was begun, as its file and the versions say."""
    return _step(store, number, read_manifests(store))


def _step(store: Store, number: int, manifests: list[Manifest]) -> Step:
    published = next((m for m in reversed(manifests) if m.generation == number), None)
    parent = next((m for m in reversed(manifests) if m.generation < number), None)
    if number == 0 or parent is None:
        return Step(number, published=published)
    before = read_step(store, number - 1)["recipe"]
    mine = read_step(store, number) if is_begun(store, number) else {}
    whole = Step(number, parent, images_of(before), published)
    rejudges, completes, erases = (bool(mine.get(flag)) for flag in FLAGS)
    return replace(whole, rejudges=rejudges, completes=completes, erases=erases)


def require_same_fingerprint(store: Store, prints: Prints, there: Mapping[str, Any], number: int) -> None:
    """Raise PlanMismatchError, naming the fields, where a step's file is that of another recipe or of other models."""
    differing = differences(prints.fields, there["fingerprint_fields"])
    if differing:
        if prints.fields.get("rehearsal") != there["fingerprint_fields"].get("rehearsal"):
            held = "a rehearsal, out of which no dataset" if "rehearsal" not in prints.fields else "what no rehearsal"
            raise PlanMismatchError(f"{store.uri} holds {held} grows; use another --out")
        shown = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")
        if all(field.startswith(MODELS) for field in differing):
            # the recipe is the same: no recipe brings back what the models were
            raise PlanMismatchError(
                f"{store.uri} holds a dataset made with other models ({shown}); use another --out, or those models: "
                "the files, or the release of facemint, that it was made with"
            )
        raise PlanMismatchError(
            f"{store.uri} holds a dataset of another recipe ({shown}); use another --out, or the recipe "
            f"in {recipe_path(number)}"
        )


def _require_larger(store: Store, prints: Prints, there: Mapping[str, Any], number: int) -> None:
    mine, theirs = prints.plan_fields, there["plan_fields"]
    where = f"{store.uri} is published up to generation {number}"
    smaller = [name for name in GROWS if mine[name] < theirs[name]]
    if smaller:
        raise PlanMismatchError(
            f"{where}, and a dataset only grows: {_said({k: mine[k] for k in smaller}, theirs, smaller)}; "
            "raise them, or use another --out"
        )
    fields = {k for k in mine.keys() | theirs.keys() if k.startswith("balance.by")}
    if any(mine.get(k) != theirs.get(k) for k in fields):
        raise PlanMismatchError(
            f"{where}: balance.by cannot change, as everybody's cell follows from it "
            f"({_said(mine, theirs, sorted(fields))}); use another --out"
        )


def _limit(plan: Mapping[str, Any], key: str) -> float:
    value = plan.get(key)
    return math.inf if value is None else float(value)


def _is_full(manifest: Manifest) -> bool:
    return bool(manifest.counts["images"] == manifest.counts["images_expected"])


def _changed(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    return {k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)}


def _said(mine: Mapping[str, Any], theirs: Mapping[str, Any], names: Any = None) -> str:
    wanted = names if names is not None else mine.keys() | theirs.keys()
    return "; ".join(differences({k: mine.get(k) for k in wanted}, {k: theirs.get(k) for k in wanted})[:4])
