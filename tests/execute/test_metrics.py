"""The table of metrics, the book that keeps them, and what a run writes into it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline.domain.manifest import Counts
from pipeline.domain.records import Cell
from pipeline.execute.metering import cell_yields
from pipeline.execute.metrics import METRICS, SECONDS, TABLE, Book, Kind
from pipeline.flow.commit import receipts
from tests.watching import mint_watched

UNITS = {"s": ("_seconds", "_seconds_total"), "ratio": ("_ratio",), "bytes": ("_bytes_total",)}


@pytest.mark.parametrize("metric", TABLE, ids=lambda m: m.name)
def test_names_say_kind_and_unit(metric: object) -> None:
    """Counters end in _total and nothing else does; seconds, ratios and bytes are said in the name."""
    from pipeline.execute.metrics import Metric

    assert isinstance(metric, Metric)
    assert re.fullmatch(r"facemint_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.name.endswith(UNITS.get(metric.unit, ""))
    assert metric.help.endswith(".")


def test_no_two_metrics_share_a_name() -> None:
    """Every row of the table has a short name of its own, and no series of one is that of another."""
    assert len(METRICS) == len(TABLE)
    every = [name for metric in TABLE for name in metric.series]
    assert len(every) == len(set(every))


@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), max_size=20),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
)
def test_what_is_written_is_read_back(durations: list[float], reason: str) -> None:
    """Prometheus' own reader finds every number, and labels whatever they hold; buckets are cumulative."""
    book = Book("night", "r1")
    book.add("refused", 3, stage="make", reason=reason)
    book.put("images_per_second", 0.25)
    for value in durations:
        book.observe("unit_duration_seconds", value, stage="make")
    found = {f.name: f for f in text_string_to_metric_families(book.text())}
    refused = found["ray_facemint_refused"].samples[0]
    assert refused.value == 3
    assert refused.labels == {"dataset": "night", "run": "r1", "stage": "make", "reason": reason}
    assert found["ray_facemint_images_per_second"].samples[0].value == 0.25
    if durations:
        samples = {
            (s.name.rpartition("_")[2], s.labels.get("le")): s.value
            for s in found["ray_facemint_unit_duration_seconds"].samples
        }
        for bound in SECONDS:
            told = next(v for (_, le), v in samples.items() if le is not None and float(le) == bound)
            assert told == sum(d <= bound for d in durations)
        assert samples["bucket", "+Inf"] == samples["count", None] == len(durations)
        assert samples["sum", None] == pytest.approx(math.fsum(durations), rel=1e-9)


def test_a_counter_never_falls_and_a_gauge_that_is_no_number_is_not_told() -> None:
    """Totals that somebody else keeps raise a counter only; NaN takes a gauge back."""
    book = Book("d", "r")
    for total in (2.0, 1.0, 3.0):
        book.reach("worker_seconds", total)
    book.add("deaths", -1)
    book.put("images_per_second", 1.0)
    book.put("images_per_second", math.nan)
    assert book.value("worker_seconds") == 3.0
    assert book.value("deaths") is None
    assert book.value("images_per_second") is None


@pytest.mark.parametrize(
    ("name", "labels"), [("units", {}), ("units", {"stage": "make", "more": "x"}), ("workers", {})]
)
def test_a_metric_takes_its_own_kind_and_labels_alone(name: str, labels: dict[str, str]) -> None:
    """A label that is missing or too many, or a gauge taken for a counter, is a mistake of ours and says so."""
    with pytest.raises(ValueError, match=name):
        Book("d", "r").add(name, 1, **labels)


def test_the_metrics_of_a_run_are_those_of_its_receipts(tmp_path: Path) -> None:
    """Counted from receipts in the store, every counter of a run that made everything comes out the same."""
    watched = mint_watched(tmp_path, metrics_file="m.prom")
    samples = {
        (s.name, s.labels.get("stage"), s.labels.get("reason")): s.value
        for family in text_string_to_metric_families((tmp_path / "m.prom").read_text())
        for s in family.samples
    }
    stored = receipts(watched.store)
    for stage in ("enrol", "make", "audit"):
        mine = [r for r in stored.values() if r.unit["stage"] == stage]
        total = Counts.total(r.counts for r in mine)
        assert samples["ray_facemint_units_total", stage, None] == len(mine)
        assert samples["ray_facemint_candidates_total", stage, None] == total.candidates
        assert samples.get(("ray_facemint_accepted_total", stage, None), 0) == total.accepted
        assert samples["ray_facemint_written_bytes_total", stage, None] == sum(f.bytes for r in mine for f in r.files)
        assert samples["ray_facemint_units_open", stage, None] == 0
        refused = {
            reason: n for (name, s, reason), n in samples.items() if name.endswith("refused_total") and s == stage
        }
        assert refused == dict(total.reasons)
    assert samples["ray_facemint_workers", None, None] in (0, 1)
    assert 0 < samples["ray_facemint_workers_busy_ratio", None, None] <= 1
    assert samples["ray_facemint_run_ended_timestamp_seconds", None, None] > 0


def test_the_yield_of_a_cell_is_that_of_the_candidates_drawn_towards_it() -> None:
    """What was drawn for another cell and landed here is no yield of this one; unsteered, all are everybody's."""
    round_, square, nobody = Cell(("round",)), Cell(("square",)), Cell(())
    steered = cell_yields(
        {round_: 8, square: 4}, {round_: {round_: 4, square: 1}, square: {square: 1}}, {round_: 1, square: 1}
    )
    assert steered == {"round": 0.5, "square": 0.25}
    assert cell_yields({nobody: 10}, {nobody: {round_: 2}}, {round_: 5, square: 5}) == {"round": 0.2, "square": 0.0}
    assert cell_yields({}, {}, {round_: 1}) == {}
