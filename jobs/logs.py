"""Structured logs: one JSON object per line on standard error, each with the ids of run, unit and worker."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pipeline.domain.manifest import Receipt
    from pipeline.domain.ports import Worker
    from pipeline.domain.unit import Unit

NAME = "facemint"
VARIABLE = "FACEMINT_LOG_FORMAT"
"""What workers in other processes are told by, and what a manifest may set: `json` or `text`."""
_unit: ContextVar[str | None] = ContextVar("unit", default=None)
_SAID = ("event", "unit", "worker", "facts")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON.

    Args:
        ids: what every line states: run, dataset and, in a worker, which worker.
    """

    def __init__(self, ids: Mapping[str, Any]) -> None:
        super().__init__()
        self._ids = dict(ids)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values that are no JSON are told as text."""
        said = {k: getattr(record, k) for k in _SAID if getattr(record, k, None) is not None}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._ids,
            **({"unit": _unit.get()} if _unit.get() else {}),
            **said,
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


@contextmanager
def json_lines(ids: Mapping[str, Any], stream: TextIO | None = None) -> Iterator[logging.Logger]:
    """Write what is logged as JSON while the block lasts; afterwards everything is as it was."""
    log = logging.getLogger(NAME)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(ids))
    before = (log.level, log.propagate, log.handlers[:])
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    try:
        yield log
    finally:
        log.level, log.propagate, log.handlers = before
        log.setLevel(before[0])


class EventLog:
    """Implements `ports.Observer`: every event of a run is a line."""

    def __init__(self, log: logging.Logger) -> None:
        """Keep where lines go."""
        self._log = log

    def event(self, kind: str, **facts: Any) -> None:
        """Write one event."""
        if kind == "unit":
            receipt: Receipt = facts["receipt"]
            worker = {k: receipt.run.get(k) for k in ("host", "pid", "device_kind")}
            told = {"counts": receipt.counts.to_dict(), "stage": receipt.unit["stage"]}
            told |= {k: receipt.run.get(k) for k in ("start_s", "end_s")}
            self._say(kind, f"{receipt.name} is committed", unit=receipt.name, worker=worker, facts=told)
        elif kind in ("lost", "death"):
            said = {k: facts.get(k) for k in ("unit", "worker")}
            self._say(
                kind, f"a worker was lost: {facts['why']}", logging.WARNING, **said, facts={"by": facts.get("by")}
            )
        elif kind == "quarantined":
            self._say(kind, f"{len(facts['units'])} units are quarantined", logging.ERROR, facts=facts)
        elif kind != "separating":
            self._say(kind, kind, facts=_plain(facts))

    def _say(self, event: str, message: str, level: int = logging.INFO, **extra: Any) -> None:
        self._log.log(level, message, extra={"event": event, **extra})


class LoggedWorker:
    """Implements `ports.Worker` around another: what is logged while it works a unit states that unit."""

    def __init__(self, worker: Worker) -> None:
        """Keep the worker that does the work."""
        self._worker = worker

    def device_kind(self) -> str:
        """Return the device kind of the worker within."""
        return self._worker.device_kind()

    def work(self, unit: Unit) -> Receipt:
        """Do one unit, and say when it began and ended."""
        log, token = logging.getLogger(NAME), _unit.set(unit.name)
        log.info("began", extra={"event": "began"})
        try:
            receipt = self._worker.work(unit)
            log.info("ended", extra={"event": "ended", "facts": {"counts": receipt.counts.to_dict()}})
            return receipt
        except Exception:
            log.exception("failed", extra={"event": "failed"})
            raise
        finally:
            _unit.reset(token)


def wants_json_logs() -> bool:
    """Return whether logs shall be JSON lines."""
    return os.environ.get(VARIABLE) == "json"


def logged(worker: Worker, facts: Mapping[str, Any]) -> Worker:
    """Return a worker whose process logs JSON lines from now on, each with the ids of run and worker."""
    handler = logging.StreamHandler(sys.stderr)
    who = {"worker": {k: facts.get(k) for k in ("host", "pid", "device_kind")}}
    handler.setFormatter(JsonLines({"run": facts.get("run"), "dataset": facts.get("dataset"), **who}))
    log = logging.getLogger(NAME)
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    return LoggedWorker(worker)


def _plain(value: Any) -> Any:
    """Return facts ready for JSON: keys may be cells, and values may be anything."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
