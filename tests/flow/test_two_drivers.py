"""Two drivers of one dataset: one works, the other says who does; one that slept too long finds itself replaced.

A driver is put to sleep around any of its store operations by letting the other one run inside that operation, on a
clock that jumped past the lease: exact, and without waiting.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters import machine
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import FacemintError, LeaseHeldError, PlanMismatchError, StoreError
from pipeline.domain.manifest import Receipt
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe
from pipeline.execute.run import generate
from pipeline.flow.lease import DURATION_S
from pipeline.flow.versions import read_manifest, versions
from tests.end_to_end.commands import (
    command,
    end,
    freeze,
    receipts_in,
    require_one_line,
    require_undisturbed,
    run,
    start,
    wait_for,
    written,
)
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

PEOPLE = sketch_recipe()["identities"]
VERBS = ("put_if_absent", "put", "put_file", "get", "get_many", "get_range", "size", "list", "entries", "delete")


class SettableClock:
    """Implements `ports.Clock`, for every driver of this process: the real time and a jump."""

    jump_s = 0.0

    def now_s(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + SettableClock.jump_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[SettableClock]:
    """Give every driver of this process a clock that can jump."""
    monkeypatch.setattr(machine, "SystemClock", SettableClock)
    monkeypatch.setattr(SettableClock, "jump_s", 0.0)
    return SettableClock


class Ledger(MemoryStore):
    """A store in memory that remembers every content that a receipt, and every body that a manifest, ever had."""

    def __init__(self, copied: MemoryStore | None = None) -> None:
        """Begin empty, or as a copy."""
        super().__init__()
        self.ever: dict[str, set[str]] = defaultdict(set)
        if copied:
            for path in copied.list(""):
                self.put(path, copied.get(path))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create, and remember what was created."""
        created = super().put_if_absent(path, data)
        if created:
            self._remember(path, data)
        return created

    def put(self, path: str, data: bytes) -> None:
        """Write, and remember what."""
        super().put(path, data)
        self._remember(path, data)

    def _remember(self, path: str, data: bytes) -> None:
        if path.startswith("receipts/"):
            self.ever[path].add(json.dumps(Receipt.from_json(data).content(), sort_keys=True, default=str))
        elif path.endswith("/manifest.json"):
            self.ever[path].add(hashlib.sha256(data).hexdigest())

    def require_one_content(self) -> None:
        """Fail where a receipt or a manifest ever had two contents, or two manifests name one parent."""
        assert [path for path, contents in self.ever.items() if len(contents) > 1] == []
        parents = [read_manifest(self, v).parent for v in versions(self)]
        assert len(parents) == len(set(parents))

    def require_whole(self) -> None:
        """Fail where a receipt names bytes that are not there."""
        for path in self.list("receipts/"):
            for entry in Receipt.from_json(self.get(path)).files:
                assert hashlib.sha256(self.get(entry.path)).hexdigest() == entry.sha256, entry.path


class Sleeper:
    """A store through which a driver sleeps around its n-th operation while something else happens."""

    def __init__(self, inner: Store, at: int | None, meanwhile: Callable[[], object], *, after: bool = False) -> None:
        """Wrap `inner`; None never sleeps."""
        self._inner, self._at, self._meanwhile, self._after = inner, at, meanwhile, after
        self.operations: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute, a verb with the sleep around it."""
        value = getattr(self._inner, name)
        if name not in VERBS:
            return value

        @functools.wraps(value)
        def asked(*args: Any, **more: Any) -> Any:
            mine = len(self.operations) == self._at and threading.current_thread() is threading.main_thread()
            if threading.current_thread() is threading.main_thread():
                self.operations.append(f"{name} {args[0] if args and isinstance(args[0], str) else ''}")
            if mine and not self._after:
                self._meanwhile()
            result = value(*args, **more)
            if mine and self._after:
                self._meanwhile()
            return result

        return asked


@dataclass
class Scene:
    """A driver that sleeps at a point while another runs: how each ended, and what is there then."""

    store: Ledger
    first: Recipe
    second: Recipe
    clock: type[SettableClock]
    options: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, FacemintError | None] = field(default_factory=dict)

    def play(self, at: int | None, *, after: bool = False) -> Sleeper:
        """Run the first driver; at an operation it sleeps past its lease and the second one runs to its end."""
        sleeper = Sleeper(self.store, at, self._other, after=after)
        self.ended["first"] = self._driver(self.first, sleeper)
        return sleeper

    def _other(self) -> None:
        self.clock.jump_s += DURATION_S + 1
        self.ended["second"] = self._driver(self.second, self.store)

    def _driver(self, recipe: Recipe, store: Any) -> FacemintError | None:
        try:
            generate(wiring.session_on(recipe, store, Silent(), **self.options))
        except FacemintError as error:
            return error
        return None


def points_of(scene: Scene, *, every: int, seed: int) -> list[tuple[int, bool]]:
    """Return a seeded share of all points of a driver: before and after each operation."""
    operations = len(scene.play(None).operations)
    points = [(n, after) for n in range(operations) for after in (False, True)]
    return points[int(np.random.default_rng(seed).integers(every)) :: every]


SMALL = {
    "generator": {"use": "sketch", "noise": 2.0}, "attempts": 3,
    "identities": {**PEOPLE, "count": 4, "images_per_identity": 2}, "balance": {"by": ["shape"]},
    "enrol": {**sketch_recipe()["enrol"], "separation": {"cos": 0.9}},
    "filters": [{"use": "own-template", "fmr": 1e-2}],
}  # fmt: skip
EVERY = [pytest.param(17, id="some"), pytest.param(1, id="all", marks=[pytest.mark.soak])]


@pytest.mark.parametrize("every", EVERY)
def test_a_driver_replaced_in_its_sleep_changes_nothing(clock: type[SettableClock], every: int) -> None:
    """Asleep around any operation while another finishes: it stops or agrees, and every byte is the right one."""
    recipe = sketches(**SMALL)
    wanted = MemoryStore()
    mint(recipe, wanted)
    stopped = 0
    for n, after in points_of(Scene(Ledger(), recipe, recipe, clock), every=every, seed=1):
        scene = Scene(Ledger(), recipe, recipe, clock)
        scene.play(n, after=after)
        assert scene.ended["second"] is None, (n, after)
        assert scene.ended["first"] is None or isinstance(scene.ended["first"], LeaseHeldError), (n, after)
        stopped += scene.ended["first"] is not None
        scene.store.require_one_content()
        assert bytes_of(scene.store) == bytes_of(wanted), (n, after)
    assert stopped > 2, "most points lie before the end, where the first must stop"


@pytest.fixture(scope="module")
def published() -> MemoryStore:
    """Return a store with a small published version."""
    store = MemoryStore()
    mint(sketches(**SMALL), store)
    return store


def grown(count: int) -> Recipe:
    """Return the small recipe with more people."""
    return sketches(**{**SMALL, "identities": {**PEOPLE, "count": count, "images_per_identity": 2}})


@pytest.mark.parametrize("every", EVERY)
def test_of_two_growths_of_one_version_one_is_its_child(
    published: MemoryStore, clock: type[SettableClock], every: int
) -> None:
    """Asleep around any operation while another recipe grows the same version: whoever began it first is v000002."""
    plans = {6: grown(6), 7: grown(7)}
    wanted = {}
    for count, plan in plans.items():
        alone = Ledger(published)
        mint(plan, alone)
        wanted[count] = bytes_of(alone)
    for n, after in points_of(Scene(Ledger(published), plans[6], plans[7], clock), every=every, seed=2):
        scene = Scene(Ledger(published), plans[6], plans[7], clock)
        operation = scene.play(n, after=after).operations[n]
        where = f"{'after' if after else 'before'} operation {n}, {operation}"
        scene.store.require_one_content()
        scene.store.require_whole()
        assert not any("\n" in str(error) for error in scene.ended.values()), where
        if "v000002" not in versions(scene.store):
            # the first had begun: the second was told so, and the first, run again, goes on
            assert isinstance(scene.ended["second"], PlanMismatchError), where
            assert isinstance(scene.ended["first"], LeaseHeldError), where
            mint(plans[6], scene.store)
        child = int(read_manifest(scene.store, "v000002").counts["identities"])
        there = bytes_of(scene.store)
        assert [p for p in wanted[child] if there.get(p) != wanted[child][p]] == [], where
        if child == 7:
            assert isinstance(scene.ended["first"], LeaseHeldError | PlanMismatchError), where
            assert mint(plans[7], scene.store).resumed, where
        elif "v000003" not in versions(scene.store):
            assert mint(plans[6], scene.store).resumed, where


@pytest.mark.parametrize("every", EVERY)
def test_a_driver_replaced_while_it_mends_takes_nothing_back(
    published: MemoryStore, clock: type[SettableClock], every: int
) -> None:
    """Asleep while it finds a segment missing that another makes again: what stands when it wakes goes on standing."""
    recipe = sketches(**SMALL)

    def damaged() -> Ledger:
        store = Ledger(published)
        store.delete("segments/make-g0-000000.tar")
        return store

    for n, after in points_of(Scene(damaged(), recipe, recipe, clock), every=every, seed=3):
        scene = Scene(damaged(), recipe, recipe, clock)
        operation = scene.play(n, after=after).operations[n]
        where = f"{'after' if after else 'before'} operation {n}, {operation}"
        assert scene.ended["second"] is None, where
        assert scene.ended["first"] is None or isinstance(scene.ended["first"], LeaseHeldError), where
        scene.store.require_one_content()
        scene.store.require_whole()
        assert bytes_of(scene.store) == bytes_of(published), where
        # taken back in the very last moment before it was replaced, a receipt comes back without its unit being worked
        watching = Silent()
        mint(recipe, scene.store, watching)
        assert [facts["receipt"].name for kind, facts in watching.seen if kind == "unit"] == [], where
        assert scene.store.list("receipts/") == published.list("receipts/"), where
        assert bytes_of(scene.store) == bytes_of(published), where


@pytest.mark.parametrize("every", EVERY)
def test_a_driver_replaced_while_it_publishes_leaves_the_others_version_whole(
    clock: type[SettableClock], every: int
) -> None:
    """About to publish a short version, it sleeps while a more patient one publishes a full one: that one stays."""
    hard = {**SMALL, "generator": {"use": "sketch", "noise": 1.8}, "attempts": 1,
            "identities": {**PEOPLE, "count": 8, "images_per_identity": 3}}  # fmt: skip
    hasty, patient = sketches(**hard, rounds=1), sketches(**hard, rounds=8)
    wanted = MemoryStore()
    mint(patient, wanted)
    alone = Ledger()
    assert mint(hasty, alone, allow_short=True).manifest.counts["missing_by_cell"], "the hasty one is short"
    seen = Scene(Ledger(), hasty, patient, clock, {"allow_short": True}).play(None).operations
    begins = next(n for n, operation in enumerate(seen) if "versions/v000001/index" in operation) - 2
    ends = next(n for n, operation in enumerate(seen) if "versions/v000001/manifest" in operation and n > begins)
    points = [(n, after) for n in range(begins, ends) for after in (False, True)]
    for n, after in points[2 % every :: every]:
        scene = Scene(Ledger(), hasty, patient, clock, {"allow_short": True})
        where = f"{'after' if after else 'before'} operation {n}, {scene.play(n, after=after).operations[n]}"
        assert scene.ended["second"] is None, where
        # asleep in the very last moment it finds the other manifest in the place of its own
        assert isinstance(scene.ended["first"], LeaseHeldError | StoreError), where
        scene.store.require_one_content()
        there, whole = bytes_of(scene.store), bytes_of(wanted)
        assert [path for path in whole if there.get(path) != whole[path]] == [], where


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_of_two_that_start_at_once_one_works_and_one_says_who_does(tmp_path: Path, kind: str) -> None:
    """Two threads on one store: one finishes, the other ends with who holds the dataset and until when."""
    recipe, store = sketches(**SMALL), MemoryStore() if kind == "memory" else LocalStore(tmp_path / "out")
    ended: list[FacemintError | None] = []
    meet = threading.Barrier(2)

    class Meeting(Silent):
        def event(self, kind: str, **facts: Any) -> None:
            """Keep who works waiting until the other one has been refused."""
            deadline_s = time.monotonic() + 30
            while not ended and time.monotonic() < deadline_s:
                time.sleep(0.005)

    def drive() -> None:
        meet.wait()
        try:
            generate(wiring.session_on(recipe, store, Meeting()))
        except FacemintError as error:
            ended.append(error)
        else:
            ended.append(None)

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    refused, done = ended
    assert isinstance(refused, LeaseHeldError)
    assert "at the same moment" in str(refused) or f"(process {os.getpid()}) holds this dataset until" in str(refused)
    assert done is None
    alone = MemoryStore()
    mint(recipe, alone)
    assert bytes_of(store) == bytes_of(alone)


@pytest.mark.slow
def test_a_second_command_exits_5_naming_the_first_or_0_where_that_is_asked_for(tmp_path: Path) -> None:
    """While a command holds the dataset another says which process does and until when; --if-busy ok is no failure."""
    recipe, out = written(tmp_path), tmp_path / "out"
    first = start(command(recipe, out))
    wait_for(lambda: receipts_in(out, "make-") >= 2, first)
    freeze(first)
    try:
        before = sorted(out.rglob("*"))
        # at once: the lease lasts a minute, and a busy machine takes many seconds for each
        strict, lenient = start(command(recipe, out)), start(command(recipe, out, "--if-busy", "ok"))
        (status, errors), second = end(strict), end(lenient)
        assert status == 5, errors
        require_one_line(errors, f"(process {first.pid}) holds this dataset until", " UTC", "wait for it, or stop it")
        status, errors = second
        assert status == 0, errors
        require_one_line(errors, f"(process {first.pid}) holds this dataset until", "nothing was done")
        assert sorted(out.rglob("*")) == before
    finally:
        first.send_signal(signal.SIGCONT)
        ended = end(first)
    assert ended == (0, "")
    require_undisturbed(LocalStore(out))


def short(arguments: list[str]) -> list[str]:
    """Return a command with the lease that lasts two seconds."""
    return [sys.executable, "-m", "tests.flow.short_lease", *arguments[3:]]


def contents(out: Path) -> dict[str, Any]:
    """Return what every receipt of a local dataset says of its unit."""
    return {path.name: Receipt.from_json(path.read_bytes()).content() for path in out.glob("receipts/*.json")}


def outsleep(tmp_path: Path, moment: tuple[str, int]) -> None:
    """Stop a driver at a moment until another has taken over and finished, let it go on, and look what it did."""
    recipe, out = written(tmp_path), tmp_path / "out"
    first = start(short(command(recipe, out)))
    wait_for(lambda: receipts_in(out, moment[0]) >= moment[1], first)
    freeze(first)
    try:
        refused = 0
        while (ended := run(short(command(recipe, out))))[0] == 5:
            refused += 1
            assert refused < 20, ended[1]
        assert ended == (0, "")
        finished = contents(out)
    finally:
        first.send_signal(signal.SIGCONT)
        status, errors = end(first)
    assert status in (0, 5), errors
    if status == 5:
        require_one_line(errors)
        assert "replaced" in errors or "took this dataset over" in errors
    assert contents(out) == finished
    assert [path.name for path in out.glob("versions/*")] == ["v000001"]
    require_undisturbed(LocalStore(out))


@pytest.mark.slow
def test_a_stopped_process_that_wakes_after_its_lease_ends_without_harm(tmp_path: Path) -> None:
    """SIGSTOP in the middle, another process takes over after the expiry and finishes, SIGCONT: exit 5, same bytes."""
    outsleep(tmp_path, ("make-", 4))


@pytest.mark.soak
@pytest.mark.parametrize("moment", [("enrol-", 1), ("enrolled-", 1), ("make-", 10), ("audit-", 1), ("audit-", 12)])
def test_a_process_stopped_at_any_stage(tmp_path: Path, moment: tuple[str, int]) -> None:
    """The same at every stage of a run."""
    outsleep(tmp_path, moment)


@pytest.mark.soak
def test_two_commands_at_once_again_and_again(tmp_path: Path) -> None:
    """Ten times two processes on one fresh place: at least one finishes, the other too or with exit 5."""
    for number in range(10):
        recipe, out = written(tmp_path), tmp_path / f"out-{number}"
        ended = [end(process) for process in [start(command(recipe, out)) for _ in range(2)]]
        statuses = sorted(status for status, _ in ended)
        assert statuses in ([0, 0], [0, 5]), ended
        assert [path.name for path in out.glob("versions/*")] == ["v000001"]
        require_undisturbed(LocalStore(out))
