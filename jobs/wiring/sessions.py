"""Runs: the lease is taken, workers and executor are assembled, and a session holds what a whole run needs."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.logs import logged, wants_json_logs
from jobs.wiring import models
from jobs.wiring.datasets import card_dict
from jobs.wiring.galleries import gallery_sources, with_gallery_digests
from jobs.wiring.parts import build, build_parts, component_cards, full_model
from jobs.wiring.report_page import published_report
from pipeline.domain.errors import OutputError, PlanMismatchError
from pipeline.domain.privacy import holds_people
from pipeline.domain.recipe import Recipe, export_folder, parse_recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Executor, Observer, Store, Worker
    from pipeline.execute.session import Session
    from pipeline.execute.stop import Stop
    from pipeline.flow.parts import Parts
    from pipeline.flow.quarantine import Quarantine


def build_worker(
    recipe_raw: Mapping[str, Any], uri: str, lease_number: int, run: str, fingerprint: str, *, log_json: bool = False
) -> Worker:
    """Build a worker in the process where it will run; the first of a node reads the weights alone.

    Raises:
        PlanMismatchError: its models are not those of the driver.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.node_gate import first_alone
    from pipeline.adapters.stores import open_store

    single_thread()
    recipe = parse_recipe(full_model(), recipe_raw, "worker")
    with first_alone(fingerprint[:16]):
        parts = build_parts(recipe, open_store(uri), lease_number, run)
    if parts.prints.fingerprint != fingerprint:
        raise PlanMismatchError(
            f"a worker on {parts.run_facts['host']} has fingerprint {parts.prints.fingerprint[:12]}, the driver "
            f"{fingerprint[:12]}: its models differ; install the same facemint on every node"
        )
    worker = worker_over(parts)
    return logged(worker, {"dataset": uri, **parts.run_facts}) if log_json else worker


def worker_over(parts: Parts) -> Worker:
    """Return what works the units of a recipe of its kind."""
    from pipeline.flow.worker import UnitWorker

    if not holds_people(parts.recipe):
        return UnitWorker(parts)
    from jobs.wiring.curating import open_kit
    from pipeline.flow.curating.worker import CurateWorker

    # most units ask no source for anything, and it may be gone by then
    return CurateWorker(parts, functools.partial(open_kit, parts.recipe))


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
    from pipeline.adapters.charts import funnel_chart
    from pipeline.adapters.contact_sheet import contact_sheet
    from pipeline.adapters.croissant import croissant
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.execute.session import Session
    from pipeline.execute.spending import spending_of
    from pipeline.execute.stop import Stop
    from pipeline.flow.heartbeat import Progress, Tee
    from pipeline.flow.lease import acquire
    from pipeline.flow.quarantine import Quarantine

    if recipe.compute.executor == "ray" and store.uri.startswith("memory://"):
        raise OutputError(f"{store.uri}: workers in other processes cannot see it; name a folder, or --executor inline")
    single_thread()
    recipe = with_gallery_digests(recipe, store)
    run = uuid.uuid4().hex[:12]
    lease = acquire(store, SystemClock(), holder(run), is_dead)
    try:
        parts = build_parts(recipe, store, lease.number, run)
        asked = stop or Stop()
        progress = Progress(SystemClock(), lease.holder)
        spending = spending_of(recipe.compute, SystemClock())
        asked.limit = spending.limit
        quarantine = Quarantine(store, SystemClock())
        if retry_quarantined:
            quarantine.release()
        writers = Writers(dataset_card, croissant, contact_sheet, funnel_chart, published_report)
        session = Session(
            parts=parts,
            executor=_executor(parts, lease.number, run, asked, quarantine, observer),
            observer=Tee(observer, progress, spending),
            progress=progress,
            lease=lease,
            spending=spending,
            models={role: card_dict(card) for role, card in component_cards(recipe).items()},
            documents=functools.partial(documents, writers, store, parts),
            exporters=tuple(
                (build("exports", node), functools.partial(_export_store, store, export_folder(node)))
                for node in recipe.exports
            ),
            tables=ParquetTables(),
            stop=asked,
            allow_short=allow_short,
            retry_quarantined=retry_quarantined,
            deep=deep,
            galleries=gallery_sources(recipe),
        )
        spending.attach(session.executor.worker_seconds)
        return dataclasses.replace(session, under=functools.partial(_under, session, run, quarantine))
    except BaseException:
        lease.release()
        raise


def _under(session: Session, run: str, quarantine: Quarantine, raw: Mapping[str, Any]) -> Session:
    """Return a session with parts and workers of an earlier generation's recipe; its executor is its own."""
    recipe = parse_recipe(full_model(), raw, "an earlier generation")
    parts = build_parts(recipe, session.parts.store, session.lease.number, run)
    executor = _executor(parts, session.lease.number, run, session.stop, quarantine, session.observer)
    return dataclasses.replace(session, parts=parts, executor=executor)


def plan_run(recipe: Recipe, uri: str | None, workers: int | None) -> dict[str, Any]:
    """Return what `facemint plan` shows: what a run of the recipe at `uri`, or in an empty place, would do.

    Weights need not be on this machine; without them no time is reckoned.
    """
    with models.unfetched():
        return _planned(recipe, uri, workers)


def _planned(recipe: Recipe, uri: str | None, workers: int | None) -> dict[str, Any]:
    import math
    import os

    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.stores import MemoryStore, open_store
    from pipeline.execute.plan import plan
    from pipeline.flow.thresholds import threshold_rows

    single_thread()
    store = MemoryStore("an empty place") if uri is None else open_store(uri, writable=False)
    if uri is not None:
        recipe = with_gallery_digests(recipe, store)
    parts = build_parts(recipe, store, None, "plan")
    if parts.screen is not None:
        # galleries may not be prepared yet, and what a trial makes is thrown away: it is not screened
        bare = recipe.model_copy(update={"filters": tuple(f for f in recipe.filters if f.use != "leakage")})
        parts = dataclasses.replace(parts, filters=build_parts(bare, store, None, "plan").filters)
    wanted = workers or recipe.compute.workers or os.cpu_count() or 1
    enrolled = math.ceil(recipe.identities.count * (1 + recipe.enrol.reserve))
    thresholds = threshold_rows(recipe, parts.judge.calibration, parts.filters(enrolled))
    return {
        "recipe": recipe.name,
        "uri": uri,
        **dataclasses.asdict(plan(parts, wanted)),
        "thresholds": thresholds,
    }


def inline_executor(parts: Parts, stop: Stop, quarantine: Quarantine | None = None) -> Executor:
    """Return an executor that works in this process, over parts that are there."""
    from pipeline.execute.inline import InlineExecutor
    from pipeline.flow.quarantine import Quarantine

    mine = quarantine or Quarantine(parts.store, parts.clock)
    return InlineExecutor(functools.partial(worker_over, parts), stop=stop, quarantine=mine)


def _executor(
    parts: Parts, lease_number: int, run: str, stop: Stop, quarantine: Quarantine, observer: Observer
) -> Executor:
    recipe, store, fingerprint = parts.recipe, parts.store, parts.prints.fingerprint
    if recipe.compute.executor == "inline":
        return inline_executor(parts, stop, quarantine)
    from pipeline.execute.demand import demand_of
    from pipeline.execute.on_ray import RayExecutor

    compute = recipe.compute
    settings = (recipe.model_dump(mode="json"), store.uri, lease_number, run, fingerprint)
    build_it = functools.partial(build_worker, *settings, log_json=wants_json_logs())
    return RayExecutor(
        functools.partial(models.built_there, models.told(compute, compute.address), build_it),
        workers=compute.workers,
        address=compute.address,
        unit_limit_s=compute.unit_limit_s,
        quarantine=quarantine,
        stop=stop,
        demand=demand_of(compute),
        common={"dataset": recipe.name, "run": run},
        observer=observer,
        # on this machine nobody waits for what an idle worker holds
        idle_s=compute.idle_s if compute.address else None,
        min_workers=compute.min_workers,
    )


def _export_store(store: Store, folder: str, version: str, part: str) -> Store:
    from pipeline.adapters.stores import PrefixedStore

    return PrefixedStore(store, f"exports/{version}/{folder}/{part}".rstrip("/"))
