"""`facemint bank`: what is known of a population of identities, fitted to faces that are there already."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json

bank = typer.Typer(
    help="Fit banks of identities to labelled faces, and look at them.", no_args_is_help=True, rich_markup_mode=None
)
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Labelled faces: a folder per identity, a dataset of ours, a file of embeddings, phantom://renders?...",
    ),
]
RecogniserOption = Annotated[
    str, typer.Option("--recogniser", metavar="NAME", help="Whose space it is; generators are conditioned on one.")
]
FileOption = Annotated[str, typer.Option("--out", metavar="FILE.safetensors", help="The file to write.")]
LicenceOption = Annotated[
    str, typer.Option("--licence", metavar="ID", help="Licence of the faces; SPDX where there is one.")
]
BasisOption = Annotated[
    str, typer.Option("--lawful-basis", metavar="TEXT", help="On what ground these people's faces may be used.")
]
AtMostOption = Annotated[
    int | None, typer.Option("--k", min=1, metavar="K", help="Use at most the first K images of an identity.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and count them.")
]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the recogniser; repeat for more."),
]


@bank.command()
def fit(
    source: SourceArgument,
    recogniser: RecogniserOption,
    out: FileOption,
    licence: LicenceOption,
    lawful_basis: BasisOption,
    cells: Annotated[
        str | None,
        typer.Option(
            "--cells",
            metavar="CSV",
            help="Columns label,cell; default: the index's, where SOURCE is a dataset of ours.",
        ),
    ] = None,
    k: AtMostOption = None,
    least: Annotated[int, typer.Option(min=20, help="Identities that a cell needs for a Gaussian of its own.")] = 20,
    skip_unreadable: SkipOption = False,
    set_: OptionsOption = None,
    json_: JsonOption = False,
) -> None:
    """Fit a bank: mean and covariance of identity means, for everyone and by cell.

    The file holds parameters of groups and nobody's vector. A recipe names it as identities.bank:
    {use: file, path: FILE}.
    """
    from jobs import show_bank, wiring

    facts = wiring.fit_bank(
        source, recogniser, out, licence=licence, lawful_basis=lawful_basis,
        cells=cells, at_most=k, least=least, skip_unreadable=skip_unreadable,
        overrides=set_ or [],
    )  # fmt: skip
    print_json(facts) if json_ else show_bank.print_bank(facts)


@bank.command()
def vectors(
    source: SourceArgument,
    recogniser: RecogniserOption,
    out: FileOption,
    licence: LicenceOption,
    lawful_basis: BasisOption,
    made_up: Annotated[
        bool, typer.Option("--made-up", help="The faces are of made-up people; without it they count as real ones.")
    ] = False,
    k: AtMostOption = None,
    skip_unreadable: SkipOption = False,
    set_: OptionsOption = None,
    json_: JsonOption = False,
) -> None:
    """Write one vector per identity: reference images as identities for the sampler `files`.

    Vectors of real people are personal data: keep the file, and datasets made from it, as you keep their images.
    """
    from jobs import show_bank, wiring

    facts = wiring.fit_vectors(
        source, recogniser, out, licence=licence, lawful_basis=lawful_basis,
        made_up=made_up, at_most=k, skip_unreadable=skip_unreadable,
        overrides=set_ or [],
    )  # fmt: skip
    print_json(facts) if json_ else show_bank.print_vectors(facts)


@bank.command("map")
def map_(
    source: SourceArgument,
    from_: Annotated[str, typer.Option("--from", metavar="NAME", help="The recogniser whose vectors there are.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The recogniser that the generator speaks.")],
    out: FileOption,
    licence: LicenceOption,
    lawful_basis: BasisOption,
    set_from: Annotated[
        list[str] | None,
        typer.Option("--set-from", metavar="OPTION=VALUE", help="An option of the first; repeat for more."),
    ] = None,
    set_to: Annotated[
        list[str] | None,
        typer.Option("--set-to", metavar="OPTION=VALUE", help="An option of the second; repeat for more."),
    ] = None,
    skip_unreadable: SkipOption = False,
    json_: JsonOption = False,
) -> None:
    """Fit an affine map from one recogniser's space to another's, on faces that both embed.

    How well it carries people over whom it was not fitted to is measured, and told wherever it is used. A recipe names
    it as identities.map: {use: affine, path: FILE}; vectors of the first space then serve a generator of the second.
    """
    from jobs import show_bank, wiring

    facts = wiring.fit_space_map(
        source, from_, to, out, licence=licence, lawful_basis=lawful_basis,
        source_overrides=set_from or [], target_overrides=set_to or [], skip_unreadable=skip_unreadable,
    )  # fmt: skip
    print_json(facts) if json_ else show_bank.print_map(facts)


@bank.command("show")
def show_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `facemint bank fit` or `bank map` wrote.")],
    json_: JsonOption = False,
) -> None:
    """Say what a bank or a map holds: spaces, licence, and what it rests on."""
    from jobs import show_bank, wiring

    facts = wiring.bank_facts(file)
    if json_:
        print_json(facts)
    else:
        show_bank.print_map(facts) if "target" in facts else show_bank.print_bank(facts)
