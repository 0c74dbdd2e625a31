"""Adding to a dataset that stands: a component by its name, the dataset's own recipe, and the run that joins them."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobs import recipe_check, recipe_file
from jobs.components import COMPONENTS
from jobs.wiring import models
from jobs.wiring.parts import build, build_parts, full_model, load, open_dataset
from jobs.wiring.percentile_files import resolve_of
from pipeline.domain.errors import OutputError, UserError
from pipeline.domain.recipe import Node, Recipe, parse_recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Executor, Observer, Store
    from pipeline.execute.stop import Stop
    from pipeline.flow.parts import Parts
    from pipeline.flow.quarantine import Quarantine
    from pipeline.flow.sidecars import AddingWorker, Addition

SLOTS = {"measures": "measures", "judge": "recognisers"}
"""What can be added: slot of the table of components -> what people call its components."""


def measure_dataset(
    uri: str, name: str, overrides: Sequence[str], observer: Observer, **options: Any
) -> dict[str, Any]:
    """Add a component to the dataset at `uri`; options are those of `measure_on`.

    Raises:
        OutputError: no dataset is there.
        LeaseHeldError: another run holds it.
    """
    return measure_on(open_dataset(uri), name, overrides, observer, **options)


def measure_on(
    store: Store,
    name: str,
    overrides: Sequence[str],
    observer: Observer,
    *,
    stop: Stop | None = None,
    replace: bool = False,
    retry_quarantined: bool = False,
    executor: str = "inline",
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Add a component to a dataset on a store that is open already; return what was done.

    Args:
        store: the dataset.
        name: the component: a measure or a recogniser.
        overrides: its options, `option=value` each.
        observer: is told what happens.
        stop: through which the run can be asked to end.
        replace: make side-cars anew that stand.
        retry_quarantined: forget the deaths of quarantined units, so that they are tried again.
        executor: `inline` or `ray`.
        workers: with `ray`, how many.
        address: with `ray`, a running cluster.

    Raises:
        UserError: no such component, an option that it does not have, or a name that the dataset has already.
    """
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.execute.measuring import Measuring, measure
    from pipeline.execute.stop import Stop
    from pipeline.flow.heartbeat import Progress, Tee
    from pipeline.flow.lease import acquire
    from pipeline.flow.quarantine import Quarantine

    recipe = dataset_recipe(store)
    raw = _node(name, overrides, recipe)
    if executor not in ("inline", "ray"):
        raise UserError(f"--executor {executor}: unknown; inline or ray")
    if executor == "ray" and store.uri.startswith("memory://"):
        raise OutputError(f"{store.uri}: workers in other processes cannot see it; name a folder, or --executor inline")
    addition = addition_of(recipe, raw)
    _require_new_names(store, recipe, addition)
    single_thread()
    run = uuid.uuid4().hex[:12]
    lease = acquire(store, SystemClock(), holder(run), is_dead)
    try:
        parts = build_parts(recipe, store, lease.number, run)
        asked, quarantine = stop or Stop(), Quarantine(store, SystemClock())
        if retry_quarantined:
            quarantine.release()
        progress = Progress(SystemClock(), lease.holder)
        work = (
            _inline(parts, addition, asked, quarantine)
            if executor == "inline"
            else _ray(parts, raw, lease.number, run, workers, address, asked, quarantine)
        )
        done = measure(
            Measuring(parts, addition, work, Tee(observer, progress), progress, lease, asked, replace=replace)
        )
    except BaseException:
        lease.release()
        raise
    return {"uri": store.uri, **addition.about(), **done}


def dataset_recipe(store: Store) -> Recipe:
    """Return the newest recipe of a dataset; raises OutputError where there is none."""
    from jobs.examine import require_dataset
    from pipeline.execute.generations import generations, read_step, recipe_path

    require_dataset(store)
    newest = generations(store)[-1]
    return parse_recipe(full_model(), read_step(store, newest)["recipe"], recipe_path(newest))


def addition_of(recipe: Recipe, raw: Mapping[str, Any]) -> Addition:
    """Return what a checked node adds to datasets of a recipe."""
    from pipeline.flow.sidecars import Addition

    slot = _slot(str(raw["use"]))
    node = _parsed(slot, raw)
    labeller = getattr(node, "labeller", None)
    batch = node.batch if slot == "judge" else recipe.judge.batch  # type: ignore[attr-defined]
    name = f"{node.use}-as-{labeller}" if labeller else node.use
    options = node.model_dump(mode="json")
    if options.get("percentiles") is None:
        # side-cars that are older than this option keep their digest
        options.pop("percentiles", None)
    return Addition(name, node.use, options, build(slot, node), batch)


def build_adding_worker(
    recipe_raw: Mapping[str, Any], node_raw: Mapping[str, Any], uri: str, lease_number: int, run: str
) -> AddingWorker:
    """Build a worker in the process where it will run."""
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import open_store
    from pipeline.flow.sidecars import AddingWorker

    single_thread()
    recipe = parse_recipe(full_model(), recipe_raw, "worker")
    return AddingWorker(build_parts(recipe, open_store(uri), lease_number, run), addition_of(recipe, node_raw))


def _slot(name: str) -> str:
    for slot in SLOTS:
        if name in COMPONENTS[slot]:
            return slot
    known = "; ".join(f"{what}: {', '.join(sorted(COMPONENTS[slot]))}" for slot, what in SLOTS.items())
    raise UserError(f"--add {name}: unknown; {known}")


def _node(name: str, overrides: Sequence[str], recipe: Recipe) -> dict[str, Any]:
    """Return the component's options as given, aligned as the dataset is where nothing else is said."""
    slot = _slot(name)
    raw: dict[str, Any] = {"use": name}
    for text in overrides:
        recipe_file.override(raw, text)
    resolve_of(raw, "--set percentiles")
    aligned = build("judge", recipe.judge).space.alignment
    if "alignment" in load(COMPONENTS[slot][name][0]).model_fields:
        raw.setdefault("alignment", aligned)
    part = build(slot, _parsed(slot, raw))
    theirs = part.space.alignment if slot == "judge" else getattr(part, "alignment", None)
    if theirs not in (None, aligned):
        raise UserError(f"--add {name}: reads faces aligned to {theirs!r}, those of this dataset are to {aligned!r}")
    return raw


def _parsed(slot: str, raw: Mapping[str, Any]) -> Node:
    model: type[Node] = load(COMPONENTS[slot][str(raw["use"])][0])
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        known = ", ".join(sorted(set(model.model_fields) - {"use"})) or "none"
        raise UserError(f"--set {key}={problem['input']}: {problem['msg']}; options of {raw['use']}: {known}") from None


def _require_new_names(store: Store, recipe: Recipe, addition: Addition) -> None:
    """Refuse names that the dataset's images have already: it could not be told which number a filter reads."""
    from pipeline.adapters.segments import Segments
    from pipeline.flow.sidecars import additions, stored_measures

    present = recipe_check.check_measures("", [build("measures", node) for node in recipe.measures])
    there = dict.fromkeys((*present, *stored_measures(Segments(), store)), "its recipe")
    for name, about in additions(Segments(), store).items():
        if name != addition.name:
            there |= dict.fromkeys(about["measures"], f"the addition {name}")
    twice = [n for n in addition.about()["measures"] if n in there]
    if twice:
        raise UserError(
            f"--add {addition.component}: gives {twice[0]!r}, which this dataset has from {there[twice[0]]}; give "
            "these answers a source with --set labeller=NAME"
        )


def _inline(parts: Parts, addition: Addition, stop: Stop, quarantine: Quarantine) -> Executor:
    from pipeline.execute.inline import InlineExecutor
    from pipeline.flow.sidecars import AddingWorker

    return InlineExecutor(functools.partial(AddingWorker, parts, addition), stop=stop, quarantine=quarantine)


def _ray(
    parts: Parts,
    raw: Mapping[str, Any],
    lease_number: int,
    run: str,
    workers: int | None,
    address: str | None,
    stop: Stop,
    quarantine: Quarantine,
) -> Executor:
    from pipeline.execute.on_ray import RayExecutor

    recipe, where = parts.recipe, address or parts.recipe.compute.address
    settings = (recipe.model_dump(mode="json"), dict(raw), parts.store.uri, lease_number, run)
    build_it = functools.partial(build_adding_worker, *settings)
    return RayExecutor(
        functools.partial(models.built_there, models.told(recipe.compute, where), build_it),
        workers=workers or recipe.compute.workers,
        address=where,
        unit_limit_s=recipe.compute.unit_limit_s,
        quarantine=quarantine,
        stop=stop,
    )
