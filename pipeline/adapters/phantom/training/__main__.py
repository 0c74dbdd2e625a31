"""Command line: one stage after another, each resumable. `python -m pipeline.adapters.phantom.training all`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console

from pipeline.adapters.phantom import loading
from pipeline.adapters.phantom.training import (
    attributes,
    autoencoder,
    calibrate,
    export,
    finish,
    flow,
    likeness,
    measure,
    reader,
    recognition,
    sheets,
)
from pipeline.adapters.phantom.training.config import CONFIGURATIONS, ROLES, Training
from pipeline.adapters.phantom.training.draws import render_draw

STAGES = (
    "render", "crops", "recognisers", "decoder", "attributes", "flow", "reader", "likeness", "finish",
    "export", "calibrate", "measure", "sheets",
)  # fmt: skip


TRAINED = ("crops", "recognisers", "decoder", "attributes", "flow", "reader", "likeness", "finish")
"""Stages that compute where `--device` says; the others run on the processor."""


def _stages(config: Training, weights: Path, workers: int, only: Sequence[str]) -> dict[str, Callable[[], None]]:
    def render() -> None:
        for name in only or config.draws:
            render_draw(config, name, workers)

    def recognisers() -> None:
        for role in only or ROLES:
            recognition.train_recogniser(config, role)

    return {
        "render": render,
        "crops": lambda: autoencoder.train_crops(config),
        "recognisers": recognisers,
        "decoder": lambda: autoencoder.train_decoder(config),
        "attributes": lambda: attributes.train_attributes(config),
        # two processes share a processor's step, and none a GPU's
        "flow": lambda: flow.train_flow(config, workers if torch.get_default_device().type == "cpu" else 1),
        "reader": lambda: reader.train_reader(config),
        "likeness": lambda: likeness.train_likeness(config),
        "finish": lambda: finish.train_finish(config),
        "export": lambda: export.export(config, weights, only),
        "calibrate": lambda: calibrate.calibrate_all(config, weights, only),
        "measure": lambda: measure.measure_all(config, weights, only),
        "sheets": lambda: sheets.write_sheets(config),
    }


def _device(parser: argparse.ArgumentParser, name: str) -> torch.device:
    """Return a device that adds one and one; else say so and leave."""
    try:
        one = torch.ones((), device=name)
        (one + one).item()  # so is a GPU found that this torch has no code for
        return one.device
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {name}: {str(error).splitlines()[0]}; give cpu, or a GPU that this torch can use")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages that are named, in the order given; `all` runs every one."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.adapters.phantom.training", description=__doc__)
    parser.add_argument("stages", nargs="+", choices=("all", *STAGES))
    parser.add_argument("--config", choices=tuple(CONFIGURATIONS), default="full")
    parser.add_argument("--home", type=Path, default=Path(".phantom"), help="working folder (default .phantom)")
    parser.add_argument("--weights", type=Path, default=loading.WEIGHTS, help="where the exported weights go")
    parser.add_argument("--workers", type=int, default=1, help="processes for rendering and for the flow (1 or 2)")
    parser.add_argument("--device", default="cpu", help="where networks train: cpu, cuda, cuda:1... (default cpu)")
    parser.add_argument("--only", nargs="*", default=(), help="some draws (render) or roles (recognisers and later)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = CONFIGURATIONS[given.config](given.home)
    loading.WEIGHTS = given.weights
    known = {*config.draws, *ROLES, *export.MODELS}
    if strange := sorted(set(given.only) - known):
        parser.error(f"--only {strange[0]}: no draw and no model; there are {', '.join(sorted(known))}")
    place = _device(parser, given.device)
    stages = _stages(config, given.weights, given.workers, given.only)
    for name in STAGES if "all" in given.stages else given.stages:
        started = time.monotonic()
        with place if name in TRAINED and place.type != "cpu" else nullcontext():
            stages[name]()
        Console().print(f"[bold]{name}[/bold] done in {(time.monotonic() - started) / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
