"""A whole run on any executor: enrol in rounds, make in rounds, audit, publish, export. Running it again resumes.

The driver holds no state that storage does not: every step starts from receipts, and a step whose units are all
committed costs one listing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from pipeline.domain.errors import (
    FacemintError,
    LeaseHeldError,
    OutputError,
    PlanMismatchError,
    StoreError,
    TargetNotReachedError,
)
from pipeline.domain.fingerprint import differences
from pipeline.domain.manifest import Counts, IndexRow, Manifest, Receipt, canonical_json
from pipeline.domain.ports import Executor, Exporter, Observer, Store
from pipeline.domain.records import Cell
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.flow import audit, enrol, rounds
from pipeline.flow.commit import receipts, remaining
from pipeline.flow.lease import DURATION_S, Lease
from pipeline.flow.parts import Parts
from pipeline.flow.publish import index_rows, publish, published_rows, read_manifest, versions
from pipeline.flow.worker import enrolled_path

RECIPE_PATH = "recipes/g0.yaml"


@dataclass(frozen=True, slots=True)
class Session:
    """What a run needs besides its parts: where it runs, who watches, what it writes at the end."""

    parts: Parts
    executor: Executor
    observer: Observer
    lease: Lease
    models: Mapping[str, Any]
    documents: Callable[[Manifest, Sequence[IndexRow]], Mapping[str, bytes]]
    exporters: tuple[tuple[Exporter, Store], ...]
    allow_short: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """A finished run."""

    manifest: Manifest
    exports: tuple[Mapping[str, Any], ...]
    resumed: bool
    """True where the version stood already and nothing had to be made."""


def generate(session: Session) -> Published:
    """Run, or resume, a recipe until its dataset is published and exported.

    Raises:
        PlanMismatchError: the place holds a dataset of another recipe.
        TargetNotReachedError: identities, images or balance could not be reached.
        QuarantinedError: units killed their worker three times.
        LeaseHeldError: another run took the dataset over.
    """
    store = session.parts.store
    with _Heartbeat(session):
        try:
            check_recipe(session.parts)
            standing = versions(store)
            if standing:
                manifest = read_manifest(store, standing[-1])
            else:
                manifest = _mint(session)
            return Published(manifest, _export(session, manifest), bool(standing))
        finally:
            session.executor.close()


def check_recipe(parts: Parts) -> None:
    """Write the resolved recipe of generation 0, or hold ours against the one that stands there."""
    body = {
        "recipe": parts.recipe.model_dump(mode="json"),
        "fingerprint": parts.prints.fingerprint,
        "plan_digest": parts.prints.plan_digest,
        "fingerprint_fields": dict(parts.prints.fields),
        "plan_fields": dict(parts.prints.plan_fields),
    }
    if parts.store.put_if_absent(RECIPE_PATH, yaml.safe_dump(body, sort_keys=False).encode()):
        return
    try:
        there = yaml.safe_load(parts.store.get(RECIPE_PATH))
        theirs, plan = dict(there["fingerprint_fields"]), dict(there["plan_fields"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise OutputError(f"{parts.store.uri}: {RECIPE_PATH} is not a recipe of ours; use another --out") from None
    # json round trip: yaml reads lists and numbers as the recipe's dump writes them
    differing = differences(parts.prints.fields, theirs) or differences(parts.prints.plan_fields, plan)
    if differing:
        shown = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")
        raise PlanMismatchError(
            f"{parts.store.uri} holds a dataset of another recipe ({shown}); use another --out, or the recipe "
            f"in {RECIPE_PATH}"
        )


def _mint(session: Session) -> Manifest:
    parts = session.parts
    known = receipts(parts.store)
    _check_devices(session, known)
    state = _enrol(session, known)
    identities = {i.ordinal: i for i in state.identities}
    standing, made = _make(session, known, state)
    if not standing.filled:
        raise TargetNotReachedError(
            f"no identity could be filled in {parts.recipe.rounds} rounds; {_hardest(known)}; "
            "raise attempts, or loosen that filter"
        )
    if standing.open_cells and not session.allow_short:
        missing = ", ".join(f"{c} {n}" for c, n in sorted(standing.open_cells.items()))
        why = ", ".join(f"{n} {w}" for w, n in _tally(standing.failed.values()).items())
        raise TargetNotReachedError(
            f"after {parts.recipe.rounds} rounds these places are open: {missing}; identities not filled: {why}; "
            f"{_hardest(known)}; raise attempts, rounds or enrol.reserve, loosen that filter, or pass --allow-short"
        )
    units = sorted(known)
    session.observer.event("stage", name="audit", total=len(units), done=0)
    found = {}
    for finding in session.executor.audit(units):
        found[finding["unit"]] = finding
        session.observer.event("audited", unit=finding["unit"])
    rows = index_rows(standing, identities, {name: f["places"] for name, f in found.items()})
    about = {
        "models": session.models,
        "counts": _counts(session, state, standing, known, made, rows),
        "figures": _figures(session, state, standing, found, rows),
    }
    session.lease.require()
    session.observer.event("stage", name="publish", total=1, done=0)
    return publish(parts, rows, list(known.values()), about, lambda bare: session.documents(bare, rows))


def _hardest(known: Mapping[str, Receipt]) -> str:
    """Return which reason refused most images, as a phrase."""
    total = Counts.total(r.counts for r in known.values() if r.unit["stage"] == Stage.MAKE.value)
    if not total.reasons:
        return "no filter refused an image"
    reason, number = max(total.reasons.items(), key=lambda item: item[1])
    return f"most refusals: {reason} ({number} of {total.candidates} images)"


def _check_devices(session: Session, known: Mapping[str, Receipt]) -> None:
    """Refuse workers of another device kind than the dataset's: its digest promise would be void."""
    if session.parts.recipe.compute.mixed_devices:
        return
    here = session.executor.device_kinds()
    there = {str(r.run.get("device_kind")) for r in known.values()}
    if len(here | there) > 1:
        raise PlanMismatchError(
            f"workers of different device kinds: {'; '.join(sorted(here | there))}; bytes are equal within one kind "
            "only; run on one kind, or set compute.mixed_devices: true, which withdraws the digest promise"
        )


def _run_units(session: Session, units: Sequence[Unit], known: dict[str, Receipt], stage: str, number: int) -> None:
    """Work what remains of a round and add the receipts to `known`."""
    open_units = remaining(units, session.parts.store, known, session.parts.prints.fingerprint)
    done = len(units) - len(open_units)
    session.observer.event("stage", name=stage, round=number, total=len(units), done=done)
    for receipt in session.executor.run(open_units) if open_units else ():
        known[receipt.name] = receipt
        session.observer.event("unit", receipt=receipt)


def _enrol(session: Session, known: dict[str, Receipt]) -> enrol.Enrolment:
    parts = session.parts
    past: list[Proposal] = []
    rows: list[dict[str, Any]] = []
    state: enrol.Enrolment | None = None
    first_unit = first_candidate = 0
    for number in range(parts.recipe.enrol.rounds):
        units, proposed = enrol.plan_enrol_round(parts, number, first_unit, first_candidate, past, state)
        if not proposed:
            break
        first_candidate += proposed
        _run_units(session, units, known, "enrol", number)
        for unit in units:
            rows += parts.segments.read_rows(parts.store, unit.name)
            past += unit.proposals
        first_unit += len(units)
        state = enrol.close_enrolment(parts.recipe, parts.targets, parts.judge.calibration, rows)
        session.observer.event("enrolled", have=state.have, wanted=state.wanted, refused=state.refused)
        if state.complete:
            break
    assert state is not None, "the first enrolment round proposes at least one candidate"
    enrol.require_sufficient(state, parts.recipe)
    parts.segments.write_identities(parts.store, enrolled_path(0), state.identities, parts.sampler.space)
    return state


def _make(session: Session, known: dict[str, Receipt], state: enrol.Enrolment) -> tuple[rounds.Standing, list[Unit]]:
    parts, recipe = session.parts, session.parts.recipe
    identities = {i.ordinal: i for i in state.identities}
    threshold = enrol.separation_cos(recipe, parts.judge.calibration, recipe.identities.images_per_identity)
    units: list[Unit] = []
    rows: dict[str, list[dict[str, Any]]] = {}
    ordinals = rounds.first_choice(state.identities, state.quota)
    standing = rounds.Standing((), {}, state.quota, {}, {})
    for number in range(recipe.rounds):
        planned = rounds.plan_make_round(recipe, number, len(units), ordinals)
        _run_units(session, planned, known, "make", number)
        units += planned
        rows |= {u.name: parts.segments.read_rows(parts.store, u.name, rounds.ROW_COLUMNS) for u in planned}
        standing = rounds.close_round(recipe, identities, state.quota, units, rows, threshold)
        session.observer.event("round", number=number, filled=len(standing.filled), failed=standing.failed)
        worked = [o for u in units for o in u.ordinals]
        ordinals = rounds.replacements(state.identities, worked, standing.open_cells)
        if not ordinals:
            break
    return standing, units


def _counts(
    session: Session,
    state: enrol.Enrolment,
    standing: rounds.Standing,
    known: Mapping[str, Receipt],
    made: Sequence[Unit],
    rows: Sequence[IndexRow],
) -> dict[str, Any]:
    recipe = session.parts.recipe
    stages = {s.value: Counts.total(r.counts for r in known.values() if r.unit["stage"] == s.value) for s in Stage}
    return {
        "identities": len(standing.filled),
        "identities_expected": recipe.identities.count,
        "images": len(rows),
        "images_expected": recipe.identities.count * recipe.identities.images_per_identity,
        "missing_by_cell": {str(c): n for c, n in sorted(standing.open_cells.items())},
        "enrolled": len(state.identities),
        "candidates_refused_at_enrolment": dict(state.refused),
        "identities_failed": _tally(standing.failed.values()),
        "rounds": max((u.round for u in made), default=0) + 1,
        "enrol": stages["enrol"].to_dict(),
        "make": stages["make"].to_dict(),
    }


def _figures(
    session: Session,
    state: enrol.Enrolment,
    standing: rounds.Standing,
    found: Mapping[str, Mapping[str, Any]],
    rows: Sequence[IndexRow],
) -> dict[str, Any]:
    parts = session.parts
    identities = {i.ordinal: i for i in state.identities}
    label_of = {r.key: r.label for r in rows}
    keys = [(name, n, k) for name in sorted(found) for n, k in enumerate(found[name]["keys"]) if k in label_of]
    labels = np.array([label_of[k] for _, _, k in keys], np.int64)
    out: dict[str, Any] = {}
    for role, recogniser in (("judge", parts.judge), ("auditor", parts.auditor)):
        emb = np.stack([found[name][role][n] for name, n, _ in keys])
        out[role] = audit.similarity_figures(emb, labels, recogniser.calibration)
    confusion = {k: v for m in parts.measurers for k, v in m.confusion.items()}
    cells: list[Cell] = [identities[o].cell for o in standing.filled]
    out["balance"] = audit.balance_figures(cells, state.quota, parts.targets, confusion)
    out["thresholds"] = {
        f.name: {k: v for k, v in vars_of(f).items() if isinstance(v, int | float | str)}
        for f in parts.filters(len(state.identities))
    }
    images = parts.recipe.identities.images_per_identity
    out["separation_cos"] = {
        "enrolment": enrol.separation_cos(parts.recipe, parts.judge.calibration, parts.recipe.enrol.probes),
        "made": enrol.separation_cos(parts.recipe, parts.judge.calibration, images),
    }
    out["leakage"] = "not screened: no gallery was given"
    out["mixed_devices"] = parts.recipe.compute.mixed_devices
    return out


def vars_of(value: Any) -> dict[str, Any]:
    """Return the fields of a frozen dataclass, slotted or not."""
    return {k: getattr(value, k) for k in getattr(value, "__dataclass_fields__", {})}


def _export(session: Session, manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    parts = session.parts
    if not session.exporters:
        return ()
    rows = published_rows(parts.segments, parts.store, manifest)
    about = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "seed": parts.recipe.seed,
        "balance": manifest.figures["balance"]["by"],
    }
    out = []
    for exporter, target in session.exporters:
        session.observer.event("stage", name=f"export {exporter.kind}", total=1, done=0)
        out.append(exporter.export(parts.store, rows, target, about))
    return tuple(out)


def _tally(words: Any) -> dict[str, int]:
    out: dict[str, int] = {}
    for word in words:
        out[word] = out.get(word, 0) + 1
    return dict(sorted(out.items()))


class _Heartbeat:
    """Renews the lease while a run lasts and lets it go at the end."""

    def __init__(self, session: Session) -> None:
        self._lease, self._parts = session.lease, session.parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)
        # a store that fails now has failed the run already, and its error is the one to show
        with suppress(StoreError, OutputError):
            self._lease.release()

    def _beat(self) -> None:
        while not self._stop.wait(DURATION_S / 4):
            body = canonical_json({"run": dict(self._lease.holder), "seen_s": round(self._parts.clock.now_s(), 3)})
            try:
                self._lease.renew()
                self._parts.store.put(f"runs/{self._lease.holder['run']}.json", body)
            except LeaseHeldError:
                return  # the guard before the next receipt says so in the main thread
            except FacemintError:
                continue  # the lease lasts several beats, and work that cannot be stored ends the run by itself
