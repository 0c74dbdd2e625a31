"""Datasets as sets: one is divided, two are compared, several become one."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from jobs.wiring.measuring import dataset_recipe
from jobs.wiring.parts import build_parts, open_dataset
from pipeline.domain.errors import StoreError

if TYPE_CHECKING:
    from pipeline.domain.manifest import IndexRow
    from pipeline.domain.ports import Store
    from pipeline.domain.splits import Part
    from pipeline.flow.diff import Side
    from pipeline.flow.splits import Asked, Near


def split_dataset(uri: str, name: str, parts: tuple[Part, ...], *, by_cell: bool) -> dict[str, Any]:
    """Divide the newest version of the dataset at `uri`, or extend its split of this name; return what it came to.

    Raises:
        OutputError: nothing is published there.
        UserError: a split of this name stands that was asked for otherwise.
        LeaseHeldError: a run is at work.
    """
    from pipeline.flow.splits import Asked

    return split_on(open_dataset(uri), Asked(name, parts, by_cell))


def split_on(store: Store, asked: Asked) -> dict[str, Any]:
    """Do as `split_dataset` does, on a store that is open already."""
    from jobs import examine
    from pipeline.adapters.machine import SystemClock, holder, is_dead, single_thread
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.heartbeat import Heartbeat, Progress
    from pipeline.flow.lease import acquire, guard_of
    from pipeline.flow.splits import split_version
    from pipeline.flow.versions import image_rows

    single_thread()
    manifest = examine.newest_manifest(store)
    lease = acquire(store, SystemClock(), holder(f"split-{uuid.uuid4().hex[:9]}"), is_dead)
    with Heartbeat(lease, store, SystemClock(), Progress(SystemClock(), lease.holder)):
        rows = tuple(image_rows(Segments(), store, manifest))
        near = _near(store, rows)
        cells, seed = {r.identity: r.cell for r in rows}, examine.run_seed(store)
        guard = guard_of(store, lease.number)
        made = split_version(store, ParquetTables(), manifest, cells, near, asked, seed, guard)
    return {"uri": store.uri, **made.record}


def _near(store: Store, rows: tuple[IndexRow, ...]) -> Near:
    """Return which identities of a version the judge takes for one, by the recipe's separation."""
    from pipeline.flow.enrol import separation_cos
    from pipeline.flow.past import Past, published_templates
    from pipeline.flow.splits import near_pairs

    recipe = dataset_recipe(store)
    parts = build_parts(recipe, store, None, "split")
    past = Past(rows=rows, labels={r.identity: r.label for r in rows})
    try:
        ordinals, templates_ME = published_templates(parts, past)
    except FileNotFoundError as error:
        raise StoreError(f"{store.uri}: {error}: missing; look with `facemint verify`") from None
    threshold = separation_cos(recipe, parts.judge.calibration, recipe.identities.images_per_identity)
    return near_pairs(ordinals, templates_ME, threshold, parts.product())


def diff_datasets(a: str, b: str) -> dict[str, Any]:
    """Return what differs between two versions, each `URI` or `URI@v000001`.

    Raises:
        OutputError: nothing is published there, or not this version.
    """
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.diff import diff

    return diff(open_side(a), open_side(b), ParquetTables())


def open_side(reference: str) -> Side:
    """Return the version that `URI`, the newest one, or `URI@v000001` names.

    Raises:
        OutputError: nothing is published there, or not this version.
    """
    from pipeline.adapters.stores import open_store

    found = re.fullmatch(r"(?P<uri>.+)@(?P<version>v\d+)", reference)
    uri, version = (found["uri"], found["version"]) if found else (reference, None)
    return side_of(open_store(uri, writable=False), version, reference)


def side_of(store: Store, version: str | None = None, uri: str | None = None) -> Side:
    """Return a version of a dataset, the newest unless one is named, with the step of its generation."""
    from jobs import examine
    from pipeline.execute.generations import read_step
    from pipeline.flow.diff import Side

    manifest = examine.asked_manifest(store, version)
    return Side(uri or store.uri, store, manifest, read_step(store, manifest.generation))
