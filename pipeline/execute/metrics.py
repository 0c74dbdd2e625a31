"""The metrics of a run: one table of their names, and a book in which a process keeps their values.

Names follow the conventions of Prometheus: the unit is the end of a name, counters end in `_total`, shares are ratios
from 0 to 1, moments are seconds since the epoch. Every metric has the labels `dataset` (the recipe's name) and `run`.
Ray serves what its processes register and puts `ray_` before each name; the text file that a run without Ray writes
has the same names, so that one dashboard and one set of alert rules read both. Exposition format:
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PREFIX = "ray_"
"""What Ray puts before the name of every metric of an application."""
COMMON = ("dataset", "run")
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Upper bounds of the buckets of durations."""


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class By(StrEnum):
    """Which process tells a metric."""

    DRIVER = "driver"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    """Its own, beside `COMMON`."""
    by: By = By.DRIVER

    @property
    def exposed(self) -> str:
        """Return the name under which it is scraped."""
        return f"{PREFIX}{self.name}"

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names of the series that a scrape returns for it."""
        ends = ("_bucket", "_count", "_sum") if self.kind is Kind.HISTOGRAM else ("",)
        return tuple(f"{self.exposed}{end}" for end in ends)


def _counter(name: str, unit: str, text: str, *labels: str) -> Metric:
    return Metric(f"facemint_{name}_total", Kind.COUNTER, unit, text, labels)


def _gauge(name: str, unit: str, text: str, *labels: str) -> Metric:
    return Metric(f"facemint_{name}", Kind.GAUGE, unit, text, labels)


TABLE = (
    _counter("candidates", "1", "Candidates that came out of units: identities probed, or images made.", "stage"),
    _counter("accepted", "1", "Candidates that passed every filter.", "stage"),
    _counter("refused", "1", "Candidates refused, each by the first reason that refused it.", "stage", "reason"),
    _counter("units", "1", "Units committed by this run.", "stage"),
    _counter("unit_seconds", "s", "Time that workers spent on committed units.", "stage"),
    _counter("written_bytes", "bytes", "Bytes of the files of committed units.", "stage"),
    _counter("worker_seconds", "s", "Time for which workers were held, loading and waiting included."),
    _counter("gpu_seconds", "s", "The same, times the devices of a worker."),
    _counter("workers_lost", "1", "Workers lost: process, node, memory, or notice of being taken away.", "by"),
    _counter("deaths", "1", "Deaths of workers that count against the unit that they worked."),
    Metric(
        "facemint_unit_duration_seconds", Kind.HISTOGRAM, "s", "How long a unit took, from its receipt.", ("stage",)
    ),
    _gauge("units_open", "1", "Units of the present stage that are not committed yet.", "stage"),
    _gauge("images_per_second", "1/s", "Candidate images made per second, over the last minutes."),
    _gauge("workers", "1", "Workers that stand."),
    _gauge("workers_busy_ratio", "ratio", "Time on committed units over time for which workers were held."),
    _gauge("quarantined_units", "1", "Units set aside after killing their worker three times."),
    _gauge("cell_identities", "1", "Identities enrolled, published and in reserve.", "cell"),
    _gauge("cell_wanted_identities", "1", "Identities that a cell wants, reserve included.", "cell"),
    _gauge("cell_yield_ratio", "ratio", "Of candidates drawn towards a cell, the share enrolled in it.", "cell"),
    _gauge("lease_age_seconds", "s", "Time since the lease was renewed; it is lost to others after 60 s."),
    _gauge("budget_used_ratio", "ratio", "Share of a budget that is spent.", "budget"),
    _gauge("deadline_timestamp_seconds", "s", "When the run stops."),
    _gauge("run_started_timestamp_seconds", "s", "When the run began."),
    _gauge("last_unit_timestamp_seconds", "s", "When a unit was last committed, or the run began."),
    _gauge("run_ended_timestamp_seconds", "s", "When the run ended, by the status that it ended with.", "status"),
    Metric(
        "facemint_device_busy_ratio",
        Kind.GAUGE,
        "ratio",
        "Share of a worker's time, from the end of a unit to that of the next, in which it worked.",
        ("device",),
        By.WORKER,
    ),
    Metric(
        "facemint_worker_busy_seconds_total",
        Kind.COUNTER,
        "s",
        "Time that a worker spent on units, whatever came of them.",
        ("device",),
        By.WORKER,
    ),
    Metric(
        "facemint_worker_load_seconds",
        Kind.GAUGE,
        "s",
        "How long a worker took to load its models, waiting for others of its node included.",
        ("device",),
        By.WORKER,
    ),
)
METRICS: Mapping[str, Metric] = {m.name.removeprefix("facemint_").removesuffix("_total"): m for m in TABLE}
"""The table by short name, without beginning and end: what code calls a metric."""

Labels = tuple[str, ...]


@dataclass(slots=True)
class Buckets:
    """The state of a histogram of one series."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(SECONDS, value)] += 1
        self.total += value


class Book:
    """The metrics of one process, by metric and label values; safe to use from several threads.

    Args:
        dataset: the recipe's name.
        run: the run's.
    """

    def __init__(self, dataset: str, run: str) -> None:
        self.common = {"dataset": dataset, "run": run}
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, Labels], float] = {}
        self._buckets: dict[tuple[str, Labels], Buckets] = {}
        self._observed: list[tuple[str, Labels, float]] = []

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter; nothing where the value is not above 0."""
        key = _key(name, labels, Kind.COUNTER)
        if value > 0 and math.isfinite(value):
            with self._lock:
                self._numbers[key] = self._numbers.get(key, 0.0) + value

    def reach(self, name: str, total: float, **labels: str) -> None:
        """Raise a counter to a total that somebody else keeps; it never falls."""
        key = _key(name, labels, Kind.COUNTER)
        with self._lock:
            if total > self._numbers.get(key, 0.0):
                self._numbers[key] = total

    def put(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; one that is not finite is not told."""
        key = _key(name, labels, Kind.GAUGE)
        with self._lock:
            if math.isfinite(value):
                self._numbers[key] = value
            else:
                self._numbers.pop(key, None)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count one value in a histogram."""
        key = _key(name, labels, Kind.HISTOGRAM)
        with self._lock:
            self._buckets.setdefault(key, Buckets()).add(value)
            self._observed.append((*key, value))

    def value(self, name: str, **labels: str) -> float | None:
        """Return a counter's or gauge's value, or None where it has none."""
        with self._lock:
            return self._numbers.get(_key(name, labels, METRICS[name].kind))

    def numbers(self) -> dict[tuple[str, Labels], float]:
        """Return every counter and gauge, by short name and values of its own labels."""
        with self._lock:
            return dict(self._numbers)

    def observed(self) -> list[tuple[str, Labels, float]]:
        """Return what histograms were given since the last call."""
        with self._lock:
            taken, self._observed = self._observed, []
            return taken

    def text(self) -> str:
        """Return everything in the text format of Prometheus."""
        with self._lock:
            lines: list[str] = []
            for name, metric in METRICS.items():
                rows = self._rows(name, metric)
                if rows:
                    lines += [f"# HELP {metric.exposed} {metric.help}", f"# TYPE {metric.exposed} {metric.kind}", *rows]
        return "\n".join(lines) + "\n" if lines else ""

    def _rows(self, name: str, metric: Metric) -> list[str]:
        rows = []
        for (_, values), number in sorted((k, v) for k, v in self._numbers.items() if k[0] == name):
            rows.append(f"{metric.exposed}{self._told(metric, values)} {_number(number)}")
        for (_, values), buckets in sorted((k, v) for k, v in self._buckets.items() if k[0] == name):
            under = 0
            for bound, count in zip((*SECONDS, math.inf), buckets.counts, strict=True):
                under += count
                told = self._told(metric, values, f'le="{_number(bound)}"')
                rows.append(f"{metric.exposed}_bucket{told} {under}")
            told = self._told(metric, values)
            rows += [f"{metric.exposed}_sum{told} {_number(buckets.total)}", f"{metric.exposed}_count{told} {under}"]
        return rows

    def _told(self, metric: Metric, values: Labels, more: str = "") -> str:
        every = {**self.common, **dict(zip(metric.labels, values, strict=True))}
        told = [f'{k}="{_escaped(v)}"' for k, v in every.items()]
        return "{" + ",".join([*told, *([more] if more else [])]) + "}"


def _key(name: str, labels: Mapping[str, str], kind: Kind) -> tuple[str, Labels]:
    metric = METRICS[name]
    if metric.kind is not kind or set(labels) != set(metric.labels):
        raise ValueError(f"{name} is a {metric.kind} with labels {metric.labels}; got a {kind} with {sorted(labels)}")
    return name, tuple(labels[label] for label in metric.labels)


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
