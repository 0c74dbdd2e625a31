"""`facemint models`: weights of published models: what is known of them, and how they come here."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json

models = typer.Typer(
    help="Weights of published models: what is known, fetching, checking, converting.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ReferencesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="REFERENCE...",
        help="hf://owner/name@COMMIT/file, s3://..., https://..., MODEL@COMMIT, or a recipe: all that it names.",
    ),
]


@models.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model; left out: all.")] = None,
    json_: JsonOption = False,
) -> None:
    """List published models that are known here.

    Licence, source, what each expects and recommends, and whether this machine's cache has it. A digest that nobody
    here has seen is said to be unknown.
    """
    from jobs import show_models, wiring

    facts = wiring.known_models(name)
    if json_:
        print_json(facts)
    elif name:
        show_models.print_model(facts)
    else:
        show_models.print_models(facts)


@models.command()
def fetch(
    references: ReferencesArgument,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="Which bytes the one address must hold.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Fetch weights into this machine's cache.

    Runs fetch nothing by themselves: this is when the network is used. The cache is the folder FACEMINT_MODELS, or
    ~/.cache/facemint/models. Credentials come from the environment, as hub and bucket have them.
    """
    from jobs import show_models, wiring

    def say(text: str) -> None:
        if not json_:
            typer.echo(text, err=True)

    facts = wiring.fetch_models(references, sha256, say)
    print_json(facts) if json_ else show_models.print_fetched(facts)


@models.command()
def check(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REFERENCE...]", help="Files, addresses, recipes; left out: all that the cache keeps."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Read weights whole, compare digests, and say whether they are safe to load.

    Nothing is fetched. Exit status 2 where something is missing, altered, or no file of tensors.
    """
    from jobs import show_models, wiring

    facts = wiring.check_models(references or [])
    print_json(facts) if json_ else show_models.print_checked(facts)
    if facts["problems"]:
        raise typer.Exit(2)


@models.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A file that torch.save wrote: a path, or an address that was fetched.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
    section: Annotated[
        str,
        typer.Option("--section", metavar="NAME", help="Take this group of tensors alone, and its name off theirs."),
    ] = "",
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="module.Name", help="Bookkeeping to leave out as well; repeat for more."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a pickle's tensors as safetensors.

    The pickle is read in a process of its own that runs nothing of it: names outside a short list end the conversion,
    and it has no network, limited memory and time, and one file to write.
    """
    from jobs import show_models, wiring

    facts = wiring.convert_model(source, target, section=section, ignore=ignore or [])
    print_json(facts) if json_ else show_models.print_converted(facts)
