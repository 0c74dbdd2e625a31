"""Generators of the Stable Diffusion family at their reduced configuration, with weights by formula, for tests."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.adapters.generators.arc2face import Arc2Face, Arc2FaceOptions
from pipeline.adapters.generators.ip_adapter_faceid import IpAdapterFaceId, IpAdapterFaceIdOptions
from pipeline.adapters.models import FormulaWeights
from pipeline.adapters.models.formula import tensor_by_formula
from pipeline.domain.ports import Generator
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef


class Remembered(FormulaWeights):
    """Weights by formula that are made once for all tests of a session: CLIP's table of tokens takes a second."""

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
        """Return what weights by formula are; nobody may write into them."""
        import torch

        assert names is not None
        return {name: torch.from_numpy(_tensor(name, tuple(shape))) for name, shape in names.items()}


@functools.cache
def _tensor(name: str, shape: tuple[int, ...]) -> Any:
    return tensor_by_formula(name, shape)


def ref(name: str) -> dict[str, str]:
    """Return a reference to weights by formula, as a recipe has it."""
    return {"uri": f"formula:{name}"}


def arc2face_options(**more: Any) -> Arc2FaceOptions:
    """Return the options of Arc2Face at its reduced configuration, five steps by default."""
    parts = {part: ref(part) for part in ("unet", "encoder", "vae")}
    return Arc2FaceOptions.model_validate({"use": "arc2face", "config": "reduced", "steps": 5, **parts, **more})


def arc2face(**more: Any) -> Arc2Face:
    """Return Arc2Face at its reduced configuration."""
    return Arc2Face(arc2face_options(**more), Remembered())


def faceid_options(**more: Any) -> IpAdapterFaceIdOptions:
    """Return the options of IP-Adapter-FaceID at its reduced configuration, five steps by default."""
    parts = {part: ref(part) for part in ("unet", "text_encoder", "adapter", "vae")}
    whole = {"use": "ip-adapter-faceid", "config": "reduced", "steps": 5, **parts, **more}
    return IpAdapterFaceIdOptions.model_validate(whole)


def faceid(**more: Any) -> IpAdapterFaceId:
    """Return IP-Adapter-FaceID at its reduced configuration."""
    return IpAdapterFaceId(faceid_options(**more), Remembered())


def rows(generator: Generator, count: int = 8, first: int = 0) -> tuple[Float32, list[dict[str, float]], Float32]:
    """Return unit vectors, no conditions, and noise of some identities."""
    keys = [Key(8, Stream.CALIBRATION, first + n).generator() for n in range(count)]
    size = generator.space.dimensions
    vectors = unit_rows(np.stack([k.standard_normal(size, dtype=np.float32) for k in keys]), "test")
    noise = np.stack([k.standard_normal(generator.noise_shape, dtype=np.float32) for k in keys])
    return vectors, [{} for _ in range(count)], noise


def spread(generator: Generator, names: Sequence[str], count: int = 8) -> list[dict[str, float]]:
    """Return conditions that go through the ranges of those names, another mix in each row."""
    out = []
    for n in range(count):
        places = [((n * (2 * i + 3)) % count + 0.5) / count for i in range(len(names))]
        bounds = [generator.condition_ranges[name] for name in names]
        out.append({name: lo + (hi - lo) * at for name, (lo, hi), at in zip(names, bounds, places, strict=True)})
    return out
