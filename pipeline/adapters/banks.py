"""Banks from files, and bare spaces: what is known of the identities that a generator's vectors stand for.

A bank file is a `.safetensors` of means and Cholesky factors with one JSON in its metadata: space, cells, licence,
lawful basis, source, identities and images per identity. It holds parameters of groups, never anybody's vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import Node
from pipeline.domain.space import Space

Gaussians = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
SCHEMA_VERSION = 1
METADATA = "facemint"
_CARD = ("name", "licence", "source", "commercial_use")


class FileBankOptions(Node):
    """A bank that `facemint bank fit` wrote."""

    use: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    """A .safetensors, at the same path on every worker. Its digest is fingerprinted, its place is not."""


class SpaceBankOptions(Node):
    """A space and nobody in it: for samplers that need no population, such as files and sphere.

    Without a word about the space it is the generator's own.
    """

    use: Literal["space"]
    name: Annotated[str, Field(min_length=1)] | None = None
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    alignment: Annotated[str, Field(min_length=1)] | None = None
    norm: Literal["unit", "raw"] | None = None
    dimensions: Annotated[int, Field(ge=2, le=65_536)] | None = None

    @model_validator(mode="after")
    def _whole_or_none(self) -> SpaceBankOptions:
        said = self.model_dump(exclude={"use"})
        lacking = [k for k, v in said.items() if v is None]
        if 0 < len(lacking) < len(said):
            raise ValueError(f"says of the space all but {', '.join(lacking)}; say that too, or nothing at all")
        return self


class FileBank:
    """Implements `ports.Bank` over a file."""

    epoch = 1
    """Raised by hand when Gaussians are read differently from equal files."""

    def __init__(self, options: FileBankOptions) -> None:
        """Read the file, once in a process while it does not change.

        Raises:
            RecipeError: no such file, or not a bank.
        """
        try:
            self.gaussians, self.facts, digest = read_bank(Path(options.path).expanduser())
        except UserError as error:
            raise RecipeError(f"identities.bank.path: {error}") from None
        self.space = Space.from_dict(self.facts["space"])
        said = {k: self.facts[k] for k in _CARD}
        self.card = ModelCard(**said, sha256=digest, row_independent=True, epoch=self.epoch)


class SpaceBank:
    """Implements `ports.Bank` without a population."""

    gaussians: Gaussians = {}

    def __init__(self, options: SpaceBankOptions, generator: Space | None = None) -> None:
        """Take the space as it is declared, or the generator's."""
        stated = options.name is not None or generator is None
        self.declared = stated
        """Whether somebody said so of vectors whose own file is silent about their space."""
        self.space = Space(**options.model_dump(exclude={"use"})) if stated else cast("Space", generator)
        digest = sha256_hex(canonical_json(self.space.to_dict()))
        whose = "declared in the recipe" if stated else "the generator's"
        self.card = ModelCard(f"space {self.space.name}", digest, "none needed", whose, True, True, 1)


def bank_bytes(gaussians: Gaussians, facts: Mapping[str, Any]) -> bytes:
    """Return a bank file; equal arguments give equal bytes.

    Args:
        gaussians: cell name, `all` among them -> mean (D,) and lower Cholesky factor (D, D).
        facts: JSON-ready; `space`, `name`, `licence`, `source` and `commercial_use` at least.
    """
    from safetensors.numpy import save

    cells = sorted(gaussians)
    tensors = {
        "mean_CD": np.stack([gaussians[c][0] for c in cells]).astype(np.float64),
        "factor_CDD": np.stack([np.tril(gaussians[c][1]) for c in cells]).astype(np.float64),
    }
    said = {**facts, "gaussians": cells, "schema": SCHEMA_VERSION}
    return bytes(save(tensors, metadata={METADATA: canonical_json(said).decode()}))


def read_bank(path: Path) -> tuple[Gaussians, dict[str, Any], str]:
    """Return a bank file's Gaussians, what it says of itself, and its digest.

    Raises:
        UserError: no such file, damaged, or not a bank.
    """
    try:
        stat = path.stat()
        return _read(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        raise UserError(f"{path}: no such file; make a bank with `facemint bank fit`") from None


@lru_cache(maxsize=4)
def _read(path: Path, _size_bytes: int, _mtime_ns: int) -> tuple[Gaussians, dict[str, Any], str]:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load

    data = path.read_bytes()
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[METADATA])
            if "vectors" in file.keys():  # noqa: SIM118 - a file of tensors, not a mapping
                raise UserError(
                    f"{path}: holds vectors of individuals (`facemint bank vectors`) and is no bank; name it "
                    "as identities.sampler: {use: files, path: ...}, or make a bank with `facemint bank fit`"
                )
        arrays = load(data)
        space = Space.from_dict(facts["space"])
        cells, mean_CD, factor_CDD = facts["gaussians"], arrays["mean_CD"], arrays["factor_CDD"]
        shapes = (mean_CD.shape, factor_CDD.shape)
        d = space.dimensions
        if facts["schema"] != SCHEMA_VERSION or shapes != ((len(cells), d), (len(cells), d, d)):
            raise ValueError(f"schema {facts['schema']}, arrays {shapes} for {len(cells)} cells of {d} dimensions")
        if "all" not in cells or any(k not in facts for k in _CARD):
            raise ValueError(f"it needs a Gaussian of all, and {', '.join(_CARD)}")
        diagonal = np.diagonal(factor_CDD, axis1=1, axis2=2)
        if not (np.isfinite(mean_CD).all() and np.isfinite(factor_CDD).all() and np.all(diagonal > 0)):
            raise ValueError("numbers that are not finite, or a factor without a positive diagonal")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not a bank of this version ({said}); make one with `facemint bank fit`") from None
    both = zip(mean_CD.astype(np.float64), factor_CDD.astype(np.float64), strict=True)
    return dict(zip(cells, both, strict=True)), facts, sha256_hex(data)
