"""Files of maps between spaces: written and read alike, refused where they are none, and samplers behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.adapters.samplers.gaussian import GaussianSampler, GaussianSamplerOptions
from pipeline.adapters.sketch import SketchBank
from pipeline.adapters.space_maps import AffineMap, AffineMapOptions, is_map, map_bytes, read_map
from pipeline.domain.errors import RecipeError, SpaceMismatchError, UserError
from pipeline.domain.records import Cell
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space
from pipeline.domain.space_map import SpaceMap, fit_map

FACTS = {"name": "there", "licence": "CC0-1.0", "source": "made up", "commercial_use": True}


def mapping(source: Space | None = None) -> SpaceMap:
    """Return a map out of the sketch bank's space into a made-up one of 5 dimensions."""
    bank = source or SketchBank().space
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, bank.dimensions)).astype(np.float32)
    y = (x @ rng.standard_normal((bank.dimensions, 5))).astype(np.float32)
    target = Space("there", "e" * 64, "arcface-112", "unit", 5)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return fit_map(bank, x, target, y, np.repeat(np.arange(150), 2))


def written(tmp_path: Path, source: Space | None = None) -> Path:
    """Return the path of such a map's file."""
    path = tmp_path / "map.safetensors"
    path.write_bytes(map_bytes(mapping(source), FACTS))
    return path


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Arrays, spaces and error survive; equal maps have equal bytes, and so one digest."""
    path, mine = written(tmp_path), mapping()
    found, facts, digest = read_map(path)
    np.testing.assert_array_equal(found.matrix_DS, mine.matrix_DS)
    assert (found.source, found.target, found.error) == (mine.source, mine.target, mine.error)
    assert facts["licence"] == "CC0-1.0"
    assert map_bytes(mapping(), FACTS) == path.read_bytes()
    assert AffineMap(AffineMapOptions(path=str(path))).card.sha256 == digest
    assert is_map(path)


def test_its_card_says_how_well_it_fits(tmp_path: Path) -> None:
    """Whoever reads a manifest sees the error beside the source."""
    card = AffineMap(AffineMapOptions(path=str(written(tmp_path)))).card
    assert card.source.startswith("made up; affine map fitted to 240 pairs of 120 identities; on 30 others: cosine")


def test_a_sampler_behind_a_map_speaks_the_target(tmp_path: Path) -> None:
    """A vector is drawn as before, and then carried over: it follows from its key alone."""
    bank = SketchBank()
    inner = GaussianSampler(GaussianSamplerOptions(use="gaussian"), bank, 0)
    mapped = AffineMap(AffineMapOptions(path=str(written(tmp_path)))).sampler(inner, bank)
    key = Key(1, Stream.CANDIDATE_VECTOR, 7)
    vector = mapped.draw(7, Cell(()), key.generator())
    expected = mapping().apply(inner.draw(7, Cell(()), key.generator())[None])[0]
    np.testing.assert_array_equal(vector, expected)
    assert vector.shape == (5,)
    assert mapped.space.name == "there"
    assert mapped.card == inner.card


def test_a_map_out_of_another_space_is_refused(tmp_path: Path) -> None:
    """A map serves the bank whose space it was fitted in, and no other."""
    bank = SketchBank()
    other = Space("other", "f" * 64, "sketch-32", "unit", 16)
    inner = GaussianSampler(GaussianSamplerOptions(use="gaussian"), bank, 0)
    with pytest.raises(SpaceMismatchError, match=r"identities\.map"):
        AffineMap(AffineMapOptions(path=str(written(tmp_path, other)))).sampler(inner, bank)


def test_what_is_no_map_is_one_line(tmp_path: Path) -> None:
    """A missing file, a torn one and another kind of file are the user's mistakes, with the key that names them."""
    path = written(tmp_path)
    for name, data in (("none", None), ("torn", path.read_bytes()[:300]), ("text", b"hello")):
        file = tmp_path / f"{name}.safetensors"
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(UserError, match="facemint bank map"):
            read_map(file)
        with pytest.raises(RecipeError, match=r"identities\.map\.path"):
            AffineMap(AffineMapOptions(path=str(file)))
        assert not is_map(file)
