"""Affine maps between embedding spaces from files: what carries identity vectors of one recogniser to another's.

A map's file is a `.safetensors` of matrix and offset with one JSON in its metadata: both spaces, how well it carries
people over whom it was not fitted to, licence, lawful basis, source. It holds nobody's vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.ports import Bank, IdentitySampler, ModelCard
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32
from pipeline.domain.space import Space
from pipeline.domain.space_map import FitError, SpaceMap

SCHEMA_VERSION = 1
METADATA = "facemint"
_SAID = ("name", "licence", "source", "commercial_use")


class AffineMapOptions(Node):
    """A map that `facemint bank map` wrote."""

    use: Literal["affine"] = "affine"
    path: Annotated[str, Field(min_length=1)]
    """A .safetensors, at the same path on every worker. Its digest is fingerprinted, its place is not."""


class AffineMap:
    """A map between spaces, with a card."""

    epoch = 1
    """Raised by hand when vectors come out differently from equal files."""

    def __init__(self, options: AffineMapOptions) -> None:
        """Read the file, once in a process while it does not change.

        Raises:
            RecipeError: no such file, or not a map.
        """
        try:
            self.map, self.facts, digest = read_map(Path(options.path).expanduser())
        except UserError as error:
            raise RecipeError(f"identities.map.path: {error}") from None
        said = {k: self.facts[k] for k in _SAID}
        said["source"] = f"{said['source']}; {self.map.error.said()}"
        self.card = ModelCard(**said, sha256=digest, row_independent=True, epoch=self.epoch)

    def sampler(self, inner: IdentitySampler, bank: Bank) -> IdentitySampler:
        """Return a sampler whose vectors are carried over.

        Raises:
            SpaceMismatchError: the map is of another space than the bank.
        """
        self.map.source.require_same(bank.space, "identities.map: identities.bank")
        return _Mapped(inner, self.map)


class _Mapped:
    """Implements `ports.IdentitySampler` over another one and a map."""

    def __init__(self, inner: IdentitySampler, mapping: SpaceMap) -> None:
        self._inner, self._map = inner, mapping
        self.space: Space = mapping.target
        self.card, self.candidates = inner.card, inner.candidates
        self.draws_from_population = getattr(inner, "draws_from_population", False)

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return one vector of the target space, shape (D,), float32."""
        carried: Float32 = self._map.apply(self._inner.draw(candidate, cell, rng)[None])[0]
        return carried


def map_bytes(mapping: SpaceMap, facts: Mapping[str, Any]) -> bytes:
    """Return a map's file; equal arguments give equal bytes.

    Args:
        mapping: the map.
        facts: JSON-ready; `name`, `licence`, `source` and `commercial_use` at least.
    """
    from safetensors.numpy import save

    said = {
        **facts,
        "space": mapping.source.to_dict(),
        "target": mapping.target.to_dict(),
        "error": mapping.error.to_dict(),
        "schema": SCHEMA_VERSION,
    }
    # what is written is memory as it lies, whatever the strides say
    tensors = {
        "matrix_DS": np.ascontiguousarray(mapping.matrix_DS),
        "offset_D": np.ascontiguousarray(mapping.offset_D),
    }
    return bytes(save(tensors, metadata={METADATA: canonical_json(said).decode()}))


def read_map(path: Path) -> tuple[SpaceMap, dict[str, Any], str]:
    """Return a map, what its file says of itself, and the file's digest.

    Raises:
        UserError: no such file, damaged, or not a map.
    """
    try:
        stat = path.stat()
        return _read(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        raise UserError(f"{path}: no such file; make a map with `facemint bank map`") from None


def is_map(path: Path) -> bool:
    """Return whether a file is one of ours that holds a map, by what it says of itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return "target" in json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError):
        return False


@lru_cache(maxsize=2)
def _read(path: Path, _size_bytes: int, _mtime_ns: int) -> tuple[SpaceMap, dict[str, Any], str]:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load

    data = path.read_bytes()
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[METADATA])
        arrays = load(data)
        if facts["schema"] != SCHEMA_VERSION or any(k not in facts for k in _SAID):
            raise ValueError(f"schema {facts['schema']}; it needs {', '.join(_SAID)}")
        mapping = SpaceMap(
            Space.from_dict(facts["space"]),
            Space.from_dict(facts["target"]),
            arrays["matrix_DS"].astype(np.float64),
            arrays["offset_D"].astype(np.float64),
            FitError.from_dict(facts["error"]),
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not a map of this version ({said}); make one with `facemint bank map`") from None
    return mapping, facts, sha256_hex(data)
