"""What Prometheus scrapes from a Ray that runs us."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.domain.manifest import Counts
from pipeline.execute.metrics import TABLE, Book, Kind
from pipeline.execute.on_ray import RayMetrics
from pipeline.flow.commit import receipts
from tests.execute.scraping import endpoints_of_ray, scrape, total, until
from tests.watching import mint_watched

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_a_live_scrape_returns_every_metric_of_the_table() -> None:
    """Registered with Ray, each is served under the name that dashboard and alerts use, with its value and labels."""
    book = Book("scraped", "r0")
    for number, metric in enumerate(TABLE, 1):
        name = metric.name.removeprefix("facemint_").removesuffix("_total")
        labels = {label: f"a {label}" for label in metric.labels}
        if metric.kind is Kind.COUNTER:
            book.add(name, number, **labels)
        elif metric.kind is Kind.GAUGE:
            book.put(name, number, **labels)
        else:
            book.observe(name, number, **labels)
    told = RayMetrics(book.common)
    told.write(book)
    # what has not changed is not counted again
    told.write(book)
    wanted = {series for metric in TABLE for series in metric.series}
    said = until(
        lambda: scrape(endpoints_of_ray()),
        lambda s: wanted <= {name for name, labels in s if ("run", "r0") in labels},
    )
    assert {name for name, labels in said if ("run", "r0") in labels} == wanted
    for number, metric in enumerate(TABLE, 1):
        if metric.kind is not Kind.HISTOGRAM:
            labels = {label: f"a {label}" for label in metric.labels}
            name = metric.name.removeprefix("facemint_")
            assert total(said, name, dataset="scraped", run="r0", **labels) == number


@pytest.mark.slow
def test_what_is_scraped_of_a_run_is_what_its_receipts_say(tmp_path: Path) -> None:
    """A run on Ray, scraped over HTTP: counters are those of the receipts, and workers tell that they worked."""
    compute = {"executor": "ray", "workers": 1, "budget": {"worker_hours": 1}, "deadline": "1h"}
    watched = mint_watched(tmp_path, recipe={"compute": compute})
    stored, run = receipts(watched.store), str(next(iter(receipts(watched.store).values())).run["run"])
    units = {s: [r for r in stored.values() if r.unit["stage"] == s] for s in ("enrol", "make", "audit")}
    work_s = sum(r.run["end_s"] - r.run["start_s"] for mine in units.values() for r in mine)
    said = until(
        lambda: scrape(endpoints_of_ray()),
        # a worker, the driver's numbers and its histograms are each reported when their own second is over
        lambda s: (
            total(s, "run_ended_timestamp_seconds", run=run) > 0
            and total(s, "worker_busy_seconds_total", run=run) >= work_s - 0.01
            and total(s, "unit_duration_seconds_count", run=run) >= sum(map(len, units.values()))
        ),
    )
    for stage, mine in units.items():
        counts = Counts.total(r.counts for r in mine)
        assert total(said, "units_total", run=run, stage=stage) == len(mine)
        assert total(said, "candidates_total", run=run, stage=stage) == counts.candidates
        assert total(said, "accepted_total", run=run, stage=stage) == counts.accepted
        assert total(said, "refused_total", run=run, stage=stage) == counts.refused
        assert total(said, "written_bytes_total", run=run, stage=stage) == sum(f.bytes for r in mine for f in r.files)
        assert total(said, "unit_duration_seconds_count", run=run, stage=stage) == len(mine)
    assert total(said, "unit_seconds_total", run=run) == pytest.approx(work_s, abs=0.01)
    assert total(said, "worker_busy_seconds_total", run=run) >= work_s - 0.01
    # the one worker was held while it worked, and a little longer than the run could tell
    held_s = total(said, "worker_seconds_total", run=run)
    assert work_s - 0.01 <= held_s <= watched.watch.spending.worker_s() + 0.01
    assert 0 < total(said, "budget_used_ratio", run=run, budget="worker-hours") < 1
    assert total(said, "run_ended_timestamp_seconds", run=run, status="0") > 0
    assert total(said, "units_open", run=run) == 0
