"""`facemint evaluate`: a fixed recogniser recipe is trained on a dataset and verified on people it has not seen."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json
from pipeline.domain.errors import InterruptedRunError, UserError


class OverlapMode(StrEnum):
    """What to do about people who are in both training and test."""

    REMOVE = "remove"
    REPORT = "report"
    OFF = "off"


def evaluate(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="What to train on: a published dataset, an export (webdataset, recordio, imagefolder), a folder per "
            "identity of aligned crops, or phantom://renders?identities=100&images=10&seed=5.",
        ),
    ],
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="SET",
            help="A verification set (.bin), or faces of other people as above; repeat for more. Default: rendered "
            "phantoms, where the dataset is of the phantom world.",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="URI", help="Train the same on this baseline, and compare.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="phantom-small (CPU, minutes) or ir-se50 (GPU, hours)."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=VALUE", help="Change an option of the training recipe; repeat for more."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N...", help="One training per seed.")] = "0,1,2",
    recogniser: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who looks for overlap. Default: the dataset's judge."),
    ] = None,
    overlap: Annotated[
        OverlapMode, typer.Option(help="Training people too near to somebody tested: remove, report, or off.")
    ] = OverlapMode.REMOVE,
    overlap_fpir: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=0.5,
            help="Share of searches for a stranger that may find somebody (1:N). Default: 0.01, or "
            "the lowest above it that the recogniser is calibrated for.",
        ),
    ] = None,
    overlap_cos: Annotated[
        float | None, typer.Option(min=-1, max=1, help="A cosine instead, for recognisers without 1:N figures.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="FIELD,...", help="Attributes that make a cell. Default: what it is balanced by."),
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=20, max=1_000_000, help="Pairs to draw where a test set is of people.")
    ] = 6000,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    loaders: Annotated[int, typer.Option(min=0, max=64, help="Threads that prepare batches; change no result.")] = 0,
    work: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Keep checkpoints here: the same command resumes after an interrupt."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Write the record here, as JSON.")] = None,
    json_: JsonOption = False,
) -> None:
    """Train a fixed recogniser recipe on a dataset, and verify it on people it has not seen.

    Prints ten-fold accuracy as InsightFace computes it, TAR at FAR, EER, and the gap between perceived cells, as means
    over several seeds. People of the training set who are too near to somebody tested are left out first.
    """
    from jobs import show_evaluate, wiring
    from pipeline.execute.stop import Stop, on_signals
    from pipeline.flow.evaluating.overlap import OverlapRule

    rule = OverlapRule(overlap_fpir, overlap_cos, remove=overlap is OverlapMode.REMOVE)
    request = wiring.EvaluationRequest(
        uri=uri, tests=tuple(test or ()), against=against, recipe=recipe, overrides=tuple(set_ or ()),
        seeds=_seeds(seeds), recogniser=recogniser, overlap=None if overlap is OverlapMode.OFF else rule,
        fields=None if by is None else tuple(part.strip() for part in by.split(",") if part.strip()),
        pairs=pairs, device=device, loaders=loaders, work=work,
    )  # fmt: skip
    target = wiring.free_file(out) if out else None
    try:
        with on_signals(Stop()) as stop, show_evaluate.progress(stop.check, quiet=json_) as say:
            record = wiring.evaluate_dataset(request, say)
    except InterruptedRunError as stopped:
        if work is None:
            stopped.args = ("stopped, and nothing was kept; with --work FOLDER the same command goes on where it was",)
        raise
    if target:
        wiring.write_json(target, record)
    print_json(record) if json_ else show_evaluate.print_evaluation(record, out)


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 for part in parts) or len(set(parts)) != len(parts):
        raise UserError(f"--seeds {text}: different whole numbers from 0, separated by commas, are allowed")
    return tuple(int(part) for part in parts)
