"""The command line: verbs, and nothing else. Imports neither numpy nor torch until a verb runs."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from typing import Annotated, Any

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
    RehearseOption,
    RetryOption,
    SetOption,
    SummaryOption,
    UriArgument,
    WorkersOption,
    compute_overrides,
    limit_overrides,
    outlets_of,
    print_json,
)
from jobs.busy import IfBusy, unless_busy
from jobs.verbs.bank import bank
from jobs.verbs.calibrate import calibrate
from jobs.verbs.calibrate_crop import calibrate_crop
from jobs.verbs.curate import curate
from jobs.verbs.diff import diff
from jobs.verbs.erase import erase
from jobs.verbs.evaluate import evaluate
from jobs.verbs.export import export
from jobs.verbs.measure import measure
from jobs.verbs.merge import merge
from jobs.verbs.models import models
from jobs.verbs.prove import prove
from jobs.verbs.quantiles import quantiles
from jobs.verbs.reclean import reclean
from jobs.verbs.refilter import refilter
from jobs.verbs.report import report
from jobs.verbs.sign import sign
from jobs.verbs.split import split
from jobs.verbs.submit import submit
from pipeline.domain.errors import FacemintError, RecipeError, UserError

app = typer.Typer(
    name="facemint",
    help="Mint synthetic face datasets: balanced identities, filtered images, checksummed shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"facemint {version('facemint')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    recipe: RecipeArgument,
    out: OutOption,
    set_: SetOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Publish even where places stayed open; the manifest says which.")
    ] = False,
    deep: DeepOption = False,
    rehearse: RehearseOption = False,
    retry_quarantined: RetryOption = False,
    if_busy: IfBusyOption = IfBusy.FAIL,
    budget: BudgetOption = None,
    deadline: DeadlineOption = None,
    summary: SummaryOption = None,
    metrics_file: MetricsFileOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    json_: JsonOption = False,
) -> None:
    """Mint a dataset from a recipe.

    Running the same command again resumes, and never repeats committed work. With a larger recipe (more identities,
    more images of each, a new cell) a published dataset grows: what was made before stays as it is. A schedule grows
    it by `--set identities.count=+20`: twenty more than the newest version was asked for.
    """
    from jobs import show, wiring

    outlets = outlets_of(summary, metrics_file, log_format)
    overrides = [*(set_ or []), *compute_overrides(executor, workers, address), *limit_overrides(budget, deadline)]
    from pipeline.domain.privacy import holds_people
    from pipeline.execute.run import generate as run
    from pipeline.execute.stop import Stop, on_signals

    loaded = wiring.load_recipe(recipe, wiring.grown(overrides, out), rehearse=rehearse)
    if holds_people(loaded):
        raise RecipeError(f"{recipe}: is of kind: curate, and makes no image; run `facemint curate`")
    quiet = json_ or outlets.log_json
    with (
        on_signals(Stop()) as stop,
        show.observer(quiet=quiet, title=f"{loaded.name} -> {out}") as view,
        wiring.watched(loaded, out, view, outlets) as watch,
    ):
        session = unless_busy(
            lambda: wiring.open_session(
                loaded, out, watch,
                stop=stop, allow_short=allow_short, deep=deep, retry_quarantined=retry_quarantined,
            ),
            if_busy,
            stop.check,
        )  # fmt: skip
        if session is None:
            return
        published = watch.publish(run(watch.begin(session)))
    if json_:
        print_json(show.published_json(published, out))
    else:
        show.print_published(published, out, view)


@app.command()
def plan(
    recipe: RecipeArgument,
    out: Annotated[
        str | None, typer.Option("--out", metavar="URI", help="A dataset: say what would be added to it.")
    ] = None,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reckon the time on so many workers; default one per CPU.")
    ] = None,
    rehearse: RehearseOption = False,
    json_: JsonOption = False,
) -> None:
    """Say what a run would make, and what it would cost; write nothing.

    Time and bytes come from a few batches made on this machine, or from the dataset's own units where it has some.
    Weights need not be here: then no time is reckoned.
    """
    from jobs import show_curate, show_plan, wiring
    from pipeline.domain.privacy import holds_people

    loaded = wiring.load_recipe(recipe, wiring.grown(set_ or [], out), rehearse=rehearse, unfetched=True)
    if holds_people(loaded):
        facts = wiring.plan_curation(loaded, out, workers)
        print_json(facts) if json_ else show_curate.print_forecast(facts)
        return
    facts = wiring.plan_run(loaded, out, workers)
    print_json(facts) if json_ else show_plan.print_plan(facts)


@app.command()
def status(uri: UriArgument, json_: JsonOption = False) -> None:
    """Show how far a dataset is.

    Units committed, candidates by stage, versions published, and who holds it.
    """
    from jobs import show, wiring

    facts = wiring.dataset_status(uri)
    print_json(facts) if json_ else show.print_status(facts)


@app.command()
def verify(
    uri: UriArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read everything: hash every file, decode images that no audit vouches for.")
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Like --deep, and decode every image, whatever an audit found.")
    ] = False,
    gc: Annotated[
        bool, typer.Option("--gc", help="List files that nothing names, and what killed writers left.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --gc: remove them.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="With --gc: hours for which such a file is left alone.", metavar="HOURS")
    ] = 24.0,
    json_: JsonOption = False,
) -> None:
    """Hold what is stored against receipts, manifests and exports.

    Exit status 7 where something is missing or altered. Units that are damaged are made again, they alone, by running
    the generate command once more (with --deep where only --deep finds them).
    """
    from jobs import show, wiring

    if yes and not gc:
        raise UserError("--yes: removes what --gc lists; give both")
    with show.observer(quiet=json_ or not (deep or decode), title=f"verify {uri}") as view:
        facts = wiring.verify_dataset(uri, view, deep=deep or decode, decode=decode, gc=gc, remove=yes, grace_h=grace)
    print_json(facts) if json_ else show.print_verify(facts)
    if facts["problems"]:
        raise typer.Exit(7)


@app.command()
def digest(uri: UriArgument) -> None:
    """Print the digest of the newest version.

    SHA-256 over the sorted paths and digests of its segments and index.
    """
    from jobs import wiring

    typer.echo(wiring.newest_manifest(uri).digest)


app.command()(curate)
app.command()(export)
app.command()(calibrate)
app.command("calibrate-crop")(calibrate_crop)
app.command()(quantiles)
app.command()(refilter)
app.command()(reclean)
app.command()(erase)
app.command()(report)
app.command()(measure)
app.command()(evaluate)
app.command()(prove)
app.command()(sign)
app.command()(split)
app.command()(diff)
app.command()(merge)
app.command()(submit)
app.add_typer(bank, name="bank")
app.add_typer(models, name="models")


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A recipe; left out: list the shipped ones.")
    ] = None,
    set_: SetOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of every recipe key instead.")
    ] = False,
) -> None:
    """Check a recipe, or list the shipped ones.

    A checked recipe is printed with every default filled in.
    """
    import yaml

    from jobs import recipe_file, wiring

    if schema:
        print_json(wiring.full_model().model_json_schema())
    elif name is None:
        typer.echo("\n".join(recipe_file.shipped_recipes()))
    else:
        loaded = wiring.load_recipe(name, set_ or [], unfetched=True)
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), nl=False)


def _terminated(signum: int, _frame: Any) -> None:
    # an exception, not an exit: the run's `finally` clauses let the lease and the workers go
    raise SystemExit(128 + signum)


def _leave_at_the_end(status: list[int]) -> None:
    """Have this process end, after all that is to run at its end, before the libraries' own ends.

    Arrow's pool of threads was seen to abort a process that had done its work: one of its threads was still starting
    when C++ took the pool down. What was registered first runs last.
    """

    def leave() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status[0])

    atexit.register(leave)


def main() -> None:
    """Run the command line; the exit status says how it ended."""
    status = [1]
    _leave_at_the_end(status)
    try:
        _run()
        status[0] = 0
    except SystemExit as end:
        status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _run() -> None:
    # read by the thread pools of torch and numpy when they are first imported, so set before any verb imports them;
    # set whatever stands there, because more threads change the order of sums
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except FacemintError as error:
        typer.echo(f"facemint: {error}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as end:
        # typer turns an interrupt into this status before we see it
        if end.code == 130:
            typer.echo("facemint: interrupted; run the same command again to resume", err=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
