"""Weights as recipes name them, for every part that runs a published model: cached, digest-checked, safely read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.adapters.models.cache import ModelCache
from pipeline.adapters.models.formula import FormulaWeights
from pipeline.adapters.models.places import HUB, hub_file, is_formula, local_path, shown
from pipeline.domain.errors import ModelError
from pipeline.domain.weights import WeightsRef

if TYPE_CHECKING:
    from torch import Tensor


class ModelWeights:
    """Implements `domain.weights.Weights`: files of this machine as they lie, others through the cache.

    Args:
        cache: the folder for what is fetched.
        may_fetch: whether what is missing may be fetched. Runs say no: then a worker never touches the network, and
            whoever runs `facemint models fetch` decides when it is used.
    """

    def __init__(self, cache: Path, *, may_fetch: bool = False) -> None:
        self.cache = ModelCache(cache)
        self._may_fetch = may_fetch
        self._formula = FormulaWeights()

    def path(self, ref: WeightsRef) -> Path:
        """Return the local file with the reference's bytes, digest checked; raises ModelError, see the port."""
        if is_formula(ref.uri):
            return self._formula.path(ref)
        mine = local_path(ref.uri)
        return self._cached(ref) if mine is None else self._local(mine, ref)

    def sha256(self, ref: WeightsRef) -> str:
        """Return the digest of the reference's bytes: the stated one, or else that of the bytes that are here."""
        if is_formula(ref.uri):
            return self._formula.sha256(ref)
        return ref.sha256 or self._digest(self.path(ref))

    def tensors(self, ref: WeightsRef, names: Mapping[str, tuple[int, ...]] | None = None) -> Mapping[str, Tensor]:
        """Return name -> CPU tensor, read safely; raises ModelError, see the port."""
        if is_formula(ref.uri):
            return self._formula.tensors(ref, names)
        from pipeline.adapters.models.reading import read_tensors

        return read_tensors(self.path(ref), shown(ref.uri), names)

    def _local(self, path: Path, ref: WeightsRef) -> Path:
        if not path.is_file():
            raise ModelError(f"{path}: no such file; give the path of the weights, or fetch them: facemint models list")
        if ref.sha256 is not None:
            found = self._digest(path)
            if found != ref.sha256:
                raise ModelError(
                    f"{path}: has SHA-256 {found[:12]}..., the recipe states {ref.sha256[:12]}...; these are other "
                    "weights: bring the stated ones, or state these if they are the ones you mean"
                )
        return path

    def _digest(self, path: Path) -> str:
        try:
            return self.cache.digest(path)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None

    def _cached(self, ref: WeightsRef) -> Path:
        digest = ref.sha256 or self.cache.digest_at(ref.uri)
        found = self.cache.find(digest) if digest else None
        if found is not None:
            return found
        if ref.uri.startswith(HUB):
            hub_file(ref.uri)  # a command that cannot work is not recommended
        if not self._may_fetch:
            pinned = f" --sha256 {ref.sha256}" if ref.sha256 else ""
            raise ModelError(
                f"{shown(ref.uri)}: is not in the model cache of this machine ({self.cache.root}), and runs fetch "
                f"nothing; run: facemint models fetch {shown(ref.uri)}{pinned}"
            )
        from pipeline.adapters.models.fetching import fetch

        return fetch(ref, self.cache)


__all__ = ["ModelWeights"]
