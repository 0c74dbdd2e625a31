"""`facemint erase`: an identity, an image or a source leaves a dataset, and nothing of it is left."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, UriArgument, print_json
from pipeline.domain.errors import UserError


def erase(
    uri: UriArgument,
    identity: Annotated[
        list[int] | None,
        typer.Option("--identity", metavar="N", min=0, help="An identity by its stable number; repeat for more."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="KEY", help="One image by its key, with its twins; repeat for more."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="ID",
            help="All that was made from one source: its number, or of photographs its path; repeat for more.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="Of photographs: all that sources have under this name, such as that of a folder; repeat for more.",
        ),
    ] = None,
    face: Annotated[
        str | None,
        typer.Option(
            "--face",
            metavar="IMAGE",
            help="A crop, a stored image or, where the recipe finds faces, a photograph: show whom it matches; with "
            "--identity, confirm it.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without: show what would go, and write nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Erase from a dataset: show what would go, and with --yes publish a version without it and remove the rest.

    What goes is never made again: resuming, growing and judging again leave it out. Killed in the middle, the same
    command completes it, as does `facemint erase URI --yes`; until then nothing else may be done with the dataset.
    Exports and merged datasets that lie elsewhere, and copies, are not known here: remove them too.

    A face alone erases nobody: it shows matches, and with --identity refuses whoever does not reach the 1:N threshold.
    """
    from jobs import show, show_erase, wiring

    asked = wiring.ErasureRequest(identity or [], image or [], source or [], label or [], face)
    if not yes:
        if not asked:
            raise UserError("nothing to erase: give --identity, --image, --source, --label or --face")
        facts = wiring.erase_dry(uri, asked)
        print_json(facts) if json_ else show_erase.print_dry(facts)
        return
    if face is not None and not identity:
        raise UserError("--face --yes: a face alone erases nobody; name who is meant with --identity")
    from pipeline.execute.stop import Stop, on_signals

    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"erase {uri}") as view:
        facts = wiring.erase_dataset(uri, asked, view, stop=stop)
    print_json(facts) if json_ else show_erase.print_erased(facts)
