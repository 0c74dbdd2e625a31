"""`facemint sign`: C2PA signatures of a version's manifest, and of exported images."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json
from pipeline.domain.errors import UserError


def sign(
    uri: Annotated[str | None, typer.Argument(metavar="[URI]", help="The dataset whose manifest is signed.")] = None,
    cert: Annotated[
        str | None, typer.Option("--cert", metavar="FILE", help="The signer's certificate, then its issuers', in PEM.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="FILE", help="Its private key in PEM; read, and never stored.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version", help="Another version than the newest.")] = None,
    tsa: Annotated[
        str | None, typer.Option("--tsa", metavar="URL", help="A time-stamp authority, asked for each signature.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Sign anew what is signed.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Sign nothing: say whether the signature holds.")] = False,
    trust: Annotated[
        str | None, typer.Option("--trust", metavar="FILE", help="With --check: roots, one of which must vouch for it.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Instead of URI: an exported folder of JPEGs.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="With --images: where the signed copies go.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Sign a version's manifest as C2PA, or exported images.

    The signature lies beside the manifest, versions/<v>/manifest.c2pa, and binds it; the manifest names every file of
    its version by digest, so run verify --deep first. It needs the extra facemint[c2pa]. Exit status 7 where --check
    finds that it does not hold.
    """
    from jobs import show_prove, wiring

    if (uri is None) == (images is None):
        raise UserError("give either the URI of a dataset, or --images with an exported folder")
    if check and images is not None:
        raise UserError("--check: says whether the manifest of a dataset is signed; give its URI")
    if images is None and out is not None:
        raise UserError("--out: goes with --images; the signature of a manifest lies beside it")
    if check:
        facts = wiring.check_signature(str(uri), version, trust)
    elif images is not None:
        if out is None:
            raise UserError("--images: needs --out, where the signed copies go")
        facts = wiring.sign_images(images, out, wiring.signer_of(cert, key, tsa))
    else:
        facts = wiring.sign_dataset(str(uri), version, wiring.signer_of(cert, key, tsa), replace=replace)
    print_json(facts) if json_ else show_prove.print_signed(facts)
    if check and not facts["ok"]:
        raise typer.Exit(7)
