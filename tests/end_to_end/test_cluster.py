"""A cluster of two nodes: submit, watch, cut a node off, kill the driver, submit again; and what was scraped of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.examine import verify
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.manifest import Counts, Receipt
from pipeline.flow.commit import receipts
from tests.end_to_end.commands import (
    end,
    larger_recipe,
    receipts_in,
    require_undisturbed,
    run,
    start,
    wait_for,
    written,
)
from tests.end_to_end.two_nodes import TwoNodes, two_nodes, why_not
from tests.execute.scraping import scrape, total, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak]
PEOPLE, IMAGES = 80, 150


@pytest.fixture
def cluster() -> Iterator[TwoNodes]:
    """Return a cluster of two nodes."""
    lacking = why_not()
    if lacking:
        pytest.skip(lacking)
    # sockets below it have long names, and those of sockets are short
    with tempfile.TemporaryDirectory(prefix="fm") as folder, two_nodes(Path(folder)) as nodes:
        yield nodes


def submitting(cluster: TwoNodes, recipe: Path, out: Path, *more: str) -> list[str]:
    """Return the command that submits to the cluster and follows."""
    program = f"{sys.executable} -m jobs.cli"
    words = ["submit", str(recipe), "--out", str(out), "--on", "ray", "--address", cluster.dashboard, "--json"]
    return [sys.executable, "-m", "jobs.cli", *words, "--program", program, *more]


def of_run(store: LocalStore, run: str) -> list[Receipt]:
    """Return the receipts that a run left; the driver's own, of who is enrolled, is not told of as a unit."""
    return [r for r in receipts(store).values() if r.run["run"] == run and r.unit["stage"] != "enrolled"]


@pytest.mark.parametrize("found_out", [False, True], ids=["before anybody knows", "after it was found out"])
def test_a_node_cut_off_and_a_killed_driver_change_nothing(
    cluster: TwoNodes, tmp_path: Path, *, found_out: bool
) -> None:
    """Same digest as an undisturbed run, nobody blamed, and the numbers scraped meanwhile are those of the receipts."""
    recipe, out = written(tmp_path, larger_recipe(PEOPLE, IMAGES, compute={"workers": 2})), tmp_path / "out"
    store, summary = LocalStore(out), tmp_path / "summary.json"
    follower = start(submitting(cluster, recipe, out))
    wait_for(lambda: receipts_in(out, "make-") >= 3, follower)
    first = str(next(iter(of_run_any(store))).run["run"])
    before = len(of_run(store, first))
    said = until(
        lambda: scrape([cluster.endpoint(1), cluster.endpoint(2)]),
        lambda s: total(s, "units_total", run=first) >= before and total(s, "units_open", run=first) > 0,
    )
    assert before <= total(said, "units_total", run=first) <= len(of_run(store, first))
    assert 0 < total(said, "lease_age_seconds", run=first) < 60
    assert total(said, "workers", run=first) == 2
    assert total(said, "units_open", run=first) > 0
    status = json.loads(run_json("status", str(out), "--json"))
    assert status["lease"]["run"] == first

    cluster.cut(2)
    cut_at = receipts_in(out, "make-")
    wait_for(lambda: receipts_in(out, "make-") >= cut_at + 3, follower)
    if found_out:
        # nobody tells that a link is down: Ray finds out by silence
        lost = {"run": first, "by": "node"}
        wait_for(lambda: total(scrape([cluster.endpoint(1)]), "workers_lost_total", **lost) >= 1, follower)
    after = of_run(store, first)
    hosts = {r.run["pid"] for r in after}
    assert len(hosts) >= 2, "both nodes had worked"
    drivers = cluster.running_as(1, "jobs.cli", "generate")
    assert drivers
    for pid in drivers:
        os.kill(pid, signal.SIGKILL)
    assert end(follower)[0] != 0
    assert not list(out.glob("versions/*/manifest.json"))

    status_2, errors = run(submitting(cluster, recipe, out, "--", "--summary", str(summary)))
    assert status_2 == 0, errors
    require_undisturbed(store, PEOPLE, IMAGES)
    assert not verify(store, Segments(), JpegCodec(), deep=True)["problems"]
    assert list(out.glob("quarantine/*.json")) == []
    told = json.loads(summary.read_text())
    second = told["run"]
    assert second != first
    mine = of_run(store, second)
    assert mine
    said = until(
        lambda: scrape([cluster.endpoint(1)]), lambda s: total(s, "units_total", run=second) >= len(mine), within_s=15
    )
    for stage in ("make", "audit"):
        units = [r for r in mine if r.unit["stage"] == stage]
        counts = Counts.total(r.counts for r in units)
        assert total(said, "units_total", run=second, stage=stage) == len(units)
        assert total(said, "candidates_total", run=second, stage=stage) == counts.candidates
        assert total(said, "refused_total", run=second, stage=stage) == counts.refused
        assert total(said, "written_bytes_total", run=second, stage=stage) == sum(
            f.bytes for r in units for f in r.files
        )
        assert told["work"]["stages"].get(stage, {"units": 0})["units"] == len(units)
    assert told["cost"]["worker_s"] >= told["cost"]["unit_s"] > 0


def of_run_any(store: LocalStore) -> list[Receipt]:
    """Return the receipts of units."""
    return [r for r in receipts(store).values() if r.unit["stage"] != "enrolled"]


def run_json(*words: str) -> str:
    """Run a verb; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout
