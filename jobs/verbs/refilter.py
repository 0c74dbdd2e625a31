"""`facemint refilter`: a new version of a dataset under other filters, from the numbers that are stored."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import (
    AddressOption,
    ExecutorOption,
    JsonOption,
    UriArgument,
    WorkersOption,
    compute_overrides,
    print_json,
)


def refilter(
    uri: UriArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="filters.NAME.KEY=VALUE",
            help="Change one filter's option (filters.own-template.fmr=1e-3), or all filters (filters=[...]); repeat.",
        ),
    ] = None,
    filters: Annotated[
        str | None, typer.Option("--filters", metavar="FILE", help="A YAML list of filters that replaces them all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would stay and what would go, and write nothing.")
    ] = False,
    make_missing: Annotated[
        bool, typer.Option("--make-missing", help="Then make what the new version lacks, as a version of its own.")
    ] = False,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="With --make-missing: publish even where something is still missing.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Judge what is stored by other filters, and publish what passes as a new version.

    Nothing is generated or embedded: the numbers of every candidate are stored. Earlier versions stay as they are. What
    the dataset grows by afterwards is judged by the new filters too.
    """
    from jobs import show, show_refilter, wiring

    if dry_run:
        facts = wiring.refilter_dry(uri, set_ or [], filters)
        print_json(facts) if json_ else show_refilter.print_dry(facts)
        return
    from pipeline.execute.stop import Stop, on_signals

    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"refilter {uri}") as view:
        published = wiring.refilter_dataset(
            uri,
            [*(set_ or []), *compute_overrides(executor, workers, address)],
            filters,
            view,
            stop=stop,
            make_missing=make_missing,
            allow_short=allow_short,
        )
    if json_:
        print_json([show.published_json(p, uri) for p in published])
        return
    show_refilter.print_published(published, uri, view)
