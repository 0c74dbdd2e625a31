"""Reading what Ray's endpoints say of us, as Prometheus does."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]
OURS = "ray_facemint_"


def parsed(text: str) -> dict[tuple[str, Labels], float]:
    """Return (series, labels) -> value of what is ours, with the labels that are ours alone."""
    own = {"dataset", "run", "stage", "reason", "by", "cell", "budget", "status", "device", "le"}
    out: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(OURS):
                key = sample.name, frozenset((k, v) for k, v in sample.labels.items() if k in own)
                # workers of one device differ in labels of Ray's alone
                out[key] = out.get(key, 0.0) + sample.value
    return out


def scrape(endpoints: list[str]) -> dict[tuple[str, Labels], float]:
    """Return what all endpoints say together."""
    out: dict[tuple[str, Labels], float] = {}
    for endpoint in endpoints:
        with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
            for key, value in parsed(answer.read().decode()).items():
                out[key] = out.get(key, 0.0) + value
    return out


def endpoints_of_ray() -> list[str]:
    """Return the endpoints of the living nodes of the Ray that this process is connected to."""
    import ray

    return [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in ray.nodes() if n["Alive"]]


def until(look: Callable[[], Samples], good: Callable[[Samples], bool], within_s: float = 120.0) -> Samples:
    """Scrape until what is said is good, or the time is over; return what was said last.

    An endpoint that does not answer says nothing yet: a node serves its metrics some seconds after it is there.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        said: Samples = {}
        with suppress(OSError, HTTPException):
            said = look()
        if good(said) or time.monotonic() > deadline_s:
            return said
        time.sleep(0.3)


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of a series over all that carry these labels."""
    wanted = set(labels.items())
    return sum(v for (series, own), v in samples.items() if series == OURS + name and wanted <= own)
