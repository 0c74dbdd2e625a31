"""Trains a recipe's network on labelled faces with SGD, and embeds faces with what came out.

Deterministic on one device kind: order, augmentation, weights and dropout follow from the seed, and the algorithms
that torch chooses are its deterministic ones. With a folder to keep checkpoints in, a stopped training goes on at the
last epoch that was complete, to the same weights.

Legend: N pictures, E embedding dimensions, H W C image axes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.adapters.trainers import networks
from pipeline.adapters.trainers.batches import CENTRES, DROPOUT, WEIGHTS, Batch, Batches, ahead, as_pictures, drawn
from pipeline.adapters.trainers.margins import MarginHead
from pipeline.adapters.trainers.networks import KeyedDropout
from pipeline.adapters.trainers.options import TrainingOptions
from pipeline.domain.errors import DeviceMemoryError, OutputError, UserError
from pipeline.domain.manifest import sha256_hex
from pipeline.domain.records import Float32, UInt8

Tell = Callable[[int, int, float], object]
"""Is told steps done, steps in all, and the loss; may raise to end the training."""
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchTrainer:
    """Implements `flow.evaluate.Trainer`."""

    def __init__(
        self, options: TrainingOptions, *, device: str = "cpu", loaders: int = 0, checkpoints: Path | None = None
    ) -> None:
        """Take the recipe and where to compute.

        Args:
            options: the training recipe.
            device: `cpu`, `cuda` or `cuda:1`.
            loaders: threads that prepare batches; 0 for none. They change no result.
            checkpoints: a folder for checkpoints; None keeps none.

        Raises:
            UserError: no such device here.
        """
        self.options = options
        self._device = _device(device)
        self._loaders, self._checkpoints = loaders, checkpoints

    def device_kind(self) -> str | None:
        """Return the accelerator with the versions that decide bits; None on a CPU, which the machine describes."""
        if self._device.type == "cpu":
            return None
        name = torch.cuda.get_device_name(self._device)
        return f"cuda ({name}), torch {torch.__version__}, cudnn {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]

    def train(
        self, faces_NHWC: UInt8, labels_N: npt.NDArray[np.int64], seed: int, *, what: str, tell: Tell
    ) -> Embedder:
        """Return the network that was learnt from these faces.

        Args:
            faces_NHWC: uint8 RGB crops of the recipe's side; may be mapped from a file.
            labels_N: int64 labels, dense from 0; faces labelled -1 are left out.
            seed: of every draw.
            what: digest of the faces, so that a checkpoint of others is not taken for one of these.
            tell: see `Tell`.

        Raises:
            UserError: fewer than two pictures, pictures of another side, or the loss stopped being a number.
            DeviceMemoryError: a batch does not fit on the device.
            OutputError: a checkpoint cannot be written.
        """
        side = self.options.side_px
        if (labels_N >= 0).sum() < 2 or faces_NHWC.shape[1:] != (side, side, 3):
            raise UserError(
                f"{len(labels_N)} faces of shape {faces_NHWC.shape[1:]}: recipe {self.options.name} trains on two or "
                f"more of {side} x {side} RGB"
            )
        with _deterministic(), _within_memory(self.options):
            run = _Run.begun(self.options, int(labels_N.max()) + 1, seed, self._device)
            batches = Batches(faces_NHWC, labels_N, batch=self.options.batch, augment=self.options.augment, seed=seed)
            path = self._path(what, seed)
            for epoch in range(run.restore(path), self.options.epochs):
                batches.enter(epoch)
                self._epoch(run, batches, epoch, seed, tell)
                run.save(path, epoch + 1)
        return Embedder(run.model.eval(), self.options, self._device)

    def _epoch(self, run: _Run, batches: Batches, epoch: int, seed: int, tell: Tell) -> None:
        total = self.options.epochs * len(batches)
        for step, batch in enumerate(ahead(batches, self._loaders)):
            at = epoch * len(batches) + step
            run.set_rate(rate_at(self.options, at / total))
            run.key_dropout(seed, epoch, step)
            loss = run.step(batch, at / total)
            if not math.isfinite(loss):
                raise UserError(
                    f"recipe {self.options.name}, seed {seed}: the loss is {loss} after {at + 1:,} steps; lower its "
                    "rate"
                )
            tell(at + 1, total, loss)

    def _path(self, what: str, seed: int) -> Path | None:
        if self._checkpoints is None:
            return None
        kind = self.device_kind() or f"cpu {torch.backends.cpu.get_cpu_capability()}"
        basis = f"{self.options.digest} {what} {kind} torch {torch.__version__}"
        return self._checkpoints / f"{self.options.name}-{sha256_hex(basis.encode())[:16]}-seed{seed}.pt"


@dataclass(slots=True)
class _Run:
    """One training: what a checkpoint holds, and what a step does to it."""

    options: TrainingOptions
    device: torch.device
    model: nn.Module
    head: MarginHead
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @classmethod
    def begun(cls, options: TrainingOptions, identities: int, seed: int, device: torch.device) -> _Run:
        model = networks.build(options, drawn(seed, WEIGHTS))
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        head = MarginHead(options.loss, identities, options.network.embedding, drawn(seed, CENTRES)).to(device)
        learnt = [*model.parameters(), *head.parameters()]
        groups = [
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": options.weight_decay},
            # gains, slopes and biases are no weights that should be small
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.SGD(groups, lr=options.rate, momentum=options.momentum)
        scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
        return cls(options, device, model.train(), head, optimiser, scaler)

    def set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def key_dropout(self, seed: int, epoch: int, step: int) -> None:
        for module in self.model.modules():
            if isinstance(module, KeyedDropout):
                module.key(drawn(seed, DROPOUT, epoch, step), self.device)

    def step(self, batch: Batch, progress: float) -> float:
        faces = batch.faces_NCHW.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        owner = batch.owner_N.to(self.device)
        wanted = _PRECISIONS[self.options.precision]
        with torch.autocast(self.device.type, dtype=wanted, enabled=wanted != torch.float32):
            emb = self.model(faces)
        loss = self.head(emb.float(), owner, progress)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters()], 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return float(loss.detach())

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "head": self.head, "optimiser": self.optimiser, "scaler": self.scaler}

    def save(self, path: Path | None, epoch: int) -> None:
        if path is None:
            return
        partial = path.with_suffix(".partial")
        try:
            torch.save({"epoch": epoch} | {name: part.state_dict() for name, part in self.parts().items()}, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            # torch's own writer raises a RuntimeError where a disk is full or a folder gone
            partial.unlink(missing_ok=True)
            why = str(error).strip().splitlines()[0]
            raise OutputError(f"{path}: cannot be written ({why}); name a folder with room (--work)") from None

    def restore(self, path: Path | None) -> int:
        """Return how many epochs a checkpoint holds, after taking it up."""
        if path is None or not path.exists():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            for name, part in self.parts().items():
                part.load_state_dict(state[name])
            return int(state["epoch"])
        except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise UserError(f"{path}: no checkpoint of this training ({type(error).__name__}); remove it") from None


class Embedder:
    """Implements `flow.evaluate.Embedder`: a trained network, asked in batches of one shape."""

    def __init__(self, model: nn.Module, options: TrainingOptions, device: torch.device) -> None:
        self._model, self._batch, self._device = model, options.embed_batch, device

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return raw embeddings, float32 (N, E), of uint8 RGB faces; a row does not depend on its neighbours."""
        with torch.inference_mode(), _deterministic():
            rows = [self._rows(faces_NHWC[at : at + self._batch]) for at in range(0, len(faces_NHWC), self._batch)]
        return np.concatenate(rows)

    def _rows(self, faces: UInt8) -> Float32:
        missing = self._batch - len(faces)
        full = np.concatenate([faces, np.repeat(faces[:1], missing, axis=0)]) if missing else faces
        pictures = as_pictures(full).to(self._device)
        found: Float32 = self._model(pictures)[: len(faces)].float().cpu().numpy()
        return found


def rate_at(options: TrainingOptions, progress: float) -> float:
    """Return the learning rate at a share of the training, in 0..1."""
    if progress < options.warm_up:
        # the first step of all learns something too
        return options.rate * max(progress / options.warm_up, 0.01)
    if options.schedule == "steps":
        return float(options.rate * 0.1 ** sum(progress >= drop for drop in options.drops))
    return options.rate * 0.5 * (1 + math.cos(math.pi * progress))


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch choose its deterministic algorithms while the block lasts; it warns where an accelerator has none."""
    before = torch.are_deterministic_algorithms_enabled()
    # read by cuBLAS when it is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _within_memory(options: TrainingOptions) -> Iterator[None]:
    """Turn an accelerator's lack of memory into a mistake of one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceMemoryError(
            f"recipe {options.name}: batches of {options.batch} do not fit into the memory of this device; lower it "
            f"(--set batch={max(2, options.batch // 2)}), or use a device with more memory"
        ) from None


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; cpu, cuda or cuda:<number> is allowed") from None
    known = device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    )
    if not known:
        raise UserError(f"--device {name}: not here ({torch.cuda.device_count()} CUDA devices); use --device cpu")
    return device
