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
    from pipeline.domain.manifest import IndexRow, Manifest
    from pipeline.domain.ports import Executor, Exporter, Observer, Store
    from pipeline.execute.run import Session
    from pipeline.flow.parts import Parts
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


def open_session(recipe: Recipe, uri: str, observer: Observer, *, allow_short: bool = False) -> Session:
    """Take the lease of the dataset at `uri` and assemble everything that a run needs.

    Raises:
        OutputError: the place cannot be used.
        LeaseHeldError: another run holds it.
    """
    from pipeline.adapters.stores import open_store

    return session_on(recipe, open_store(uri), observer, allow_short=allow_short)


def session_on(recipe: Recipe, store: Store, observer: Observer, *, allow_short: bool = False) -> Session:
    """Do as `open_session` does, on a store that is open already."""
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.execute.run import Session
    from pipeline.flow.lease import acquire

    if recipe.compute.executor == "ray" and store.uri.startswith("memory://"):
        raise OutputError(f"{store.uri}: workers in other processes cannot see it; name a folder, or --executor inline")
    single_thread()
    run = uuid.uuid4().hex[:12]
    lease = acquire(store, SystemClock(), holder(run), is_dead)
    try:
        parts = build_parts(recipe, store, lease.number, run)
        return Session(
            parts=parts,
            executor=_executor(parts, lease.number, run),
            observer=observer,
            lease=lease,
            models={role: _card_dict(card) for role, card in component_cards(recipe).items()},
            documents=functools.partial(_documents, store, parts),
            exporters=tuple((_build("exports", node), _export_store(store, node.use)) for node in recipe.exports),
            allow_short=allow_short,
        )
    except BaseException:
        lease.release()
        raise


def _executor(parts: Parts, lease_number: int, run: str) -> Executor:
    from pipeline.domain.manifest import canonical_json

    recipe, store, fingerprint = parts.recipe, parts.store, parts.prints.fingerprint
    if recipe.compute.executor == "inline":
        from pipeline.execute.inline import InlineExecutor
        from pipeline.flow.worker import UnitWorker

        return InlineExecutor(functools.partial(UnitWorker, parts))
    from pipeline.execute.on_ray import RayExecutor

    def on_death(name: str, deaths: int) -> None:
        store.put(f"runs/death-{name}-{deaths}.json", canonical_json({"unit": name, "deaths": deaths}))

    return RayExecutor(
        functools.partial(build_worker, recipe.model_dump(mode="json"), store.uri, lease_number, run, fingerprint),
        workers=recipe.compute.workers,
        address=recipe.compute.address,
        on_death=on_death,
    )


def _documents(store: Store, parts: Parts, manifest: Manifest, rows: Sequence[IndexRow]) -> dict[str, bytes]:
    """Return the documents of a version: card and contact sheet."""
    from pipeline.adapters.card import dataset_card
    from pipeline.adapters.contact_sheet import contact_sheet

    balance = manifest.figures["balance"]
    facts = {
        "version": manifest.version,
        "name": manifest.name,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "figures": {**manifest.figures, "balance": balance["cells"], "balance_fields": balance["by"]},
        "models": manifest.models,
        "use": manifest.use,
    }
    return {
        "README.md": dataset_card(facts).encode(),
        "contact_sheet.png": contact_sheet(_sheet_rows(store, parts, rows)),
    }


def _sheet_rows(store: Store, parts: Parts, rows: Sequence[IndexRow], limit: int = 24) -> list[Any]:
    """Return captions and faces of evenly chosen identities, so that every cell is seen."""
    from pipeline.domain.manifest import segment_path

    by_label: dict[int, list[IndexRow]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    by_cell: dict[str, list[int]] = {}
    for label, owned in by_label.items():
        by_cell.setdefault(owned[0].cell, []).append(label)
    turns = sorted((turn, cell, label) for cell, labels in by_cell.items() for turn, label in enumerate(labels))
    chosen = sorted((cell, label) for _, cell, label in turns[:limit])
    return [
        (
            f"{label}  {cell}",
            [
                parts.codec.decode(store.get_range(segment_path(r.segment, "tar"), r.offset, r.length))
                for r in by_label[label][:12]
            ],
        )
        for cell, label in chosen
    ]


def _export_store(store: Store, kind: str) -> Store:
    from pipeline.adapters.stores import PrefixedStore
    from pipeline.domain.manifest import version_name

    return PrefixedStore(store, f"exports/{version_name(1)}/{kind}")


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
    from pipeline.adapters.stores import open_store

    return examine.status(open_store(uri, writable=False))


def verify_dataset(uri: str, *, deep: bool) -> dict[str, Any]:
    """Return what `facemint verify` shows."""
    from jobs import examine
    from pipeline.adapters.stores import open_store

    return examine.verify(open_store(uri, writable=False), deep=deep)


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
