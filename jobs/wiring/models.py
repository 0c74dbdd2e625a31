"""Weights of published models: the one bringer of a process, which parts are handed that ask for it."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.domain.errors import ModelError

if TYPE_CHECKING:
    from pipeline.domain.compute import Compute
    from pipeline.domain.detection import Detections
    from pipeline.domain.records import UInt8
    from pipeline.domain.weights import Weights, WeightsRef

CACHE = "FACEMINT_MODELS"
"""Environment variable: the folder for fetched weights."""
FETCH = "FACEMINT_FETCH"
"""Environment variable: `1` lets runs and their workers fetch what is missing, each machine once."""
Made = TypeVar("Made")

_INSTEAD: ContextVar[Weights | None] = ContextVar("instead", default=None)
"""What brings weights in place of the process's own, while a plan is made."""


def cache_folder() -> Path:
    """Return where fetched weights lie on this machine."""
    return Path(os.environ.get(CACHE) or "~/.cache/facemint/models").expanduser()


def weights() -> Weights:
    """Return what brings weights in this process: offline, unless the environment allows to fetch."""
    return _INSTEAD.get() or _weights(cache_folder(), may_fetch=os.environ.get(FETCH, "") == "1")


def told(compute: Compute, address: str | None) -> dict[str, str]:
    """Return what the workers of a cluster are told of weights; workers on this machine inherit what it says.

    The folder is the recipe's, which is the same on every node. This process's own FACEMINT_MODELS is not handed on:
    it is true of this machine, and a path that another does not have would hide the one that it has.
    """
    if address is None:
        return {}
    folder = {CACHE: compute.model_cache} if compute.model_cache else {}
    return {**folder, **({FETCH: "1"} if os.environ.get(FETCH) == "1" else {})}


def built_there(said: Mapping[str, str], build: Callable[[], Made]) -> Made:
    """Build a worker in the process where it will run, which is its own; what its node says comes first."""
    for name, value in said.items():
        if not os.environ.get(name):
            os.environ[name] = value
    return build()


@contextmanager
def unfetched() -> Iterator[Unfetched]:
    """Let parts be built, though not used, whose weights are not on this machine; yield what notes which."""
    bringer = Unfetched(weights())
    before = _INSTEAD.set(bringer)
    try:
        yield bringer
    finally:
        _INSTEAD.reset(before)


def require_commit(ref: WeightsRef) -> None:
    """Raise ModelError where an address of a hub still has the word COMMIT, as shipped recipes have it."""
    if "@COMMIT/" in ref.uri:
        raise ModelError(
            f"{ref.uri}: choose a commit of that repository, write its 40 hexadecimal digits in place of COMMIT, and "
            f"run: facemint models fetch {ref.uri}"
        )


def is_unfetched() -> bool:
    """Return whether parts are built, here and now, whose weights may be missing."""
    return _INSTEAD.get() is not None


class UnfetchedDetector:
    """Stands for a detector whose file is not on this machine: `detection.Detector` up to the first picture."""

    size_px = 0

    def __init__(self, name: str, why: str) -> None:
        """Take its name, and what its own constructor said."""
        from pipeline.domain.manifest import sha256_hex
        from pipeline.domain.ports import ModelCard

        digest = sha256_hex(f"not on this machine: {name}".encode())
        self.card = ModelCard(name, digest, "unknown until it is here", "", True, True, 1)
        self._why = why

    def detect(self, image_HWC: UInt8) -> Detections:
        """Raise ModelError: there is nothing to look with."""
        raise ModelError(self._why)


class Unfetched:
    """Implements `domain.weights.Weights` where a plan is made: what is missing has a digest that no file has.

    Attributes:
        missing: why each reference whose digest was asked for is not here, in the order in which they were found.
    """

    def __init__(self, bringer: Weights) -> None:
        self._bringer = bringer
        self.missing: dict[str, str] = {}

    def path(self, ref: WeightsRef) -> Path:
        """Return the local file, as `domain.weights.Weights` says."""
        require_commit(ref)
        return self._bringer.path(ref)

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Any]:
        """Return the tensors, as `domain.weights.Weights` says."""
        require_commit(ref)
        return self._bringer.tensors(ref, names)

    def sha256(self, ref: WeightsRef) -> str:
        """Return the digest of the reference's bytes, or one made of its address where these are not here."""
        from pipeline.domain.manifest import sha256_hex

        try:
            return self._bringer.sha256(ref)
        except ModelError as error:
            self.missing[ref.uri] = str(error)
            return sha256_hex(f"not on this machine: {ref.uri}".encode())


@functools.cache
def _weights(cache: Path, *, may_fetch: bool) -> Weights:
    from pipeline.adapters.models import ModelWeights

    return ModelWeights(cache, may_fetch=may_fetch)


@functools.cache
def wants_weights(part: Any) -> bool:
    """Return whether a part's constructor takes what brings weights: `Part(options, weights)`."""
    return "weights" in inspect.signature(part).parameters
