"""The training loop: learning rates, checkpoints, resume, progress. A stopped run continues to the same bits
(on the processor; a GPU may add in any order).

Every random number of a step comes from a generator keyed by (stage, step), so a checkpoint needs the parameters, the
optimiser and the step, and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from pipeline.adapters.phantom.training.config import Schedule, Training

Step = Callable[[int, np.random.Generator], dict[str, float]]


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is made orthogonal by five Newton-Schulz steps, in float32.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". torch.optim.Muon computes in
    bfloat16, which processors without it emulate slowly.
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix (a convolution counts as outputs x the rest) by its orthogonalised momentum."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                held = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = _orthogonal(parameter.grad.lerp(held, group["momentum"]).flatten(1))
                rows, columns = update.shape
                scale = max(1.0, rows / columns) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return roughly U V^T of a matrix with singular value decomposition U S V^T."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    update: Tensor = x.T if tall else x
    return update


class Average:
    """Exponential moving average of a model's parameters; early on it forgets faster."""

    def __init__(self, model: nn.Module, keep: float = 0.999) -> None:
        self.keep = keep
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model."""
        keep = min(self.keep, (step + 1) / (step + 10))
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter, 1 - keep)


def initialised(make: Callable[[], nn.Module], rng: np.random.Generator) -> nn.Module:
    """Return `make()` on the stage's device, initial weights drawn from `rng`; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**31)))
        with torch.device("cpu"):
            made = make()
    return made.to(torch.get_default_device())


def rate_at(schedule: Schedule, step: int) -> float:
    """Return the share of the full rate at a step: rise, plateau, straight line to zero."""
    falling = max(1, round(schedule.decay * schedule.steps))
    down = 1.0 if not schedule.decay else (schedule.steps - step) / falling
    return min(1.0, (step + 1) / schedule.warmup, down)


def run(
    name: str,
    config: Training,
    schedule: Schedule,
    step_fn: Step,
    *,
    stream: str,
    models: dict[str, nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    average: Average | None = None,
    quiet: bool = False,
) -> None:
    """Train until `schedule.steps`, from the last checkpoint where there is one.

    `step_fn` (step, rng) -> figures for the log makes gradients and steps the optimisers, whose rates are set here.
    A `quiet` run writes neither checkpoint nor log (the second process of a pair).
    """
    path = config.home / "checkpoints" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    base = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    first = _restore(path, models, optimisers, average)
    console, log = Console(), config.home / f"{name}.log.jsonl"
    sums: dict[str, float] = {}
    started = saved = said = time.monotonic()
    counted = 0
    for step in range(first, schedule.steps):
        share = rate_at(schedule, step)
        for optimiser, rates in zip(optimisers, base, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
        for key, value in step_fn(step, config.rng(stream, step)).items():
            sums[key] = sums.get(key, 0.0) + value
        if average:
            average.update(models["model"], step)
        counted += 1
        now = time.monotonic()
        if not quiet and (now - said > 20 or step + 1 == schedule.steps):
            figures = {key: round(value / counted, 4) for key, value in sums.items()}
            pace = (step + 1 - first) / (now - started)
            left = (schedule.steps - step - 1) / pace
            said_rate = f"{pace * schedule.batch:.0f}/s, {left / 60:.1f} min left"
            console.print(f"{name} {step + 1}/{schedule.steps} {figures} {said_rate}", soft_wrap=True)
            with log.open("a") as file:
                file.write(json.dumps({"step": step + 1, "seconds": round(now - started, 1), **figures}) + "\n")
            sums, counted, said = {}, 0, now
        if not quiet and (now - saved > config.checkpoint_s or step + 1 == schedule.steps):
            _save(path, step + 1, models, optimisers, average)
            saved = now


def _save(
    path: Path,
    step: int,
    models: dict[str, nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    average: Average | None,
) -> None:
    state = {
        "step": step,
        "models": {key: model.state_dict() for key, model in models.items()},
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "average": average.values if average else {},
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(
    path: Path, models: dict[str, nn.Module], optimisers: Sequence[torch.optim.Optimizer], average: Average | None
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")  # where AdamW wants its counts of steps to stay
    for key, model in models.items():
        model.load_state_dict(state["models"][key])
    for optimiser, values in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(values)
    if average:
        average.values = {name: value.to(torch.get_default_device()) for name, value in state["average"].items()}
    return int(state["step"])


def load_trained(config: Training, name: str, model: nn.Module, *, averaged: bool = False) -> nn.Module:
    """Return `model` with a checkpoint's weights, ready for inference."""
    place = torch.get_default_device()
    state = torch.load(config.home / "checkpoints" / f"{name}.pt", weights_only=True, map_location="cpu")
    model = model.to(place)
    model.load_state_dict(state["models"]["model"])
    if averaged:
        model.load_state_dict(state["average"], strict=False)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def muon_and_adamw(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the model's `body` and AdamW for everything else; 1 is their usual rate."""
    inner = [p for name, p in model.named_parameters() if name.startswith("body") and p.ndim > 1]
    chosen = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(inner, lr=0.02 * rate), adamw(outer, 1e-3 * rate, 0.02)]


def adamw(parameters: Any, rate: float, decay: float = 0.01) -> torch.optim.Optimizer:
    """Return AdamW; biases, gains and other vectors are not decayed."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8)
