"""The verbs that look at a dataset: what they tell of one that is finished, running, stale or damaged."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from jobs import examine, show, wiring
from pipeline.adapters.machine import SystemClock
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import LeaseHeldError, OutputError, StoreError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.ports import Stored
from pipeline.flow.heartbeat import Heartbeat, Progress
from pipeline.flow.lease import DURATION_S, Lease, acquire
from tests.worlds import filled, sketches, two_generations


class Clock:
    """A clock that is set by hand, and starts now."""

    def __init__(self) -> None:
        """Start now: the store's times are real ones."""
        self.time_s = time.time()

    def now_s(self) -> float:
        """Return the time set."""
        return self.time_s


@pytest.fixture(scope="module")
def grown() -> dict[str, bytes]:
    """Return the files of a dataset of two generations and two versions."""
    store = two_generations()
    return {path: store.get(path) for path in store.list("")}


@pytest.fixture
def dataset(grown: dict[str, bytes]) -> MemoryStore:
    """Return a dataset of its own for a test."""
    return kept_of(grown)


def kept_of(files: Mapping[str, bytes]) -> MemoryStore:
    """Return a store with these files, without what runs left in `runs/`."""
    return filled(MemoryStore(), {path: data for path, data in files.items() if not path.startswith("runs/")})


def unpublished(files: Mapping[str, bytes]) -> MemoryStore:
    """Return the dataset as it was before its first version."""
    return kept_of({p: d for p, d in files.items() if not p.startswith(("versions/", "exports/"))})


def hold(store: MemoryStore, clock: Clock, run: str = "abc") -> Lease:
    """Take the lease for a process elsewhere."""
    return acquire(store, clock, {"run": run, "host": "elsewhere", "pid": 7, "boot": "x"}, lambda who: False)


def told(facts: Mapping[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what `status` prints of these facts, which are JSON as they are."""
    assert json.loads(json.dumps(facts)) == facts
    monkeypatch.setenv("COLUMNS", "80")
    show.print_status(facts)
    return capsys.readouterr().out


def test_a_published_dataset_tells_its_versions_and_counts(
    dataset: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain of versions, units and candidates per stage and generation, and why images were refused."""
    facts = examine.status(dataset, Clock())
    assert facts["state"] == "published v000002"
    assert [(v["version"], v["parent"], v["images"]) for v in facts["versions"]] == [
        ("v000001", None, 30),
        ("v000002", "v000001", 36),
    ]
    made = facts["stages"]["make"]
    assert (
        made["candidates"]
        == made["accepted"] + made["refused"]
        == sum(g["candidates"] for g in made["generations"].values())
    )
    assert set(made["generations"]) == {"g0", "g1"}
    assert (facts["lease"], facts["run"], facts["quarantined"], facts["unreadable"]) == (None, None, [], [])
    text = told(facts, capsys, monkeypatch)
    for part in ("published v000002", "make", "g1", "grown from", facts["versions"][1]["digest"], "Images refused for"):
        assert part in text


def test_a_running_dataset_tells_who_holds_it_and_how_far_it_is(
    grown: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From lease and heartbeat alone, as another machine sees them."""
    store, clock = unpublished(grown), Clock()
    progress = Progress(clock, {"run": "abc", "host": "elsewhere", "pid": 7})
    progress.event("workers", number=3)
    progress.event("stage", name="make", round=0, generation=0, total=120, done=0)
    counts = Counts(100, 92, 8, {"blurred": 8})
    clock.time_s += 50
    progress.event("unit", receipt=Receipt({"stage": "make"}, "x", "f", "p", counts, (), {"start_s": 0, "end_s": 60}))
    with Heartbeat(hold(store, clock), store, clock, progress, interval_s=60):
        clock.time_s += 4
        facts = examine.status(store, clock)
    assert facts["state"] == "running"
    assert (facts["lease"]["host"], facts["lease"]["number"]) == ("elsewhere", 1)
    assert (facts["run"]["units_done"], facts["run"]["units_total"], facts["run"]["workers"]) == (1, 120, 3)
    assert facts["run"]["seen_ago_s"] == pytest.approx(4)
    text = " ".join(told(facts, capsys, monkeypatch).split())
    assert "Held by run abc on elsewhere (process 7) until " in text
    assert "Last seen 4 s ago: make round 1: 1/120 units, 100 images, 92 % accepted, 2.0 images/s, about 40 min" in text
    assert "3 workers" in text


def test_a_run_that_ended_is_over_and_one_that_fell_silent_is_stale(
    grown: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaving lets the lease go and says why; a killed process leaves a lease that runs out."""
    store, clock = unpublished(grown), Clock()
    with pytest.raises(StoreError), Heartbeat(hold(store, clock), store, clock, Progress(clock)):
        raise StoreError("the disk is full")
    facts = examine.status(store, clock)
    assert facts["state"] == "not finished; run `facemint generate` to resume"
    assert facts["run"]["ended"] == "the disk is full"
    show.print_status(facts)
    assert "Last run ended 1 s ago: the disk is full" in capsys.readouterr().out
    hold(store, clock, "killed")
    clock.time_s += DURATION_S + 40
    facts = examine.status(store, clock)
    assert facts["state"] == "stale: its holder is silent for 100 s; run `facemint generate` to resume"
    assert facts["lease"] is None


def test_a_published_dataset_that_grows_says_both(dataset: MemoryStore) -> None:
    """What stands is usable while more is made."""
    clock = Clock()
    hold(dataset, clock)
    assert examine.status(dataset, clock)["state"] == "running, published v000002"
    clock.time_s += DURATION_S + 1
    assert examine.status(dataset, clock)["state"].startswith("published v000002, stale: ")


def test_quarantined_units_and_unreadable_records_are_named(
    dataset: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three deaths set a unit aside; a receipt that came all the same wins; damage ends in no traceback."""
    for number in (1, 2, 3):
        death = json.dumps({"unit": "make-g2-000000", "why": "killed by SIGSEGV"}).encode()
        dataset.put(f"quarantine/make-g2-000000-{number}.json", death)
        dataset.put(f"quarantine/make-g0-000000-{number}.json", death)
    dataset.put("quarantine/make-g2-000001-1.json", b"{}")
    dataset.put("receipts/make-g0-000001.json", b"{")
    dataset.put("versions/v000002/manifest.json", b"{")
    facts = examine.status(dataset, Clock())
    assert facts["quarantined"] == [{"unit": "make-g2-000000", "deaths": 3, "why": "killed by SIGSEGV"}]
    assert facts["unreadable"] == ["receipts/make-g0-000001.json", "versions/v000002/manifest.json"]
    assert facts["state"] == "published v000001"
    text = told(facts, capsys, monkeypatch)
    assert "Quarantined make-g2-000000: its worker died 3 times; killed by SIGSEGV" in text
    assert "Not readable: receipts/make-g0-000001.json; run `facemint verify`" in text


def test_a_heartbeat_of_another_version_is_no_reason_to_fail(
    dataset: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that are missing or have other names are left out."""
    clock = Clock()
    hold(dataset, clock)
    dataset.put("runs/abc.json", json.dumps({"stage": "make", "stages": [{}], "seen_s": clock.time_s}).encode())
    assert "Last seen 1 s ago: make" in told(examine.status(dataset, clock), capsys, monkeypatch)


class Counting(MemoryStore):
    """A store that counts requests: each would be a round trip to a bucket."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        self.requests: Counter[str] = Counter()

    def get(self, path: str) -> bytes:
        """Count one read."""
        self.requests["get"] += 1
        return super().get(path)

    def get_many(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Count one read of many."""
        self.requests["get_many"] += 1
        return super().get_many(paths)

    def size(self, path: str) -> int | None:
        """Count one look."""
        self.requests["size"] += 1
        return super().size(path)

    def list(self, prefix: str) -> list[str]:
        """Count one listing."""
        self.requests["list"] += 1
        return super().list(prefix)

    def entries(self, prefix: str) -> Sequence[Stored]:
        """Count one listing."""
        self.requests["list"] += 1
        return super().entries(prefix)


def test_thousands_of_receipts_cost_as_many_requests_as_one(dataset: MemoryStore) -> None:
    """`status` and `verify` list folders and read small files together; old heartbeats and leases are not read."""
    store = filled(Counting(), dataset)
    raw = Receipt.from_json(store.get("receipts/make-g0-000001.json"))
    for number in range(100, 1100):
        name = f"make-g0-{number:06d}"
        more = replace(raw, unit={**raw.unit, "index": number}, name=name, files=())
        store.put(more.path, more.to_json())
        store.put(f"runs/{number:012x}.json", b"{}")
    store.requests.clear()
    examine.status(store, Clock())
    assert sum(store.requests.values()) < 20
    store.requests.clear()
    assert examine.verify(store, Segments(), _codec(), deep=False)["problems"] == []
    assert sum(store.requests.values()) < 30


def _codec() -> Any:
    return wiring.build("encoding", sketches().encoding)


def test_a_run_that_has_just_begun_is_running() -> None:
    """It holds the dataset before it has written anything else."""
    store, clock = MemoryStore(), Clock()
    hold(store, clock)
    facts = examine.status(store, clock)
    assert (facts["state"], facts["stages"]["make"]["units"]) == ("running", 0)


def test_where_no_dataset_is_that_is_said() -> None:
    """An empty place is the user's mistake."""
    for look in (
        lambda s: examine.status(s, Clock()),
        lambda s: examine.verify(s, Segments(), _codec(), deep=False),
        lambda s: examine.collect(s, Clock(), grace_h=24),
    ):
        with pytest.raises(OutputError, match="no dataset here"):
            look(MemoryStore())


def test_verification_is_printed_in_lines(
    dataset: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much was read, and one line per problem, however narrow the terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    facts = examine.verify(dataset, Segments(), _codec(), deep=True)
    show.print_verify(facts)
    assert "read and hashed, 36 images, 0 of them decoded now: 0 problems" in " ".join(capsys.readouterr().out.split())
    show.print_verify(examine.verify(dataset, Segments(), _codec(), deep=True, decode=True))
    assert "read and hashed, 36 images, 36 of them decoded now: 0 problems" in " ".join(capsys.readouterr().out.split())
    dataset.delete("segments/make-g0-000001.tar")
    facts = examine.verify(dataset, Segments(), _codec(), deep=False)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["damaged"] == ["segments/make-g0-000001.tar"]
    show.print_verify(facts)
    out = capsys.readouterr().out
    assert "compared by size: 1 problem\n" in out
    assert (
        "  segments/make-g0-000001.tar: missing; expected 30,720 bytes, as receipts/make-g0-000001.json says; run"
        in out
    )


def test_orphans_are_listed_and_removed_only_on_demand(
    dataset: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed with sizes; with the lease they go, and the lease is let go."""
    monkeypatch.setenv("COLUMNS", "80")
    clock = Clock()
    dataset.put("segments/make-g9-000000.tar", b"x" * 2048)
    assert examine.collect(dataset, clock, grace_h=24)["orphans"] == []
    clock.time_s += 25 * 3600
    listed = examine.collect(dataset, clock, grace_h=24)
    assert listed["removed"] is None
    show.print_collected(listed)
    said = capsys.readouterr().out
    assert "1 file that nothing names, older than 24 h (2.0 kB)" in said
    assert "segments/make-g9-000000.tar  2.0 kB, 25 h old: no receipt names it" in said
    assert "--gc --yes" in said
    done = examine.collect(dataset, clock, grace_h=24, take_lease=lambda: hold(dataset, clock))
    assert json.loads(json.dumps(done)) == done
    assert done["removed"]["files"] == ["segments/make-g9-000000.tar"]
    show.print_collected(done)
    assert "Removed 1 file (2.0 kB) and 0 leftovers" in capsys.readouterr().out
    assert dataset.size("segments/make-g9-000000.tar") is None
    assert examine.status(dataset, clock)["lease"] is None


def test_nothing_is_removed_while_a_run_holds_the_dataset(dataset: MemoryStore) -> None:
    """The removal takes the lease as a run does, and exits as a second run would."""
    clock = Clock()
    dataset.put("segments/make-g9-000000.tar", b"x")
    clock.time_s += 25 * 3600
    hold(dataset, clock, "busy")
    with pytest.raises(LeaseHeldError, match="run busy") as caught:
        examine.collect(dataset, clock, grace_h=24, take_lease=lambda: hold(dataset, clock))
    assert caught.value.exit_status == 5
    assert dataset.size("segments/make-g9-000000.tar") == 1


def test_where_nothing_is_to_be_removed_no_lease_is_taken(dataset: MemoryStore) -> None:
    """A nightly call on a tidy dataset leaves no trace."""

    def never() -> Lease:
        raise AssertionError

    clock = Clock()
    clock.time_s += 25 * 3600
    assert examine.collect(dataset, clock, grace_h=24, take_lease=never)["removed"] is None


def test_a_damaged_record_keeps_everything(dataset: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows what it named, so it is repaired first."""
    clock = Clock()
    dataset.put("versions/v000002/manifest.json", b"{")
    clock.time_s += 25 * 3600
    listed = examine.collect(dataset, clock, grace_h=24)
    assert len(listed["blocked"]) == 1
    show.print_collected(listed)
    assert "Nothing can be removed yet: 1 damaged record to repair first" in capsys.readouterr().out
    with pytest.raises(StoreError, match=r"versions/v000002/manifest.json: not a manifest"):
        examine.collect(dataset, clock, grace_h=24, take_lease=lambda: hold(dataset, clock))
    assert dataset.list("versions/v000002/index-")


def test_the_real_clock_is_good_enough(dataset: MemoryStore) -> None:
    """A store that was just written has no orphan that is a day old."""
    assert examine.collect(dataset, SystemClock(), grace_h=24)["orphans"] == []
