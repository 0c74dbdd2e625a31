"""`facemint measure`: adds a measure, or another recogniser's embeddings, to a dataset that stands."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, UriArgument, print_json


def measure(
    uri: UriArgument,
    add: Annotated[
        str, typer.Option("--add", metavar="NAME", help="A measure or a recogniser, as recipes name them in `use`.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of it, labeller=NAME for one; repeat for more."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make anew what stands under this name.")] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try units again that killed their worker three times.")
    ] = False,
    executor: Annotated[str, typer.Option(help="inline or ray.")] = "inline",
    workers: Annotated[int | None, typer.Option(min=1, help="With ray: workers.")] = None,
    address: Annotated[str | None, typer.Option(help="With ray: a running cluster; default: start Ray here.")] = None,
    json_: JsonOption = False,
) -> None:
    """Add a measure to every stored image of a dataset, or another recogniser's embeddings.

    Each unit of making gets a file beside its segment; segments, versions and digests stay as they are. Running the
    same command again resumes. Filters of a later version may read what was added.
    """
    from jobs import show, show_measures, wiring
    from pipeline.execute.stop import Stop, on_signals

    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"measure {uri}") as view:
        facts = wiring.measure_dataset(
            uri, add, set_ or [], view,
            stop=stop, replace=replace, retry_quarantined=retry_quarantined,
            executor=executor, workers=workers, address=address,
        )  # fmt: skip
    print_json(facts) if json_ else show_measures.print_added(facts)
