"""Vectors from a file: candidate i is row i, and when the rows are used up there are no more.

Vectors of real people are personal data. They come from `facemint bank vectors`, which asks for licence and lawful
basis, or from a file whose side-car or recipe states them; a run keeps the vectors it used in `enrolled/`, so a dataset
made from real people's vectors is not one of made-up people, whatever it looks like.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.adapters.samplers.population import handed_over
from pipeline.adapters.samplers.vector_files import VectorFile, read_vectors
from pipeline.domain.banking import allows_commercial_use
from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.ports import Bank, ModelCard
from pipeline.domain.recipe import Node
from pipeline.domain.records import Cell, Float32


class FilesSamplerOptions(Node):
    """Vectors from a file that declares their space; what the file does not say of itself is said here."""

    use: Literal["files"]
    path: Annotated[str, Field(min_length=1)]
    """A .npy, .npz, .safetensors or .parquet, at the same path on every worker."""
    licence: Annotated[str, Field(min_length=2, max_length=200)] | None = None
    real_people: bool | None = None
    """Whether the vectors were taken from images of real people."""
    lawful_basis: Annotated[str, Field(min_length=3, max_length=500)] | None = None
    """Needed where they were: on what ground these people's vectors may be used."""


class FilesSampler:
    """Implements `ports.IdentitySampler` over a file of vectors."""

    epoch = 1
    """Raised by hand when vectors change under an equal file."""

    def __init__(self, options: FilesSamplerOptions, bank: Bank, run_seed: int) -> None:
        """Read the file; refuse vectors of another space than the bank's, and people without a lawful basis."""
        where = "identities.sampler"
        try:
            self._file = read_vectors(Path(options.path).expanduser())
            space = self._file.space(options.path)
        except UserError as error:
            raise RecipeError(f"{where}.path: {error}") from None
        if space is None and (bank.gaussians or not getattr(bank, "declared", False)):
            # a space in the recipe is a declaration; a population's own, or the generator's, is no word about this file
            raise RecipeError(
                f"{where}.path: {options.path}: says of no space where its vectors live; write {options.path}.json "
                'beside it, {"space": {...}}, or declare it as identities.bank: {use: space, ...}'
            )
        if space is not None:
            bank.space.require_same(space, f"{where}.path: {options.path}")
        found = self._file.rows_ND.shape[1]
        if found != bank.space.dimensions:
            raise RecipeError(
                f"{where}.path: {options.path}: got vectors of {found} dimensions; "
                f"the space {bank.space.name!r} has {bank.space.dimensions}"
            )
        self.space = bank.space
        self.candidates: int | None = len(self._file.rows_ND)
        self.card = _card(options, self._file)

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return row `candidate`, float32, shape (D,); `cell` is not steered towards, nothing is drawn.

        Raises:
            IndexError: there is no such row.
        """
        assert self.candidates is not None
        if not 0 <= candidate < self.candidates:
            raise IndexError(f"candidate {candidate} of a file of {self.candidates} vectors")
        return handed_over(self._file.rows_ND[candidate].astype(np.float64), self.space)


def _card(options: FilesSamplerOptions, file: VectorFile) -> ModelCard:
    licence = _said("licence", options.licence, file, options.path)
    real = _said("real_people", options.real_people, file, options.path)
    basis = _said("lawful_basis", options.lawful_basis, file, options.path)
    for name, value in (("licence", licence), ("real_people", real)):
        if value is None:
            raise RecipeError(
                f"identities.sampler.{name}: missing; neither the recipe nor {options.path} says it; it must be given"
            )
    if real and not basis:
        raise RecipeError(
            f"identities.sampler.lawful_basis: missing; the vectors of {options.path} are those of real people, so the "
            "ground on which they may be used must be given"
        )
    return ModelCard(
        name=f"vectors {Path(options.path).name}",
        sha256=file.sha256,
        licence=str(licence),
        source=str(file.says.get("source", "given by the user")) + (f"; lawful basis: {basis}" if basis else ""),
        commercial_use=bool(file.says.get("commercial_use", allows_commercial_use(str(licence)))),
        row_independent=True,
        epoch=FilesSampler.epoch,
    )


def _said(name: str, asked: Any, file: VectorFile, path: str) -> Any:
    """Return what the recipe or the file says; they may not contradict each other."""
    said = file.says.get(name)
    if asked is not None and said is not None and asked != said:
        raise RecipeError(f"identities.sampler.{name}: got {asked!r}, but {path} says {said!r}; leave it out")
    return said if asked is None else asked
