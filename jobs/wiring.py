"""The composition root: names -> parts. The only file that knows every adapter and filter.

Building a part reads its card and nothing heavy; weights load in the process that first computes with them.
"""

from __future__ import annotations

import functools
import importlib
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs import recipe_check, recipe_file
from jobs.components import COMPONENTS
from pipeline.domain.errors import OutputError, PlanMismatchError, RecipeError, UserError
from pipeline.domain.recipe import Node, Recipe, parse_recipe, recipe_model

if TYPE_CHECKING:
    from pipeline.domain.manifest import Manifest
    from pipeline.domain.ports import Executor, Exporter, Observer, Store
    from pipeline.execute.session import Session
    from pipeline.execute.stop import Stop
    from pipeline.flow.parts import Parts
    from pipeline.flow.quarantine import Quarantine
    from pipeline.flow.worker import UnitWorker


def _load(entry: str) -> Any:
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def full_model() -> type[Recipe]:
    """Return the recipe model with every component's options."""
    catalogue: dict[str, list[type[Node]]] = {}
    for slot, components in COMPONENTS.items():
        catalogue[slot] = list(dict.fromkeys(_load(options) for options, _ in components.values()))
    catalogue["auditor"] = catalogue["judge"]
    return recipe_model(catalogue)


def load_recipe(reference: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the validated recipe at a path or of a shipped name, with `a.b=value` overrides applied.

    Raises:
        RecipeError: one line: what was got, what is allowed.
    """
    path = recipe_file.find(reference)
    raw = recipe_file.read(path)
    for text in overrides:
        recipe_file.override(raw, text)
    recipe = parse_recipe(full_model(), raw, path.name)
    check_parts(recipe, path.name)
    return recipe


def _build(slot: str, node: Node, *extra: Any) -> Any:
    return _load(COMPONENTS[slot][node.use][1])(node, *extra)


def check_parts(recipe: Recipe, where: str) -> None:
    """Refuse what the tree cannot see: licences, parts that do not fit each other, rates that are not calibrated."""
    if recipe.use.commercial:
        for card in component_cards(recipe).values():
            if not card.commercial_use:
                raise RecipeError(
                    f"{where}: use.commercial is true, but {card.name} is licensed {card.licence}; "
                    "choose another component, or set use.commercial: false"
                )
    if recipe.auditor.use == recipe.judge.use:
        raise RecipeError(
            f"{where}: auditor.use: got {recipe.auditor.use!r}, which is the judge; the auditor is a recogniser that "
            "no filter uses"
        )
    judge = _build("judge", recipe.judge)
    readers = {"judge": judge, "auditor": _build("judge", recipe.auditor)}
    recipe_check.check_models(recipe, where, _bank(recipe), _build("generator", recipe.generator), readers)
    names = recipe_check.check_measures(where, [_build("measures", node) for node in recipe.measures])
    targets = targets_of(recipe)
    recipe_check.check_thresholds(recipe, where, judge)
    recipe_check.check_filters(recipe, where, _filters(recipe, judge), names, targets)


def _filters(recipe: Recipe, judge: Any) -> list[Any]:
    """Return, per filter of the recipe, what builds it from the number of enrolled identities."""

    def builder(node: Node) -> Any:
        part = _load(COMPONENTS["filters"][node.use][1])
        return lambda enrolled: part.build(node, judge.calibration, recipe.enrol.probes, enrolled)

    return [builder(node) for node in recipe.filters]


def component_cards(recipe: Recipe) -> dict[str, Any]:
    """Return the model card of every component, by role."""
    cards = {
        "bank": _bank(recipe).card,
        "generator": _build("generator", recipe.generator).card,
        "judge": _build("judge", recipe.judge).card,
        "auditor": _build("judge", recipe.auditor).card,
    }
    for node in recipe.measures:
        cards[f"measure {node.use}"] = _build("measures", node).card
    return cards


def _bank(recipe: Recipe) -> Any:
    return _build("identities.bank", recipe.identities.bank)


def targets_of(recipe: Recipe) -> Any:
    """Return the balance targets, with the values that the recipe's measures can estimate."""
    from pipeline.domain import balance

    known = {k: v for node in recipe.measures for k, v in _build("measures", node).attributes.items()}
    return balance.targets_of(recipe.balance.by, known, recipe.balance.shares, recipe.balance.marginal)


def prints_of(recipe: Recipe) -> Any:
    """Return fingerprint and plan digest, weights and epochs included."""
    from pipeline.domain import fingerprint

    components: dict[str, Any] = {
        role: {"sha256": card.sha256, "epoch": card.epoch}
        for role, card in component_cards(recipe).items()
        if role != "auditor"
    }
    # parts without weights have no card; what can change is their code, which their epoch stands for
    plain = [("filters", node) for node in recipe.filters]
    plain += [("encoding", recipe.encoding), ("identities.sampler", recipe.identities.sampler)]
    for slot, node in plain:
        components[f"{slot} {node.use}"] = {"epoch": _load(COMPONENTS[slot][node.use][1]).epoch}
    return fingerprint.prints_of(recipe, components)


def build_parts(recipe: Recipe, store: Store, lease_number: int | None, run: str) -> Parts:
    """Assemble the ports of a process. Light: models load when they first compute."""
    from pipeline.adapters.machine import SystemClock, device_kind, holder
    from pipeline.adapters.segments import Segments
    from pipeline.flow.lease import guard_of
    from pipeline.flow.parts import Parts

    judge = _build("judge", recipe.judge)

    builders = _filters(recipe, judge)
    who = holder(run)
    return Parts(
        recipe=recipe,
        prints=prints_of(recipe),
        targets=targets_of(recipe),
        store=store,
        segments=Segments(judge.space.dimensions),
        codec=_build("encoding", recipe.encoding),
        sampler=_build("identities.sampler", recipe.identities.sampler, _bank(recipe)),
        generator=_build("generator", recipe.generator),
        judge=judge,
        auditor=_build("judge", recipe.auditor),
        measurers=tuple(_build("measures", node) for node in recipe.measures),
        filters=lambda enrolled: tuple(build(enrolled) for build in builders),
        generator_batch=recipe.generator.batch,  # type: ignore[attr-defined]
        judge_batch=recipe.judge.batch,  # type: ignore[attr-defined]
        auditor_batch=recipe.auditor.batch,  # type: ignore[attr-defined]
        clock=SystemClock(),
        guard=guard_of(store, lease_number) if lease_number is not None else lambda: None,
        run_facts={
            "run": run,
            "host": who["host"],
            "pid": who["pid"],
            "lease": lease_number,
            "device_kind": device_kind(),
        },
    )


def build_worker(recipe_raw: Mapping[str, Any], uri: str, lease_number: int, run: str, fingerprint: str) -> UnitWorker:
    """Build a worker in the process where it will run.

    Raises:
        PlanMismatchError: its models are not those of the driver.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import open_store
    from pipeline.flow.worker import UnitWorker

    single_thread()
    recipe = parse_recipe(full_model(), recipe_raw, "worker")
    parts = build_parts(recipe, open_store(uri), lease_number, run)
    if parts.prints.fingerprint != fingerprint:
        raise PlanMismatchError(
            f"a worker on {parts.run_facts['host']} has fingerprint {parts.prints.fingerprint[:12]}, the driver "
            f"{fingerprint[:12]}: its models differ; install the same facemint on every node"
        )
    return UnitWorker(parts)


def open_session(recipe: Recipe, uri: str, observer: Observer, **options: Any) -> Session:
    """Take the lease of the dataset at `uri` and assemble everything that a run needs.

    Options are those of `session_on`.

    Raises:
        OutputError: the place cannot be used.
        LeaseHeldError: another run holds it.
    """
    from pipeline.adapters.stores import open_store

    return session_on(recipe, open_store(uri), observer, **options)


def session_on(
    recipe: Recipe,
    store: Store,
    observer: Observer,
    *,
    stop: Stop | None = None,
    allow_short: bool = False,
    deep: bool = False,
    retry_quarantined: bool = False,
) -> Session:
    """Do as `open_session` does, on a store that is open already.

    Args:
        recipe: a checked recipe.
        store: the dataset.
        observer: is told what happens.
        stop: through which the run can be asked to end.
        allow_short: publish although places stayed open or units are quarantined.
        deep: hash what stands instead of comparing sizes.
        retry_quarantined: forget the deaths of quarantined units, so that they are tried again.
    """
    from jobs.documents import Writers, documents
    from pipeline.adapters.card import dataset_card
    from pipeline.adapters.contact_sheet import contact_sheet
    from pipeline.adapters.croissant import croissant
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.execute.session import Session
    from pipeline.execute.stop import Stop
    from pipeline.flow.heartbeat import Progress, Tee
    from pipeline.flow.lease import acquire
    from pipeline.flow.quarantine import Quarantine

    if recipe.compute.executor == "ray" and store.uri.startswith("memory://"):
        raise OutputError(f"{store.uri}: workers in other processes cannot see it; name a folder, or --executor inline")
    single_thread()
    run = uuid.uuid4().hex[:12]
    lease = acquire(store, SystemClock(), holder(run), is_dead)
    try:
        parts = build_parts(recipe, store, lease.number, run)
        asked = stop or Stop()
        progress = Progress(SystemClock(), lease.holder)
        quarantine = Quarantine(store, SystemClock())
        if retry_quarantined:
            quarantine.release()
        return Session(
            parts=parts,
            executor=_executor(parts, lease.number, run, asked, quarantine),
            observer=Tee(observer, progress),
            progress=progress,
            lease=lease,
            models={role: _card_dict(card) for role, card in component_cards(recipe).items()},
            documents=functools.partial(documents, Writers(dataset_card, croissant, contact_sheet), store, parts),
            exporters=tuple(
                (_build("exports", node), functools.partial(_export_store, store, node.use)) for node in recipe.exports
            ),
            stop=asked,
            allow_short=allow_short,
            retry_quarantined=retry_quarantined,
            deep=deep,
        )
    except BaseException:
        lease.release()
        raise


def plan_run(recipe: Recipe, uri: str | None, workers: int | None) -> dict[str, Any]:
    """Return what `facemint plan` shows: what a run of the recipe at `uri`, or in an empty place, would do."""
    import dataclasses
    import os

    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import MemoryStore, open_store
    from pipeline.execute.plan import plan

    single_thread()
    store = MemoryStore("an empty place") if uri is None else open_store(uri, writable=False)
    parts = build_parts(recipe, store, None, "plan")
    wanted = workers or recipe.compute.workers or os.cpu_count() or 1
    return {"recipe": recipe.name, "uri": uri, **dataclasses.asdict(plan(parts, wanted))}


def inline_executor(parts: Parts, stop: Stop, quarantine: Quarantine | None = None) -> Executor:
    """Return an executor that works in this process, over parts that are there."""
    from pipeline.execute.inline import InlineExecutor
    from pipeline.flow.quarantine import Quarantine
    from pipeline.flow.worker import UnitWorker

    mine = quarantine or Quarantine(parts.store, parts.clock)
    return InlineExecutor(functools.partial(UnitWorker, parts), stop=stop, quarantine=mine)


def _executor(parts: Parts, lease_number: int, run: str, stop: Stop, quarantine: Quarantine) -> Executor:
    recipe, store, fingerprint = parts.recipe, parts.store, parts.prints.fingerprint
    if recipe.compute.executor == "inline":
        return inline_executor(parts, stop, quarantine)
    from pipeline.execute.on_ray import RayExecutor

    return RayExecutor(
        functools.partial(build_worker, recipe.model_dump(mode="json"), store.uri, lease_number, run, fingerprint),
        workers=recipe.compute.workers,
        address=recipe.compute.address,
        unit_limit_s=recipe.compute.unit_limit_s,
        quarantine=quarantine,
        stop=stop,
    )


def _export_store(store: Store, kind: str, version: str) -> Store:
    from pipeline.adapters.stores import PrefixedStore

    return PrefixedStore(store, f"exports/{version}/{kind}")


def build_exporter(kind: str) -> Exporter:
    """Return an exporter with its default options.

    Raises:
        UserError: no exporter of that name.
    """
    if kind not in COMPONENTS["exports"]:
        raise UserError(f"--to {kind}: unknown export; known: {', '.join(sorted(COMPONENTS['exports']))}")
    exporter: Exporter = _build("exports", _load(COMPONENTS["exports"][kind][0])(use=kind))
    return exporter


def _card_dict(card: Any) -> dict[str, Any]:
    return {
        "name": card.name,
        "sha256": card.sha256,
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "source": card.source,
        "epoch": card.epoch,
        "row_independent": card.row_independent,
    }


def dataset_status(uri: str) -> dict[str, Any]:
    """Return what `facemint status` shows."""
    from jobs import examine
    from pipeline.adapters.machine import SystemClock
    from pipeline.adapters.stores import open_store

    return examine.status(open_store(uri, writable=False), SystemClock())


def verify_dataset(
    uri: str, observer: Observer, *, deep: bool, gc: bool, remove: bool, grace_h: float
) -> dict[str, Any]:
    """Return what `facemint verify` shows; with `gc` also what nothing names, removed where that is asked for."""
    from jobs import examine
    from pipeline.adapters.codec import JpegCodec
    from pipeline.adapters.machine import SystemClock, holder, is_dead
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.stores import open_store
    from pipeline.flow.lease import acquire

    store, clock = open_store(uri, writable=gc and remove), SystemClock()
    facts = examine.verify(store, Segments(), JpegCodec(), deep=deep, observer=observer)
    if not gc:
        return facts
    take = functools.partial(acquire, store, clock, holder(f"gc-{uuid.uuid4().hex[:9]}"), is_dead) if remove else None
    return {**facts, "gc": examine.collect(store, clock, grace_h=grace_h, take_lease=take)}


def newest_manifest(uri: str) -> Manifest:
    """Return the newest published version of the dataset at `uri`."""
    from jobs import examine
    from pipeline.adapters.stores import open_store

    return examine.newest_manifest(open_store(uri, writable=False))


def export_dataset(uri: str, kind: str, out: str) -> dict[str, Any]:
    """Export the newest version of the dataset at `uri` to `out`."""
    from jobs import examine
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.stores import open_store

    source = open_store(uri, writable=False)
    exporter = build_exporter(kind)
    seed = examine.run_seed(source)
    return examine.export(source, Segments(), exporter, open_store(out), seed)
