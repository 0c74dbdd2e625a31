"""Dashboard and alert rules: they name metrics that exist, are well-formed, and fire on what they are for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.execute.metrics import COMMON, PREFIX, TABLE

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "observability"
SERIES = {name: metric for metric in TABLE for name in metric.series}
OF_RAY = {"WorkerId", "NodeAddress", "SessionName", "Component", "Version"}
tool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here; Debian's prometheus brings it"
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    loaded: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Yield (where, query) of every query of the dashboard and the alert rules."""
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield f"${variable['name']}", variable["query"]["query"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def named(query: str) -> set[str]:
    """Return the series that a query names."""
    return set(re.findall(rf"\b{PREFIX}facemint_\w+", query))


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_query_names_metrics_of_the_table(where: str, query: str) -> None:
    """Each series exists under this name, and each label that is asked for or grouped by is one of its own."""
    assert named(query), f"{where} asks for nothing of ours"
    assert named(query) <= SERIES.keys()
    known = {*COMMON, "le", *OF_RAY, *(label for name in named(query) for label in SERIES[name].labels)}
    asked = set(re.findall(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)\s*\"", query))
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        asked |= {label.strip() for label in group.split(",")}
    assert asked <= known, f"{where}: {asked - known}"


def test_every_metric_is_looked_at() -> None:
    """A metric that neither a panel nor an alert shows is one that nobody would miss."""
    shown = {SERIES[name].name for _, query in queries() for name in named(query)}
    assert {metric.name for metric in TABLE} - shown == set()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    """The dashboard is laid out on Grafana's grid of 24 columns."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & taken, panel["title"]
        taken |= mine


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    """Each has a severity, a line of summary and a description; names are said once."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def promtool(*words: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own tool."""
    return subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@tool
def test_prometheus_reads_rules_and_configuration() -> None:
    """Its own tool finds nothing to object to."""
    for words in (("check", "rules", "alerts.yaml"), ("check", "config", "prometheus.yaml")):
        done = promtool(*words)
        assert done.returncode == 0, done.stderr + done.stdout


@tool
def test_every_alert_fires_and_keeps_silent_as_it_should() -> None:
    """Unit tests of the rules pass, and there is one that fires and one that does not for every alert."""
    done = promtool("test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    tested: dict[str, set[bool]] = {}
    for scene in yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]:
        for case in scene["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tested == {rule["alert"]: {True, False} for rule in rules()}


@tool
def test_a_rule_whose_threshold_is_moved_fails_its_test(tmp_path: Path) -> None:
    """The unit tests would notice: with other thresholds they fail."""
    text = (FOLDER / "alerts.yaml").read_text()
    for number, (before, after) in enumerate(
        [
            ("> 3600\n", "> 36000\n"),
            ("< 0.05", "< 0.005"),
            (">= 0.9", ">= 0.99"),
            ("> 200\n        labels", "> 2000\n        labels"),
        ]
    ):
        assert before in text
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "alerts.yaml").write_text(text.replace(before, after, 1))
        shutil.copy(FOLDER / "alerts_test.yaml", folder)
        assert promtool("test", "rules", "alerts_test.yaml", cwd=folder).returncode == 1, before


@tool
def test_prometheus_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """With its variables filled in, each is a well-formed query."""
    asked = [t["expr"] for p in dashboard()["panels"] for t in p.get("targets", ())]
    filled = [re.sub(r"\$(dataset|run)\b", ".*", query) for query in asked]
    body = {"groups": [{"name": "q", "rules": [{"record": f"q:{n}", "expr": q} for n, q in enumerate(filled)]}]}
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump(body))
    done = promtool("check", "rules", "queries.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_pod_monitor_scrapes_the_port_that_kuberay_names() -> None:
    """It asks for the port `metrics` of every pod of a Ray cluster, as often as the rest of Prometheus."""
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    assert monitor["kind"] == "PodMonitor"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "10s"}]
    assert monitor["spec"]["selector"]["matchExpressions"][0]["key"] == "ray.io/cluster"


def test_the_readme_lists_every_metric_as_the_table_has_it() -> None:
    """Name, kind, labels and meaning of each stand in one row, and no other row is there."""
    text = (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| `(ray_facemint_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(m.exposed, m.kind.value, ", ".join(f"`{n}`" for n in m.labels), m.help) for m in TABLE]
    assert set(re.findall(r"`(Facemint\w+)`", text)) == {rule["alert"] for rule in rules()}
