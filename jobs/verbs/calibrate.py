"""`facemint calibrate`: what a recogniser's cosines mean, measured on faces whose identity is known."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json
from pipeline.domain.errors import UserError


def calibrate(
    recogniser: Annotated[
        str, typer.Argument(metavar="RECOGNISER", help="A recogniser as recipes name it: phantom-judge.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Labelled faces: a folder per identity of aligned crops, a published dataset, a file of embeddings "
            "(.npz, .npy, .parquet), a verification set (.bin), or phantom://renders?identities=1000&images=8&seed=7.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="The calibration to write, as JSON.")],
    templates: Annotated[
        str, typer.Option(metavar="K,K...", help="Sizes of templates to calibrate for, in images.")
    ] = "3,4",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One option of the recogniser: batch=32.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and count them.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a recogniser's false match rates on labelled faces.

    Writes the cosine at FMR 1e-1 to 1e-6, as far as the impostor pairs support it, for single images and for
    templates, and 1:N figures. Recipes name the file: judge.calibration=FILE.
    """
    from jobs import show_calibration, wiring

    sizes = _sizes(templates)
    with show_calibration.status(quiet=json_) as say:
        content = wiring.calibrate_recogniser(
            recogniser, source, out, set_ or [], template_sizes=sizes, skip_unreadable=skip_unreadable, say=say
        )
    print_json(content) if json_ else show_calibration.print_calibration(content, out)


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 < int(part) <= 10_000 for part in parts):
        raise UserError(f"--templates {text}: whole numbers from 2 to 10000, separated by commas, are allowed")
    return sorted({int(part) for part in parts})
