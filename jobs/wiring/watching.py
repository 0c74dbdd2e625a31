"""Watching a run from outside: metrics, JSON logs, and the summary that somebody is sent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.logs import EventLog, json_lines
from jobs.wiring.local_files import write_whole
from pipeline.domain.errors import FacemintError
from pipeline.domain.manifest import canonical_json

if TYPE_CHECKING:
    from pipeline.domain.ports import Observer
    from pipeline.domain.recipe import Recipe
    from pipeline.execute.metering import Metering
    from pipeline.execute.metrics import Book
    from pipeline.execute.run import Published
    from pipeline.execute.session import Session


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a run is told of, beside the terminal.

    Attributes:
        summary: a file, or an http(s) address that it is posted to.
        metrics_file: a file in the text format of Prometheus, rewritten every few seconds.
        log_json: whether logs are JSON lines.
    """

    summary: str | None = None
    metrics_file: str | None = None
    log_json: bool = False


class TextFile:
    """Implements `metering.Sink`: a file that node exporters and people read."""

    def __init__(self, path: Path) -> None:
        """Keep where it is."""
        self._path = path
        self._failed = False

    def write(self, book: Book) -> None:
        """Replace the file by what the book says; a disk that is full ends no run, and is told once."""
        try:
            write_whole(self._path, book.text().encode())
            self._failed = False
        except FacemintError as error:
            if not self._failed:
                logging.getLogger("facemint").warning("metrics: %s", str(error).removeprefix("--out "))
            self._failed = True


class Watch:
    """Implements `ports.Observer` for a whole run: hands its events to whoever watches.

    Args:
        recipe: of the run.
        uri: the dataset.
        view: shows the run to people.
        outlets: where else it is told of.
    """

    def __init__(self, recipe: Recipe, uri: str, view: Observer, outlets: Outlets) -> None:
        from pipeline.adapters.machine import SystemClock
        from pipeline.execute.spending import spending_of
        from pipeline.execute.summary import Account

        self._recipe, self._uri, self._outlets, self._clock = recipe, uri, outlets, SystemClock()
        # of a run that never opens nothing is spent
        self.spending = spending_of(recipe.compute, self._clock)
        self.account = Account(self._clock)
        self._watchers: list[Observer] = [view, self.account]
        self._metering: Metering | None = None
        self._session: Session | None = None
        self._published: Published | None = None
        self._logs = ExitStack()

    def event(self, kind: str, **facts: Any) -> None:
        """Hand one event on."""
        for watcher in self._watchers:
            watcher.event(kind, **facts)
        if kind == "ending" and self._metering is not None:
            # an engine that is about to be left takes the last numbers with it
            self._metering.end(status_of(sys.exc_info()[1]))

    def begin(self, session: Session) -> Session:
        """Watch a session from now on, and return it."""
        from pipeline.execute.metering import Metering, Sink
        from pipeline.execute.metrics import Book

        self._session, self.spending = session, session.spending
        run = str(session.lease.holder["run"])
        book = Book(self._recipe.name, run)
        sinks: list[Sink] = []
        if self._recipe.compute.executor == "ray":
            from pipeline.execute.on_ray import RayMetrics

            sinks.append(RayMetrics(book.common))
        if self._outlets.metrics_file:
            sinks.append(TextFile(Path(self._outlets.metrics_file)))
        self._metering = Metering(book, self.spending, self._clock, sinks)
        self._watchers.append(self._metering)
        if self._outlets.log_json:
            ids = {"run": run, "dataset": self._uri, "recipe": self._recipe.name}
            self._watchers.append(EventLog(self._logs.enter_context(json_lines(ids))))
        self._metering.begin(session)
        return session

    def publish(self, published: Published) -> Published:
        """Take note of what the run ended with, and return it."""
        self._published = published
        return published

    def end(self, error: BaseException | None) -> None:
        """Tell how the run ended: in metrics, logs and the summary."""
        status = status_of(error)
        if self._metering is not None:
            self._metering.end(status)
        facts = self.summary(error, status)
        if self._session is not None:
            # told by its own line, so that whoever reads logs alone knows how it ended
            self.event("ended", status=status, outcome=facts["outcome"], error=facts["error"], cost=facts["cost"])
        self._logs.close()
        if self._outlets.summary is not None:
            deliver(facts, self._outlets.summary)

    def summary(self, error: BaseException | None, status: int) -> dict[str, Any]:
        """Return what a run is summed up by."""
        from importlib.metadata import version

        from pipeline.execute import summary

        busy = self._session is None and error is None
        facts: dict[str, Any] = {
            "schema": summary.SCHEMA,
            "facemint": version("facemint"),
            "recipe": self._recipe.name,
            "dataset": self._uri,
            "run": str(self._session.lease.holder["run"]) if self._session else None,
            "outcome": "busy" if busy else summary.OUTCOMES.get(status, "failed"),
            "exit_status": status,
            "error": " ".join(str(error).split()) or type(error).__name__ if error is not None else None,
            **self.account.times(),
            "published": None,
            "cost": self.account.cost(self.spending),
            "work": self.account.work(),
        }
        if self._published is not None and self._session is not None:
            manifest, store = self._published.manifest, self._session.parts.store
            try:
                facts["published"] = summary.version_facts(store, manifest, fresh=not self._published.resumed)
            except FacemintError as unread:
                # the version stands; a store that fails now is no reason to call the run failed
                logging.getLogger("facemint").warning("summary: %s", unread)
        return {**facts, "text": summary.told(facts)}


@contextmanager
def watched(recipe: Recipe, uri: str, view: Observer, outlets: Outlets) -> Iterator[Watch]:
    """Watch a run while the block lasts, and tell how it ended, whatever it ended with."""
    watch = Watch(recipe, uri, view, outlets)
    try:
        yield watch
    except BaseException as error:
        watch.end(error)
        raise
    watch.end(None)


def status_of(error: BaseException | None) -> int:
    """Return the exit status that an error ends a command with."""
    if error is None:
        return 0
    if isinstance(error, FacemintError):
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def deliver(summary: dict[str, Any], place: str) -> None:
    """Write a summary to a file or post it; what goes wrong is told, and changes nothing about the run."""
    from pipeline.adapters.webhook import is_webhook, post

    try:
        if is_webhook(place):
            post(place, canonical_json(summary))
        else:
            write_whole(Path(place), canonical_json(summary))
    except FacemintError as error:
        logging.getLogger("facemint").warning("summary: %s", str(error).removeprefix("--out "))
