"""`facemint export`: a published version, or a part of it, as trainers read it."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, OutOption, UriArgument, print_json
from jobs.components import COMPONENTS

KINDS = ", ".join(COMPONENTS["exports"])


def export(
    uri: UriArgument,
    to: Annotated[str, typer.Option("--to", metavar="KIND", help=f"The form to write: {KINDS}.")],
    out: OutOption,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of this kind, as in recipes; repeat for more."),
    ] = None,
    max_per_identity: Annotated[
        int | None,
        typer.Option("--max-per-identity", metavar="N", help="Take N images of an identity that has more, evenly."),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="v000001", help="A published version; default the newest.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Write each part of this split to a folder of its own."),
    ] = None,
    part: Annotated[str | None, typer.Option("--part", metavar="PART", help="With --split: this part alone.")] = None,
    image_px: Annotated[
        int | None,
        typer.Option("--image-px", metavar="PX", help="Resize images of another side, and encode them again."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a version as trainers read it.

    JPEG bytes are copied, never encoded again unless --image-px asks for another size. Labels run from 0 without a gap;
    labels.parquet in the export says whose they are. Running the same command again finishes what was interrupted.

    Photographs bring what came with them: licence, caption, date. Of images that show more than the judge's crop,
    --image-px 112 --set aligned=true exports that crop.
    """
    from jobs import show, wiring

    given = {"max_per_identity": max_per_identity, "split": split, "part": part, "image_px": image_px}
    written = wiring.export_dataset(uri, to, out, set_ or [], given, version)
    if json_:
        print_json(written[0] if split is None or part else {"split": split, "parts": written})
    else:
        show.print_export(written)
