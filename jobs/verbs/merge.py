"""`facemint merge`: several datasets become one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from jobs.arguments import JsonOption, OutOption, print_json


class OnCollision(StrEnum):
    """What becomes of the later of two identities that the judge takes for one."""

    DROP = "drop"
    KEEP = "keep"
    REFUSE = "refuse"


def merge(
    uris: Annotated[
        list[str],
        typer.Argument(metavar="URI", help="Datasets in order of precedence, URI@v000001 for an old version."),
    ],
    out: OutOption,
    name: Annotated[str | None, typer.Option("--name", help="What it is called; default: their names, joined.")] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="The recogniser that all have, as judge or by `measure --add`."),
    ] = None,
    on_collision: Annotated[
        OnCollision,
        typer.Option("--on-collision", help="Of two identities that the judge takes for one: drop the later, or not."),
    ] = OnCollision.DROP,
    copy_bits: Annotated[
        int,
        typer.Option(
            "--copy-bits",
            min=0,
            max=8,
            help="Hashes of copies differ in so many bits or fewer, where all images have copy-hash.",
        ),
    ] = 2,
    json_: JsonOption = False,
) -> None:
    """Make one dataset of several: labels of the first stay, the others follow, image bytes are copied.

    An identity that comes too near to one before it gives way, as does an image that is a copy of one before it. Each
    source's ordinals are shifted behind those before; enrolled/sources-g<k>.parquet says which image came from where.
    Running the same command again resumes. A merged dataset does not grow: its sources do.
    """
    from jobs import show, show_sets, wiring
    from pipeline.execute.stop import Stop, on_signals

    wanted = wiring.MergeRequest(name, judge, on_collision.value, copy_bits)
    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"{' + '.join(uris)} -> {out}") as view:
        published = wiring.merge_datasets(uris, out, wanted, view, stop=stop)
    if json_:
        print_json(show.published_json(published, out))
    else:
        show_sets.print_merged(published, out)
