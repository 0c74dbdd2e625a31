"""Arguments and options that several verbs share, and how a verb prints JSON."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.busy import IfBusy

if TYPE_CHECKING:
    from jobs.wiring.watching import Outlets


class LogFormat(StrEnum):
    """How logs are written."""

    TEXT = "text"
    JSON = "json"


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
UriArgument = Annotated[
    str, typer.Argument(metavar="URI", help="Where the dataset lies: a folder, s3://bucket/set, or another address.")
]
OutOption = Annotated[
    str, typer.Option("--out", metavar="URI", help="Where to write: a folder, s3://bucket/set, or another address.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=VALUE", help="Override one recipe key; repeat for more."),
]
RehearseOption = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="A dozen identities with made-up weights on this CPU, nothing refused: does it all run?"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

DeepOption = Annotated[
    bool, typer.Option("--deep", help="Hash what stands again, and make units anew whose bytes are altered.")
]
RetryOption = Annotated[
    bool, typer.Option("--retry-quarantined", help="Try units again that killed their worker three times.")
]

ExecutorOption = Annotated[str | None, typer.Option("--executor", help="ray or inline; default as the recipe says.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Workers; default one per CPU.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="A running Ray cluster; default: start Ray here.")]

BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="WHAT=N",
        help="Stop cleanly (exit 6) once this run has spent gpu-hours=N, worker-hours=N or images=N; repeat for more.",
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="WHEN",
        help="Stop cleanly (exit 6) after a duration (6h, 90min), or at 06:00Z or 2031-05-01T06:00Z.",
    ),
]
SummaryOption = Annotated[
    str | None,
    typer.Option(
        "--summary",
        metavar="PATH|URL",
        help="At the end, however it ends: write what was added and what it cost as JSON, or post it there.",
    ),
]
MetricsFileOption = Annotated[
    str | None,
    typer.Option("--metrics-file", metavar="PATH", help="Keep the run's metrics there, in Prometheus' text format."),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar="FACEMINT_LOG_FORMAT", help="Logs on standard error: text, or JSON lines."),
]

IfBusyOption = Annotated[
    IfBusy,
    typer.Option(
        "--if-busy",
        help="Where another run holds the dataset: fail (exit 5), ok (exit 0), or wait until a dead one's hold ends.",
    ),
]


def compute_overrides(executor: str | None, workers: int | None, address: str | None) -> list[str]:
    """Return what was given of where to run, as overrides of a recipe's `compute`."""
    given = {"executor": executor, "workers": workers, "address": address}
    return [f"compute.{key}={value}" for key, value in given.items() if value is not None]


def limit_overrides(budget: list[str] | None, deadline: str | None) -> list[str]:
    """Return what was given of a run's limits, as overrides of a recipe's `compute`."""
    from pipeline.domain.spending import budget_overrides

    # quoted, or YAML would read a moment as one of its own
    return [*budget_overrides(budget or ()), *([f'compute.deadline="{deadline}"'] if deadline is not None else [])]


def outlets_of(summary: str | None, metrics_file: str | None, log_format: LogFormat) -> Outlets:
    """Return where a run is told of; workers in other processes log in the same format."""
    from jobs.wiring.watching import Outlets

    os.environ["FACEMINT_LOG_FORMAT"] = log_format.value
    return Outlets(summary, metrics_file, log_format is LogFormat.JSON)


def print_json(value: Any) -> None:
    """Print one JSON object, its keys sorted."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
