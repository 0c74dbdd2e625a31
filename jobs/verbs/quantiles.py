"""`facemint quantiles`: where scores lie among faces that somebody has, so that a recipe may ask for percentiles."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json


def quantiles(
    measure: Annotated[str, typer.Argument(metavar="MEASURE", help="A measure as recipes name it: ediffiqa.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Faces: folders of aligned crops (one of all will do), a published dataset, an export of one, or "
            "phantom://renders?identities=500&images=4&seed=7.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="The percentiles to write, as JSON.")],
    score: Annotated[
        list[str] | None,
        typer.Option("--score", metavar="NAME", help="One of its scores; repeat for more; default all."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One option of the measure: path=ediffiqa.onnx."),
    ] = None,
    alignment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How the crops are aligned, where the measure reads any: phantom-112."),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and count them.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Measure where a score's percentiles lie among faces of yours.

    Writes 101 quantiles per score. A recipe's measure that names the file (`percentiles: FILE`) gives a percentile
    beside each score, which the filter quality-percentile reads. Give another model, or other options of it, a file of
    its own.
    """
    from jobs import show_calibration, show_measures, wiring

    with show_calibration.status(quiet=json_) as say:
        content = wiring.rank_measure(
            measure, source, out, set_ or [],
            scores=score or (), alignment=alignment, skip_unreadable=skip_unreadable, say=say,
        )  # fmt: skip
    print_json(content) if json_ else show_measures.print_quantiles(content, out)
