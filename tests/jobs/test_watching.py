"""What a run tells beside the terminal: summaries to files and webhooks, JSON lines, metrics in a file."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs import wiring
from jobs.logs import EventLog, LoggedWorker, json_lines
from jobs.wiring.watching import deliver
from pipeline.adapters.stores import LocalStore
from pipeline.adapters.webhook import TRIES, WebhookError, post
from pipeline.domain.errors import LeaseHeldError, OutputError, TargetNotReachedError
from pipeline.execute.run import generate
from pipeline.flow.commit import receipts
from tests.crawls import crawl, crawled
from tests.execute.toys import Toy, units
from tests.jobs.test_cli import facemint
from tests.jobs.test_nightly import written
from tests.watching import SMALL, mint_watched
from tests.worlds import Silent, bytes_of, mint, sketches


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted, and answers as it was told to."""

    answers: list[int] = []
    posted: list[tuple[str, bytes]] = []

    def do_POST(self) -> None:
        """Take one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, body))
        self.send_response(self.answers.pop(0) if self.answers else 204)
        self.end_headers()

    def log_message(self, *_said: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[str]:
    """Return the address of a webhook on loopback."""
    Hook.answers, Hook.posted = [], []
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_summary_is_posted_and_says_what_was_added(tmp_path: Path, hook: str) -> None:
    """The webhook is sent the JSON object that a file would hold, once."""
    watched = mint_watched(tmp_path, summary=hook)
    ((path, body),) = Hook.posted
    said = json.loads(body)
    assert path == "/secret"
    assert said["run"] == str(next(iter(receipts(watched.store).values())).run["run"])
    assert said["published"]["digest"] == watched.published.manifest.digest
    assert said["published"]["added"]["images"] == watched.published.manifest.counts["images"]
    assert "v000001 with 4 new identities" in said["text"]


def test_a_run_that_made_nothing_says_that_nothing_was_added(tmp_path: Path) -> None:
    """The version stands already: it is named, adds nothing, and cost no image."""
    mint_watched(tmp_path)
    mint_watched(tmp_path, summary="s.json")
    said = json.loads((tmp_path / "s.json").read_text())
    assert said["published"]["version"] == "v000001"
    assert set(said["published"]["added"].values()) == {0}
    assert said["cost"]["images_made"] == said["cost"]["unit_s"] == 0


def test_a_run_that_failed_is_summed_up_too(tmp_path: Path) -> None:
    """Its error is told in one line with the exit status, and what it made and cost until then."""
    filters = [{"use": "own-template", "fmr": 1e-2}, {"use": "range", "measure": "yaw_deg", "min": 89}]
    with pytest.raises(TargetNotReachedError):
        mint_watched(tmp_path, summary="s.json", metrics_file="m.prom", recipe={"filters": filters, "attempts": 1})
    said = json.loads((tmp_path / "s.json").read_text())
    assert (said["outcome"], said["exit_status"], said["published"]) == ("target not reached", 4, None)
    assert said["error"].startswith("no identity could be filled")
    assert said["work"]["stages"]["make"]["accepted"] == 0
    assert said["cost"]["images_made"] == said["work"]["stages"]["make"]["candidates"] > 0
    assert 'run_ended_timestamp_seconds{dataset="sketches"' in (tmp_path / "m.prom").read_text()
    assert 'status="4"' in (tmp_path / "m.prom").read_text()


def test_a_run_that_found_the_dataset_held_says_so(tmp_path: Path) -> None:
    """Nothing was opened, so there is no run; the outcome is busy with the status that the command ends with."""
    recipe, store = sketches(), LocalStore(tmp_path / "set")
    held = wiring.session_on(recipe, store, Silent())
    outlets = wiring.Outlets(summary=str(tmp_path / "s.json"))
    with (
        pytest.raises(LeaseHeldError),
        wiring.watched(recipe, store.uri, Silent(), outlets) as watch,
    ):
        wiring.session_on(recipe, store, watch)
    held.lease.release()
    said = json.loads((tmp_path / "s.json").read_text())
    assert (said["outcome"], said["exit_status"], said["run"]) == ("busy", 5, None)
    with wiring.watched(recipe, store.uri, Silent(), outlets):
        """With --if-busy ok the command ends here, and that is no failure."""
    said = json.loads((tmp_path / "s.json").read_text())
    assert (said["outcome"], said["exit_status"], said["error"]) == ("busy", 0, None)


def test_a_webhook_is_tried_again_where_that_may_help(hook: str) -> None:
    """A server that is down for a moment gets it the second time; one that refuses is asked once."""
    pauses: list[float] = []
    Hook.answers = [503, 200]
    post(hook, b"{}", sleep=pauses.append)
    assert len(Hook.posted) == 2
    assert pauses == [2.0]
    Hook.answers = [403]
    with pytest.raises(WebhookError, match=r"^127.0.0.1 did not take the summary \(status 403\)") as caught:
        post(hook, b"{}", sleep=pauses.append)
    assert "secret" not in str(caught.value)
    assert len(Hook.posted) == 3
    Hook.answers = [500] * TRIES
    with pytest.raises(WebhookError, match="status 500"):
        post(hook, b"{}", sleep=pauses.append)
    assert len(Hook.posted) == 3 + TRIES


def test_a_summary_or_metrics_that_nobody_takes_change_nothing_about_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is published; one warning each says what went wrong, without what may be secret."""
    monkeypatch.setattr("pipeline.adapters.webhook.PAUSE_S", 0.0)
    with caplog.at_level(logging.WARNING, "facemint"):
        watched = mint_watched(tmp_path, summary="http://127.0.0.1:1/secret", metrics_file="no/such/folder/m.prom")
    assert watched.published.manifest.version == "v000001"
    said = [r.getMessage() for r in caplog.records]
    assert [text.partition(":")[0] for text in said] == ["metrics", "summary"]
    assert "secret" not in caplog.text
    deliver({}, str(tmp_path / "nowhere" / "s.json"))
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("place", ["http://", "https:///path"])
def test_an_address_without_a_host_is_refused(place: str) -> None:
    """It is a mistake of the user's, told in one line."""
    from pipeline.adapters.webhook import is_webhook
    from pipeline.domain.errors import UserError

    with pytest.raises(UserError, match="without a host"):
        is_webhook(place)


def test_logs_are_one_json_object_a_line_with_the_ids_of_run_and_unit(tmp_path: Path) -> None:
    """Through the command line: every line parses, names the run, and each unit has one line that names its worker."""
    done = facemint(
        "generate", str(written(tmp_path)), "--out", str(tmp_path / "set"), "--log-format", "json", "--json"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    stored = receipts(LocalStore(tmp_path / "set"))
    assert {line["run"] for line in lines} == {str(next(iter(stored.values())).run["run"])}
    told = {line["unit"]: line for line in lines if line["event"] == "unit"}
    assert set(told) == {name for name, r in stored.items() if r.unit["stage"] != "enrolled"}
    for name, line in told.items():
        assert line["worker"]["pid"] == stored[name].run["pid"]
        assert line["facts"]["counts"] == stored[name].counts.to_dict()
    assert (lines[-1]["event"], lines[-1]["facts"]["outcome"]) == ("ended", "done")
    json.loads(done.stdout)


def test_warnings_of_the_pool_name_unit_and_worker_in_their_own_fields() -> None:
    """What a person reads in a sentence, a machine finds under a key; what is no JSON is told as text."""
    stream = io.StringIO()
    with json_lines({"run": "r1"}, stream) as log:
        log.warning("%s: death", "make-g0-000001", extra={"unit": "make-g0-000001", "worker": {"pid": 7}})
        EventLog(log).event("lost", by="node", why="gone", unit=None, worker={"host": "a"})
        EventLog(log).event("enrolled", have={("a", "b"): 3}, wanted=Path("x"))
        try:
            raise OutputError("no place")
        except OutputError:
            log.exception("failed")
    death, lost, enrolled, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (death["level"], death["unit"], death["worker"]) == ("warning", "make-g0-000001", {"pid": 7})
    assert (lost["event"], lost["worker"], lost["facts"]) == ("lost", {"host": "a"}, {"by": "node"})
    assert enrolled["facts"] == {"have": {"('a', 'b')": 3}, "wanted": "x"}
    assert "OutputError: no place" in failed["trace"]


def test_a_worker_names_its_unit_in_whatever_it_logs(tmp_path: Path) -> None:
    """Lines that foreign code writes while a unit is worked carry the unit; afterwards none does."""
    toy, stream = Toy(tmp_path, {1: "error"}), io.StringIO()
    with json_lines({"run": "r1", "worker": {"pid": 1}}, stream) as log:
        worker = LoggedWorker(toy())
        worker.work(units(0)[0])
        with pytest.raises(Exception, match="impossible"):
            worker.work(units(1)[0])
        log.info("between units")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line.get("event"), line.get("unit")) for line in lines] == [
        ("began", "make-g0-000000"),
        ("ended", "make-g0-000000"),
        ("began", "make-g0-000001"),
        ("failed", "make-g0-000001"),
        (None, None),
    ]


def test_watching_changes_no_byte(tmp_path: Path) -> None:
    """A dataset made under every eye is that of a run that nobody watched."""
    plain = LocalStore(tmp_path / "plain")
    mint(sketches(**SMALL), plain)
    watched = mint_watched(tmp_path, metrics_file="m.prom", summary="s.json", log_json=True)
    assert bytes_of(watched.store) == bytes_of(plain)


def test_a_curation_is_watched_like_any_run(tmp_path: Path) -> None:
    """What images that existed already became is summed up by its own stages, and counted in the same metrics."""
    from pipeline.execute.curating import curate

    root = crawl(tmp_path, {f"p{n}": range(4) for n in range(4)})
    recipe, store = crawled(root), LocalStore(tmp_path / "set")
    outlets = wiring.Outlets(str(tmp_path / "s.json"), str(tmp_path / "m.prom"))
    with wiring.watched(recipe, store.uri, Silent(), outlets) as watch:
        session, kit = wiring.curation_on(recipe, store, watch)
        manifest = watch.publish(curate(watch.begin(session), kit)).manifest
    said = json.loads((tmp_path / "s.json").read_text())
    assert said["published"]["added"]["images"] == manifest.counts["images"] > 0
    stages = said["work"]["stages"]
    assert said["cost"]["images_made"] == stages["make"]["candidates"] > 0
    stored = Counter(r.unit["stage"] for r in receipts(store).values())
    assert {stage: numbers["units"] for stage, numbers in stages.items()} == {k: stored[k] for k in stages}
    assert "ingest" in stages
    text = (tmp_path / "m.prom").read_text()
    assert f'ray_facemint_units_total{{dataset="{recipe.name}",run="{said["run"]}",stage="ingest"}}' in text


def test_a_store_that_fails_after_the_end_fails_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The parent's manifest cannot be read when the summary is written: it says so, and the run has ended well."""
    mint_watched(tmp_path)
    recipe, store = sketches(identities={**SMALL["identities"], "count": 6}), LocalStore(tmp_path / "set")
    outlets = wiring.Outlets(summary=str(tmp_path / "s.json"))
    with (
        caplog.at_level(logging.WARNING, "facemint"),
        wiring.watched(recipe, store.uri, Silent(), outlets) as watch,
    ):
        watch.publish(generate(watch.begin(wiring.session_on(recipe, store, watch))))
        store.delete("versions/v000001/manifest.json")
    said = json.loads((tmp_path / "s.json").read_text())
    assert (said["outcome"], said["published"]) == ("done", None)
    assert "versions/v000001/manifest.json: missing" in caplog.text
