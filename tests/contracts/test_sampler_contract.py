"""One suite for every identity sampler, over banks of every kind: sketches, phantoms, files, bare spaces, raw ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter

from jobs import wiring
from jobs.components import COMPONENTS, PHOTOGRAPHS
from pipeline.adapters.banks import FileBank, FileBankOptions, SpaceBank, SpaceBankOptions, bank_bytes
from pipeline.adapters.phantom.bank import PhantomBank
from pipeline.adapters.sketch import SketchBank
from pipeline.domain.errors import RecipeError
from pipeline.domain.ports import Bank, IdentitySampler
from pipeline.domain.records import Cell
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space

SEED = 11
CELLS = (Cell(()), Cell(("round", "dark")), Cell(("square", "light")), Cell(("nobody", "knows")))
ROWS = 40
SMALL: Mapping[str, Mapping[str, Any]] = {"packed": {"size": 16, "steps": 4}}
"""Options under which a sampler is quick; several blocks of packed candidates are drawn."""


def raw_space(dimensions: int) -> Space:
    """Return a space whose vectors keep their lengths."""
    return Space("raw", "a" * 64, "sketch-32", "raw", dimensions)


def file_bank(folder: Path, space: Space) -> Bank:
    """Return a bank file over a space, with one cell beside everyone."""
    d = space.dimensions
    length = 20.0 if space.norm == "raw" else 1.0
    factor = np.tril(np.full((d, d), 0.02 * length)) + 0.3 * length * np.eye(d)
    gaussians = {"all": (np.zeros(d), factor), "round/dark": (np.full(d, 0.1 * length), factor)}
    said = {"name": "b", "licence": "CC0-1.0", "source": "made up", "commercial_use": True, "space": space.to_dict()}
    path = folder / f"{space.norm}.safetensors"
    path.write_bytes(bank_bytes(gaussians, said))
    return FileBank(FileBankOptions(use="file", path=str(path)))


def bare(space: Space) -> Bank:
    """Return a bank that knows nobody."""
    return SpaceBank(SpaceBankOptions(use="space", **space.to_dict()))


BANKS: Mapping[str, Callable[[Path], Bank]] = {
    "sketch": lambda folder: SketchBank(),
    "phantom": lambda folder: PhantomBank(),
    "file": lambda folder: file_bank(folder, SketchBank().space),
    "raw": lambda folder: file_bank(folder, raw_space(12)),
    "space": lambda folder: bare(SketchBank().space),
}
POPULATED = ("gaussian", "pca", "packed")
CASES = [
    (sampler, bank)
    for sampler in COMPONENTS["identities.sampler"]
    for bank in BANKS
    if sampler not in PHOTOGRAPHS and not (sampler in POPULATED and bank == "space")
]


def vectors_file(folder: Path, space: Space) -> str:
    """Write a file of vectors that says of itself what is needed; return its path."""
    path = folder / "vectors.npy"
    length = 20.0 if space.norm == "raw" else 1.0
    z = Key(2, Stream.PREVIEW).generator().standard_normal((ROWS, space.dimensions))
    np.save(path, (length * z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32))
    said = {"space": space.to_dict(), "licence": "CC0-1.0", "real_people": False}
    path.with_name("vectors.npy.json").write_text(json.dumps(said))
    return str(path)


Fresh = Callable[[], IdentitySampler]


@pytest.fixture(params=CASES, ids=["-".join(c) for c in CASES])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    """Return what makes a fresh sampler, of each kind over each kind of bank in turn."""
    name, kind = request.param
    bank = BANKS[kind](tmp_path)
    options: dict[str, Any] = {"use": name, **SMALL.get(name, {})}
    if name == "files":
        options["path"] = vectors_file(tmp_path, bank.space)
    if name == "sphere" and bank.space.norm == "raw":
        options["length"] = 21.9
    load = wiring.load(COMPONENTS["identities.sampler"][name][0])
    node = TypeAdapter(load).validate_python(options)

    def make() -> IdentitySampler:
        sampler: IdentitySampler = wiring.build("identities.sampler", node, bank, SEED)
        return sampler

    return make


def drawn(sampler: IdentitySampler, candidate: int, cell: Cell) -> npt.NDArray[np.float32]:
    """Return a candidate's vector, from its key as enrolment makes it."""
    return sampler.draw(candidate, cell, Key(SEED, Stream.CANDIDATE_VECTOR, candidate).generator())


def test_it_keeps_the_port(fresh: Fresh) -> None:
    """It has the port's attributes, an epoch, a card that states licence and digest, and its end where there is one."""
    sampler = fresh()
    assert isinstance(sampler, IdentitySampler)
    assert type(sampler).epoch >= 1  # type: ignore[attr-defined]
    assert len(sampler.card.sha256) == 64
    assert sampler.card.licence
    assert sampler.candidates is None or sampler.candidates == ROWS


def test_vectors_are_those_of_the_space(fresh: Fresh) -> None:
    """Every vector is float32, finite, of the space's dimension, and of unit length where the space says so."""
    sampler = fresh()
    for cell in CELLS:
        for candidate in (0, 3, 17, 39):
            vector = drawn(sampler, candidate, cell)
            assert vector.dtype == np.float32
            assert vector.shape == (sampler.space.dimensions,)
            assert np.isfinite(vector).all()
            length = float(np.linalg.norm(vector))
            assert length == pytest.approx(1, abs=1e-5) if sampler.space.norm == "unit" else length > 2


def test_a_vector_follows_from_its_key_alone(fresh: Fresh) -> None:
    """Fresh instances, any order, other draws in between, and a caller that writes into a result: equal bytes."""
    one, other = fresh(), fresh()
    asked = [(candidate, cell) for candidate in (0, 5, 20, 39) for cell in CELLS[:3]]
    forwards = {key: drawn(one, *key).tobytes() for key in asked}
    for key in reversed(asked):
        vector = drawn(other, *key)
        assert vector.tobytes() == forwards[key]
        vector[:] = 0
    assert {key: drawn(other, *key).tobytes() for key in asked} == forwards


def test_other_candidates_are_other_people(fresh: Fresh) -> None:
    """No two candidates share a vector."""
    sampler = fresh()
    rows = np.stack([drawn(sampler, n, CELLS[0]) for n in range(24)])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cos = unit @ unit.T
    np.fill_diagonal(cos, -1)
    assert cos.max() < 0.999


@pytest.mark.parametrize("name", POPULATED)
def test_who_draws_from_a_population_says_so_where_there_is_none(name: str, tmp_path: Path) -> None:
    """Over a bare space there is nothing to draw from, and the error says what to give."""
    node = wiring.load(COMPONENTS["identities.sampler"][name][0])(use=name)
    sampler = wiring.build("identities.sampler", node, bare(SketchBank().space), SEED)
    with pytest.raises(RecipeError, match=r"knows no population.*facemint bank fit"):
        drawn(sampler, 0, CELLS[0])


@pytest.mark.parametrize("name", POPULATED)
def test_a_cell_that_the_bank_knows_is_drawn_towards(name: str) -> None:
    """Draws towards a cell read as it more often than draws from everyone do."""
    node = wiring.load(COMPONENTS["identities.sampler"][name][0])(use=name, **SMALL.get(name, {}))
    sampler = wiring.build("identities.sampler", node, SketchBank(), SEED)
    cell = Cell(("square", "dark"))
    towards = np.stack([drawn(sampler, n, cell) for n in range(64)])
    anyone = np.stack([drawn(sampler, n, Cell(())) for n in range(64)])
    assert (towards[:, :2] > 0).all(axis=1).mean() > (anyone[:, :2] > 0).all(axis=1).mean() + 0.15


def test_a_bank_file_of_a_raw_space_keeps_lengths(tmp_path: Path) -> None:
    """Lengths of raw draws vary as the population's do; in a unit space they are all one."""
    node = wiring.load(COMPONENTS["identities.sampler"]["gaussian"][0])(use="gaussian")
    sampler = wiring.build("identities.sampler", node, file_bank(tmp_path, raw_space(12)), SEED)
    lengths = [float(np.linalg.norm(drawn(sampler, n, CELLS[0]))) for n in range(40)]
    assert np.std(lengths) > 1
    assert replace(sampler.space, norm="unit") != sampler.space
