"""`facemint curate`: images that exist already become a dataset, every input accounted for."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import (
    AddressOption,
    ExecutorOption,
    IfBusyOption,
    JsonOption,
    OutOption,
    RecipeArgument,
    SetOption,
    WorkersOption,
    compute_overrides,
    print_json,
)
from jobs.busy import IfBusy, unless_busy


def curate(
    recipe: RecipeArgument,
    out: OutOption,
    set_: SetOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash what stands again, and make units anew whose bytes are altered.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try units again that killed their worker three times.")
    ] = False,
    if_busy: IfBusyOption = IfBusy.FAIL,
    json_: JsonOption = False,
) -> None:
    """Curate face images that exist already: decode, find the face, clean labels, filter, write.

    Every input ends as kept, refused or unreadable, with a reason. Running the same command again resumes; once a
    version is published it grows by what the sources hold beside it. Embeddings, attributes and paths of real people
    stay under private/.
    """
    from jobs import show, show_curate, wiring
    from pipeline.execute.curating import curate as run
    from pipeline.execute.stop import Stop, on_signals

    overrides = [*(set_ or []), *compute_overrides(executor, workers, address)]
    loaded = wiring.load_recipe(recipe, overrides)
    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"{loaded.name} -> {out}") as view:
        opened = unless_busy(
            lambda: wiring.open_curation(loaded, out, view, stop=stop, deep=deep, retry_quarantined=retry_quarantined),
            if_busy,
            stop.check,
        )
        if opened is None:
            return
        published = run(*opened)
    if json_:
        print_json({**show.published_json(published, out), "inputs": published.manifest.counts["inputs"]})
    else:
        show_curate.print_curated(published, out, view)
