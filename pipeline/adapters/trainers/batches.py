"""What a training step sees: which pictures, in which order, changed how. All of it follows from seed, epoch and step.

Pictures arrive as uint8 (N, H, W, 3), from memory or from a file that is mapped into it, and leave as float32
(B, 3, H, W) in -1..1. Nothing here depends on how many threads prepare batches.

Legend: N pictures, B rows of a batch, H W C image axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.adapters.trainers.options import Augmentation
from pipeline.domain.records import UInt8
from pipeline.domain.rng import Key, Stream

WEIGHTS, CENTRES, ORDER, AUGMENT, DROPOUT = range(5)
"""What a draw of training is for: the last part of its key."""
ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)


class Batch(NamedTuple):
    """What one step learns from."""

    faces_NCHW: Tensor
    owner_N: Tensor


def drawn(seed: int, part: int, epoch: int = 0, step: int = 0) -> np.random.Generator:
    """Return the generator of one draw of training."""
    return Key(seed, Stream.EVALUATION, epoch, step, part).generator()


def as_pictures(faces_NHWC: UInt8) -> Tensor:
    """Return uint8 RGB faces as float32 NCHW in -1..1, (x / 255 - 0.5) / 0.5, channels last in memory."""
    # copied: what is mapped from a file cannot be written to, which torch has no notion of
    pixels = torch.from_numpy(np.array(faces_NHWC, order="C")).permute(0, 3, 1, 2).float()
    return ((pixels / 255.0 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


class Batches:
    """The batches of one epoch, by step: each picture once, the rest that fills no batch left out."""

    def __init__(
        self, faces_NHWC: UInt8, labels_N: npt.NDArray[np.int64], *, batch: int, augment: Augmentation, seed: int
    ) -> None:
        """Take the pictures; those labelled -1 are left out."""
        self._faces, self._labels = faces_NHWC, labels_N
        self._rows = np.flatnonzero(labels_N >= 0)
        self._batch, self._augment, self._seed = min(batch, len(self._rows)), augment, seed
        self.enter(0)

    def enter(self, epoch: int) -> None:
        """Go to an epoch, which has an order of its own."""
        self._epoch = epoch
        self._order = drawn(self._seed, ORDER, epoch).permutation(self._rows)

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return len(self._rows) // self._batch

    def __getitem__(self, step: int) -> Batch:
        """Return one batch."""
        if not 0 <= step < len(self):
            raise IndexError(step)
        rows = self._order[step * self._batch : (step + 1) * self._batch]
        # a mapped file is read front to back, then put in the order asked for
        back = np.argsort(np.argsort(rows))
        faces = np.asarray(self._faces[np.sort(rows)])[back]
        rng = drawn(self._seed, AUGMENT, self._epoch, step)
        return Batch(augmented(as_pictures(faces), self._augment, rng), torch.from_numpy(self._labels[rows]))


def ahead(batches: Batches, threads: int) -> Iterator[Batch]:
    """Yield the batches of an epoch in their order, prepared by so many threads, at most two each in advance; or by
    none, one after the other.

    Threads and not processes: what they call lets go of the interpreter, a mapped file would have to be copied to a
    process that is started, and one that is forked from a process with threads may hang.
    """
    if not threads:
        yield from (batches[step] for step in range(len(batches)))
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    try:
        waiting = deque(pool.submit(batches.__getitem__, step) for step in range(min(2 * threads, len(batches))))
        for step in range(len(batches)):
            batch = waiting.popleft().result()
            if step + 2 * threads < len(batches):
                waiting.append(pool.submit(batches.__getitem__, step + 2 * threads))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def augmented(faces_NCHW: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return pictures as they are learnt from: mirrored one in two, and changed as the recipe says.

    Every kind of change draws for every picture, used or not, so that turning one off leaves the others as they were.
    """
    count = len(faces_NCHW)
    draws = rng.random((16, count))
    out = torch.where(_column(draws[0] < 0.5), faces_NCHW.flip(3), faces_NCHW)
    if how.shift_px or how.zoom:
        out = _moved(out, how, draws[1:4])
    if how.coarse:
        out = _coarsened(out, draws[4] < how.coarse, draws[5])
    if how.light or how.colour:
        gain = 1 + how.light * (2 * draws[6] - 1)
        channels = gain[:, None] * (1 + how.colour * (2 * draws[7:10].T - 1))
        # the offset in the same units: 128 of 255 is about 1 of -1..1
        out = out * _of(channels)[:, :, None, None] + _column(how.light * (2 * draws[10] - 1))
        out = out.clamp(-1, 1)
    if how.erase:
        _erase(out, draws[11] < how.erase, draws[12:16])
    return out.contiguous(memory_format=torch.channels_last)


def _of(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _column(values: npt.NDArray[np.generic]) -> Tensor:
    """Return one value per picture, in a shape that meets (N, C, H, W); booleans stay what they are."""
    kept = values if values.dtype == np.bool_ else values.astype(np.float32)
    return torch.from_numpy(kept)[:, None, None, None]


def _moved(faces: Tensor, how: Augmentation, draws: npt.NDArray[np.float64]) -> Tensor:
    """Move and zoom by bilinear sampling, edges repeated."""
    side = faces.shape[-1]
    theta = torch.zeros(len(faces), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = _of(1 + how.zoom * (2 * draws[0] - 1))
    theta[:, :, 2] = _of((2 * draws[1:3].T - 1) * 2 * how.shift_px / side)
    grid = F.affine_grid(theta, list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coarsened(faces: Tensor, which: npt.NDArray[np.bool_], draws: npt.NDArray[np.float64]) -> Tensor:
    out = faces.clone()
    factors = 2 + np.minimum((3 * draws).astype(int), 2)
    for factor in (2, 3, 4):
        rows = torch.from_numpy(np.flatnonzero(which & (factors == factor)))
        if len(rows):
            small = F.interpolate(faces[rows], size=faces.shape[-1] // factor, mode="area")
            out[rows] = F.interpolate(small, size=faces.shape[-1], mode="bilinear", align_corners=False)
    return out


def _erase(faces: Tensor, which: npt.NDArray[np.bool_], draws: npt.NDArray[np.float64]) -> None:
    """Put a grey rectangle into some pictures, in place."""
    side = faces.shape[-1]
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[0]
    # between the logarithms of its bounds, so that lying and standing rectangles are equally frequent
    ratio = np.exp(np.log(ERASED_RATIO[0]) + np.log(ERASED_RATIO[1] / ERASED_RATIO[0]) * draws[1])
    height = np.clip(np.rint(side * np.sqrt(area * ratio)), 1, side - 1).astype(int)
    width = np.clip(np.rint(side * np.sqrt(area / ratio)), 1, side - 1).astype(int)
    top, left = (draws[2] * (side - height)).astype(int), (draws[3] * (side - width)).astype(int)
    for row in np.flatnonzero(which).tolist():
        faces[row, :, top[row] : top[row] + height[row], left[row] : left[row] + width[row]] = 0.0
