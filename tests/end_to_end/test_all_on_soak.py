"""Everything on, for long: killed around every operation of its store, with one and three workers, and killed there.

Both worlds are run; what they must end with is what an undisturbed inline run leaves.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import wiring
from jobs.wiring.galleries import with_gallery_digests
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.execute.galleries import prepare
from pipeline.execute.run import generate
from pipeline.flow.versions import read_manifest
from tests.end_to_end.all_on import (
    INLINE,
    SMALL,
    STEPS,
    Life,
    promised,
    require_equal,
)
from tests.end_to_end.commands import command, end, receipts_in, run, start, wait_for, written
from tests.end_to_end.killing import WRITES, Warmed, forget, survives
from tests.end_to_end.test_ray_kills import ON_RAY, descendants, lives, ray_workers
from tests.end_to_end.test_same_digest import Shuffled
from tests.recipes import all_on_phantom_recipe, all_on_recipe
from tests.worlds import Silent

pytestmark = [pytest.mark.slow, pytest.mark.soak]
PARTS = 8


@pytest.fixture(scope="module")
def life() -> Life:
    """Return the life of the dataset."""
    return Life()


# ------------------------------------------------------------------------------------- kills around every operation


def known_galleries(raw: Mapping[str, Any]) -> Recipe:
    """Return a recipe that names its galleries' digests, so that their sources are read once, not at every start."""
    recipe = parse_recipe(wiring.full_model(), raw, "test")
    wiring.check_parts(recipe, "test")
    return with_gallery_digests(recipe)


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    """Return a small recipe with everything on, and models that have been asked everything."""
    return Warmed(known_galleries(all_on_recipe(4, 2)), LocalStore(tmp_path_factory.mktemp("warm") / "all-on"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a place where the galleries of the phantom recipe are prepared, and nothing else is done."""
    place = tmp_path_factory.mktemp("prepared") / "phantoms"
    session = wiring.session_on(known_galleries(all_on_phantom_recipe()), LocalStore(place), Silent())
    prepare(session)
    session.lease.release()
    return place


def copied(prepared: Path | None, place: Path) -> LocalStore:
    """Return a store at a place; one that is not there yet begins with what was prepared."""
    if prepared is not None and not place.exists():
        shutil.copytree(prepared, place)
    return LocalStore(place)


@pytest.fixture(scope="module")
def warmed_phantoms(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    """Return the phantom recipe, and models that have been asked everything."""
    store = copied(prepared, tmp_path_factory.mktemp("warm") / "phantoms")
    return Warmed(known_galleries(all_on_phantom_recipe()), store)


def each_point(warmed: Warmed, out: Path, part: int, wanted: Mapping[str, bytes], prepared: Path | None = None) -> None:
    """Kill before every operation and after every write, one part of them, and resume."""
    points = [(n, after) for n, after in warmed.points() if not after or warmed.operations[n] in WRITES]
    assert len(points) >= 200
    for n, point in enumerate(points[part::PARTS]):
        place = out / f"point-{n}"
        assert survives(warmed, functools.partial(copied, prepared, place), point) == warmed.digest, point
        there = promised(LocalStore(place))
        assert sorted(there.keys() ^ wanted.keys()) == [], point
        assert [path for path in wanted if there[path] != wanted[path]] == [], point
        forget(place)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_operation_of_sketches_with_everything_on(warmed: Warmed, tmp_path: Path, part: int) -> None:
    """Galleries half prepared, twins, two exports: wherever the process dies, the bytes are the same."""
    store = MemoryStore()
    warmed.run(store)
    each_point(warmed, tmp_path, part, promised(store))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_operation_of_phantoms_with_everything_on(
    warmed_phantoms: Warmed, prepared: Path, phantoms: Mapping[str, bytes], tmp_path: Path, part: int
) -> None:
    """The same for networks; their gallery is prepared already, as rendering it takes longest."""
    each_point(warmed_phantoms, tmp_path, part, phantoms, prepared)


# ------------------------------------------------------------------------------------- workers


def ran(raw: Mapping[str, Any], store: Store, seed: int | None = None, **compute: Any) -> None:
    """Run a recipe with galleries that are not named by digest, as a user's are."""
    recipe = parse_recipe(wiring.full_model(), {**raw, "compute": {**INLINE, **compute}}, "test")
    session = wiring.session_on(recipe, store, Silent())
    generate(session if seed is None else replace(session, executor=Shuffled(session.executor, seed)))


@pytest.fixture(scope="module")
def phantoms() -> Mapping[str, bytes]:
    """Return what an inline run of the phantom recipe leaves."""
    store = MemoryStore()
    ran(all_on_phantom_recipe(), store)
    make = read_manifest(store, "v000001").counts["make"]
    assert make["refused"]
    assert make["twins"]
    return promised(store)


def test_phantoms_in_another_order_are_the_same(phantoms: Mapping[str, bytes]) -> None:
    """Networks, twins, cones and a gallery: units shuffled, one batch at a time."""
    store = MemoryStore()
    ran(all_on_phantom_recipe(), store, 5, in_flight=1)
    require_equal(store, phantoms)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 3])
def test_sketches_on_ray_are_those_of_inline(life: Life, tmp_path: Path, workers: int) -> None:
    """Workers that read galleries, pack vectors and make twins in processes of their own."""
    store = LocalStore(tmp_path / "out")
    ran(SMALL, store, workers, executor="ray", workers=workers)
    require_equal(store, promised(life.after("minted")))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_whole_life_on_ray_is_that_of_inline(life: Life, tmp_path: Path, workers: int) -> None:
    """Minted, grown, measured, judged and filled by workers."""
    store = LocalStore(tmp_path / "out")
    compute = {"executor": "ray", "workers": workers}
    for name, step in STEPS.items():
        step(store, workers, compute)
        assert promised(store) == promised(life.after(name)), name
    require_equal(store, promised(life.after("filled")))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 3])
def test_phantoms_on_ray_are_those_of_inline(phantoms: Mapping[str, bytes], tmp_path: Path, workers: int) -> None:
    """One and three workers: the bytes of inline."""
    store = LocalStore(tmp_path / "out")
    ran(all_on_phantom_recipe(), store, workers, executor="ray", workers=workers)
    require_equal(store, phantoms)


@pytest.fixture
def left_over() -> Iterator[list[int]]:
    """Collect processes that a killed driver may leave; what is left of them at the end is killed."""
    pids: list[int] = []
    yield pids
    for pid in filter(lives, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.parametrize("world", ["sketches", "phantoms"])
def test_a_killed_worker_and_a_killed_driver_change_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, left_over: list[int], world: str
) -> None:
    """SIGKILL for a worker while it probes, for the driver while images are made, and the same command again."""
    if world == "sketches":
        raw, wanted = SMALL, promised(request.getfixturevalue("life").after("minted"))
    else:
        raw, wanted = all_on_phantom_recipe(), request.getfixturevalue("phantoms")
    recipe, out = written(tmp_path, raw), tmp_path / "out"
    driver = start(command(recipe, out, *ON_RAY))
    wait_for(lambda: receipts_in(out, "enrol-") >= 1, driver)
    workers = ray_workers(driver.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: receipts_in(out, "make-") >= 1, driver)
    left_over += descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert end(driver)[0] == -signal.SIGKILL
    assert not list(out.glob("versions/*/manifest.json"))
    status, errors = run(command(recipe, out, *ON_RAY))
    assert status == 0, errors
    there = {p: data for p, data in promised(LocalStore(out)).items() if not p.startswith("quarantine/")}
    assert sorted(there.keys() ^ wanted.keys()) == []
    assert [p for p in wanted if there[p] != wanted[p]] == []
