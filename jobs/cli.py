"""The command line: verbs, and nothing else. Imports neither numpy nor torch until a verb runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Annotated, Any

import typer

from pipeline.domain.errors import FacemintError

app = typer.Typer(
    name="facemint",
    help="Mint synthetic face datasets: balanced identities, filtered images, checksummed shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
UriArgument = Annotated[str, typer.Argument(metavar="URI", help="Where the dataset lies: a folder or file:// URI.")]
OutOption = Annotated[str, typer.Option("--out", metavar="URI", help="Where to write: a folder or file:// URI.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=VALUE", help="Override one recipe key; repeat for more."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


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
    executor: Annotated[str | None, typer.Option(help="ray or inline; default as the recipe says (ray).")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers; default one per CPU.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; default: start Ray here.")] = None,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Publish even where places stayed open; the manifest says which.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Mint a dataset from a recipe. Running the same command again resumes, and never repeats committed work."""
    from jobs import show, wiring

    overrides = list(set_ or [])
    for key, value in (("executor", executor), ("workers", workers), ("address", address)):
        if value is not None:
            overrides.append(f"compute.{key}={value}")
    from pipeline.execute.run import generate as run

    loaded = wiring.load_recipe(recipe, overrides)
    with show.observer(quiet=json_) as view:
        session = wiring.open_session(loaded, out, view, allow_short=allow_short)
        published = run(session)
    if json_:
        _print_json(show.published_json(published, out))
    else:
        show.print_published(published, out, view)


@app.command()
def status(uri: UriArgument, json_: JsonOption = False) -> None:
    """Show how far a dataset is.

    Units committed, candidates by stage, versions published, and who holds it.
    """
    from jobs import show, wiring

    facts = wiring.dataset_status(uri)
    _print_json(facts) if json_ else show.print_status(facts)


@app.command()
def verify(
    uri: UriArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file again instead of comparing sizes.")] = False,
    json_: JsonOption = False,
) -> None:
    """Hold the stored files against receipts and manifest. Exit status 7 where something is missing or altered."""
    from jobs import show, wiring

    facts = wiring.verify_dataset(uri, deep=deep)
    _print_json(facts) if json_ else show.print_verify(facts)
    if facts["problems"]:
        raise typer.Exit(7)


@app.command()
def digest(uri: UriArgument) -> None:
    """Print the digest of the newest version.

    SHA-256 over the sorted paths and digests of its segments and index.
    """
    from jobs import wiring

    typer.echo(wiring.newest_manifest(uri).digest)


@app.command()
def export(
    uri: UriArgument,
    to: Annotated[str, typer.Option("--to", metavar="KIND", help="The form to write: webdataset.")],
    out: OutOption,
    json_: JsonOption = False,
) -> None:
    """Write the newest version as trainers read it.

    JPEG bytes are copied, never encoded again.
    """
    from jobs import show, wiring

    facts = wiring.export_dataset(uri, to, out)
    _print_json(facts) if json_ else show.print_export(facts, out)


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
        _print_json(wiring.full_model().model_json_schema())
    elif name is None:
        typer.echo("\n".join(recipe_file.shipped_recipes()))
    else:
        loaded = wiring.load_recipe(name, set_ or [])
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False), nl=False)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def _terminated(signum: int, _frame: Any) -> None:
    # an exception, not an exit: the run's `finally` clauses let the lease and the workers go
    raise SystemExit(128 + signum)


def main() -> None:
    """Run the command line; the exit status says how it ended."""
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
