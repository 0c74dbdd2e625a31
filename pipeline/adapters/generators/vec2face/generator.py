"""Vec2Face and Vec2Face+ behind the port: identity vectors, conditions and noise in, aligned 112 x 112 faces out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.adapters.generators.vec2face.drawing import (
    DIMENSIONS,
    NOISE,
    RAW_LENGTH,
    TOKENS,
    moved,
    require_raw,
    token_masks,
)
from pipeline.adapters.generators.vec2face.options import ALIGNMENT, Vec2FaceOptions, Vec2FacePlusOptions
from pipeline.domain.errors import ModelError
from pipeline.domain.model_cards import card_of
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Conditions, Float32, UInt8
from pipeline.domain.rng import Key, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.adapters.generators.vec2face.network import Masks, Vec2FaceNetwork
    from pipeline.adapters.generators.vec2face.optimisation import Optimised
    from pipeline.adapters.generators.vec2face.pose import PoseModel
    from pipeline.adapters.generators.vec2face.scorers import Scorer, Wanted
    from pipeline.domain.weights import Weights

POSE = ("yaw_deg", "pitch_deg")
LICENCE = "MIT; trained on WebFace4M (non-commercial research)"
"""Of the published weights, wherever they lie."""
VECTOR_SIGMA = "vector_sigma"
"""Condition: standard deviation of the noise that moves the identity's vector, which then gets its length back.

Upstream has 0.3, 0.5 and 0.7 in 40, 40 and 20 % of the images: `{use: choice, values: [...], shares: [...]}`, which the
flow stratifies over an identity's slots, whatever their number. The direction is drawn anew at each attempt.
"""


class Vec2Face:
    """Implements `ports.Generator`.

    Args:
        options: of the recipe.
        weights: who brings the weights; they are asked for when the first picture is made.
        scorers: the goals of attribute optimisation, where the options ask for it.
    """

    condition_names: tuple[str, ...] = (VECTOR_SIGMA,)
    unseen_conditions = (VECTOR_SIGMA,)
    """How far vectors are moved from their person's, which no picture alone shows."""
    condition_ranges: Mapping[str, tuple[float, float]] = {VECTOR_SIGMA: (0.0, 5.0)}
    image_px = 112
    alignment: str | None = ALIGNMENT
    noise_shape = (1, 1, NOISE)
    source = "https://github.com/HaiyuWu/Vec2Face"

    def __init__(self, options: Vec2FaceOptions, weights: Weights, scorers: Sequence[Scorer] = ()) -> None:
        self._options, self._weights, self.scorers = options, weights, tuple(scorers)
        self._proven: set[int] = set()
        if options.optimise is not None and options.optimise.yaw is not None:
            self.condition_ranges = {**self.condition_ranges, "yaw_deg": (-90.0, 90.0)}
            self.condition_names = tuple(self.condition_ranges)
        self.space = options.space
        known = card_of(options.weights)
        self.card = ModelCard(
            name=options.use if options.config == "published" else f"{options.use} ({options.config})",
            sha256=options.digest,
            licence=options.licence or (known.licence if known else LICENCE),
            source=self.source,
            commercial_use=options.commercial if options.licence else bool(known and known.commercial),
            # measured in tests, and again by `_prove_rows` on the machine that is to compute
            row_independent=True,
            epoch=1,
        )

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Return faces_NHWC, uint8 RGB, shape (N, 112, 112, 3), aligned to `arcface-112`.

        Raises:
            BadVectorError: a vector is not finite.
            SpaceMismatchError: a vector has the length of unit vectors.
            ModelError: weights are missing or of another network, pictures come out as no numbers, or this device mixes
                the rows of a batch.
        """
        require_raw(vectors_ND)
        self._proven.add(self._prove_rows(len(vectors_ND)))
        return self._levels(self._pictures(vectors_ND, conditions, noise_NCHW))

    def _pictures(
        self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32, *, trial: bool = False
    ) -> Tensor:
        """Return pictures_NCHW, float32, nominally in -1..1; of a trial, what two rounds of optimisation make of it."""
        import torch

        from pipeline.adapters.generators.vec2face.scorers import Wanted

        noise = noise_NCHW.reshape(len(vectors_ND), NOISE)
        sigma = [c.get(VECTOR_SIGMA, 0.0) for c in conditions]
        vectors = moved(vectors_ND, sigma, noise[:, 1 + TOKENS :]).astype(np.float32)
        start, masks = torch.from_numpy(vectors).to(self._device), self._masks(noise, conditions)
        own = torch.from_numpy(vectors_ND).to(self._device)
        with _plain_arithmetic(self._device, tf32=self._options.tf32):
            pose = self._pose(conditions)
            if self._options.optimise is not None:
                most = min(2, self._options.optimise.iterations) if trial else self._options.optimise.iterations
                return self._optimised(start, masks, pose, Wanted(own, conditions), most).pictures_NCHW
            with torch.inference_mode():
                made: Tensor = self._forward(start.to(self._dtype), masks, pose)
                # graphs of CUDA write the next batch where this one lies
                return made.float().clone() if self._options.compile == "cuda-graphs" else made.float()

    def _optimised(
        self, start_ND: Tensor, masks: Masks, pose_N1W: Tensor | None, wanted: Wanted, most: int
    ) -> Optimised:
        """Return what attribute optimisation makes of vectors."""
        from pipeline.adapters.generators.vec2face.optimisation import optimise

        asked, network = self._options.optimise, self._network
        assert asked is not None

        def render(vectors_RD: Tensor, rows: Sequence[int]) -> Tensor:
            made: Tensor = network(vectors_RD, masks.rows(rows), None if pose_N1W is None else pose_N1W[list(rows)])
            return made

        return optimise(
            render,
            self.scorers,
            start_ND,
            wanted,
            iterations=most,
            rate=asked.rate,
            rows=min(asked.rows, len(start_ND)),
        )

    def _masks(self, noise_NZ: Float32, conditions: Sequence[Conditions]) -> Masks:
        import torch

        from pipeline.adapters.generators.vec2face.network import Masks

        law, posed = self._options.masks, self._posed(conditions)
        drawn = token_masks(noise_NZ[:, 1 : 1 + TOKENS], law.masked(noise_NZ[:, 0]), law.dropped, posed)
        return Masks(*(torch.from_numpy(part) for part in (*drawn, posed))).to(self._device)

    def _posed(self, conditions: Sequence[Conditions]) -> npt.NDArray[np.bool_]:
        """Return for which rows a pose is asked."""
        return np.zeros(len(conditions), bool)

    def _pose(self, conditions: Sequence[Conditions]) -> Tensor | None:
        """Return the pose tokens of all rows, (N, 1, W), in the network's precision; None where there is no pose."""
        return None

    def _levels(self, pictures_NCHW: Tensor) -> UInt8:
        """Return pictures as they are stored; raises ModelError where one is not finite."""
        import torch

        sound = torch.isfinite(pictures_NCHW).flatten(1).all(dim=1)
        if not bool(sound.all()):
            raise ModelError(
                f"{self.card.name}: {int((~sound).sum())} of {len(sound)} pictures came out as no numbers at precision "
                f"{self._options.precision}; use bfloat16 or float32, and check the weights"
            )
        scaled = (pictures_NCHW.clamp(-1, 1) + 1) * 127.5
        levels = scaled.round() if self._options.levels == "nearest" else scaled.floor()
        faces: UInt8 = np.ascontiguousarray(levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return faces

    def _prove_rows(self, rows: int) -> int:
        """Return `rows` once rows are known to be the same at any place of a batch of so many, here and now.

        Raises:
            ModelError: this machine computes a row differently at another place, or beside others.
        """
        if rows == 1 or rows in self._proven:
            return rows
        trial = _trial(rows, self.condition_names)
        turned = _trial(rows, self.condition_names, order=range(rows - 1, -1, -1))
        filled = _trial(rows, self.condition_names, order=[0] * rows)
        together, backwards, alone = (self._pictures(*rows_of, trial=True) for rows_of in (trial, turned, filled))
        if not bool((backwards.flip(0) == together).all()) or not bool((alone == together[:1]).all()):
            raise ModelError(
                f"{self.card.name}: on this device a picture depends on what else is in a batch of {rows}; set "
                "generator.batch: 1"
            )
        return rows

    @cached_property
    def _device(self) -> torch.device:
        from pipeline.adapters.generators.vec2face.loading import device

        return device()

    @cached_property
    def _dtype(self) -> torch.dtype:
        from pipeline.adapters.generators.vec2face.loading import DTYPES

        return DTYPES[self._options.precision]

    @cached_property
    def _network(self) -> Vec2FaceNetwork:
        from pipeline.adapters.generators.vec2face.loading import load_network, placed

        options = self._options
        if options.optimise is not None and not self.scorers:
            raise ModelError(f"{self.card.name}: optimise has goals, and no scorer was handed in; drop optimise")
        network = load_network(self._weights, options.weights, options.config, self._lora)
        network.im_decoder.fold()
        return placed(network, self._device, self._dtype)

    @cached_property
    def _forward(self) -> Callable[..., Tensor]:
        import torch

        mode = {"none": None, "default": "default", "cuda-graphs": "reduce-overhead"}[self._options.compile]
        if mode is None:
            return self._network
        out: Callable[..., Tensor] = torch.compile(self._network, mode=mode, dynamic=False)
        return out

    @property
    def _lora(self) -> tuple[int, float] | None:
        """Return rank and alpha of the checkpoint's LoRA; None where it has none."""
        return None


class Vec2FacePlus(Vec2Face):
    """Implements `ports.Generator`; a row that asks for neither yaw nor pitch is made without a pose."""

    condition_names = (VECTOR_SIGMA, *POSE)
    condition_ranges: Mapping[str, tuple[float, float]] = {
        VECTOR_SIGMA: (0.0, 5.0),
        "yaw_deg": (-90.0, 90.0),
        "pitch_deg": (-60.0, 60.0),
    }
    source = "https://github.com/HaiyuWu/Vec2Face_plus"
    _options: Vec2FacePlusOptions

    def __init__(self, options: Vec2FacePlusOptions, weights: Weights, scorers: Sequence[Scorer] = ()) -> None:
        super().__init__(options, weights, scorers)

    def _posed(self, conditions: Sequence[Conditions]) -> npt.NDArray[np.bool_]:
        return np.array([any(name in c for name in POSE) for c in conditions], bool)

    def _pose(self, conditions: Sequence[Conditions]) -> Tensor | None:
        import torch

        from pipeline.adapters.generators.vec2face.pose import landmark_picture, landmarks_of

        points = [landmarks_of(c.get("yaw_deg", 0.0), c.get("pitch_deg", 0.0)) for c in conditions]
        drawn = [landmark_picture(points_52) for points_52 in points]
        levels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).to(self._device)
        with torch.inference_mode():
            tokens: Tensor = self._pose_model((levels.float() / 255 - 0.5) / 0.5).to(self._dtype)
        return tokens.clone()

    @property
    def _lora(self) -> tuple[int, float] | None:
        return self._options.lora_rank, self._options.lora_alpha

    @cached_property
    def _pose_model(self) -> PoseModel:
        from pipeline.adapters.generators.vec2face.loading import DTYPES, load_pose, placed

        network = load_pose(self._weights, self._options.weights, self._options.config)
        # cheap, and its token stands in for forty others: it stays in float32
        return placed(network, self._device, DTYPES["float32"])


def _trial(rows: int, names: Sequence[str], order: Sequence[int] | None = None) -> tuple[Float32, list[Any], Float32]:
    """Return vectors, conditions and noise of made-up rows that all differ, to try a device out with."""
    numbers = list(order if order is not None else range(rows))
    keys = [Key(0, Stream.CALIBRATION, n) for n in numbers]
    noise = np.stack([k.generator().standard_normal((1, 1, NOISE), dtype=np.float32) for k in keys])
    away = noise[:, 0, 0, -DIMENSIONS:]
    vectors = away * np.float32(RAW_LENGTH) / np.linalg.norm(away, axis=1, keepdims=True)
    return vectors, [dict.fromkeys(names, 0.3 + n % 3) for n in numbers], noise


@contextmanager
def _plain_arithmetic(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Hold an NVIDIA GPU to one order of sums, and to float32 products unless it may round their factors.

    A CPU has no choice.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    # torch refuses to mix its two sets of these switches, and what compiles reads this older one
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


__all__ = ["VECTOR_SIGMA", "Vec2Face", "Vec2FacePlus"]
