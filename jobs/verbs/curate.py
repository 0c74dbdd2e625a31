"""`facemint curate`: images that exist already become a dataset, every input accounted for."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import (
    AddressOption,
    BudgetOption,
    DeadlineOption,
    DeepOption,
    ExecutorOption,
    IfBusyOption,
    JsonOption,
    LogFormat,
    LogFormatOption,
    MetricsFileOption,
    OutOption,
    RecipeArgument,
    RetryOption,
    SetOption,
    SummaryOption,
    WorkersOption,
    compute_overrides,
    limit_overrides,
    outlets_of,
    print_json,
)
from jobs.busy import IfBusy, unless_busy


def curate(
    recipe: RecipeArgument,
    out: OutOption,
    set_: SetOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    deep: DeepOption = False,
    retry_quarantined: RetryOption = False,
    hold: Annotated[
        bool,
        typer.Option("--hold", help="Stop before images are written, so that the review queue can be gone through."),
    ] = False,
    decisions: Annotated[
        str | None, typer.Option("--decisions", metavar="FILE", help="The review queue, given back with decisions.")
    ] = None,
    if_busy: IfBusyOption = IfBusy.FAIL,
    budget: BudgetOption = None,
    deadline: DeadlineOption = None,
    summary: SummaryOption = None,
    metrics_file: MetricsFileOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    json_: JsonOption = False,
) -> None:
    """Curate face images that exist already: decode, find the face, clean labels, filter, write.

    Every input ends as kept, refused or unreadable, with a reason. Running the same command again resumes; once a
    version is published it grows by what the sources hold beside it. Embeddings, attributes and paths of real people
    stay under private/.
    """
    from jobs import show, show_curate, wiring
    from pipeline.execute.curating import curate as run
    from pipeline.execute.stop import Stop, on_signals

    outlets = outlets_of(summary, metrics_file, log_format)
    overrides = [*(set_ or []), *compute_overrides(executor, workers, address), *limit_overrides(budget, deadline)]
    loaded = wiring.load_recipe(recipe, overrides)
    reviewed = wiring.reviewed_of(decisions, hold=hold)
    quiet = json_ or outlets.log_json
    with (
        on_signals(Stop()) as stop,
        show.observer(quiet=quiet, title=f"{loaded.name} -> {out}") as view,
        wiring.watched(loaded, out, view, outlets) as watch,
    ):
        opened = unless_busy(
            lambda: wiring.open_curation(loaded, out, watch, stop=stop, deep=deep, retry_quarantined=retry_quarantined),
            if_busy,
            stop.check,
        )
        if opened is None:
            return
        session, kit = opened
        made = run(watch.begin(session), kit, reviewed)
        published = None if made is None else watch.publish(made)
    if published is None:
        print_json({"held": True, "review": f"{out}/private/review"}) if json_ else show_curate.print_held(out)
    elif json_:
        print_json({**show.published_json(published, out), "inputs": published.manifest.counts["inputs"]})
    else:
        show_curate.print_curated(published, out, view)
