"""Samplers and banks one by one: what is theirs alone, and every file that they must refuse."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.banks import FileBank, FileBankOptions, SpaceBank, SpaceBankOptions, bank_bytes, read_bank
from pipeline.adapters.phantom.bank import PhantomBank
from pipeline.adapters.samplers.files import FilesSampler, FilesSamplerOptions
from pipeline.adapters.samplers.gaussian import GaussianSampler, GaussianSamplerOptions
from pipeline.adapters.samplers.packed import PackedSampler, PackedSamplerOptions
from pipeline.adapters.samplers.pca import PcaSampler, PcaSamplerOptions
from pipeline.adapters.samplers.sphere import SphereSampler, SphereSamplerOptions
from pipeline.adapters.samplers.vector_files import read_vectors, vector_file_bytes
from pipeline.adapters.sketch import DIMENSIONS, SketchBank
from pipeline.domain.errors import RecipeError, SpaceMismatchError, UserError
from pipeline.domain.records import Cell, Float32, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space
from tests.domain.test_packing import nearest_cos

SPACE = SketchBank().space
EVERYONE = Cell(())
SAYS = {"space": SPACE.to_dict(), "licence": "CC0-1.0", "real_people": False}
FACTS = {"name": "b", "licence": "CC0-1.0", "source": "made up", "commercial_use": True, "space": SPACE.to_dict()}


def rows(count: int = 8, dimensions: int = DIMENSIONS) -> Float32:
    """Return unit vectors."""
    return unit_rows(Key(4, Stream.PREVIEW).generator().standard_normal((count, dimensions)), "test")


def draws(sampler: Any, count: int, cell: Cell = EVERYONE) -> Float32:
    """Return the vectors of the first candidates."""
    return np.stack([sampler.draw(n, cell, Key(1, Stream.CANDIDATE_VECTOR, n).generator()) for n in range(count)])


def files(path: Path, **options: Any) -> FilesSampler:
    """Return a sampler over a file, in the sketch world."""
    return FilesSampler(FilesSamplerOptions(use="files", path=str(path), **options), SketchBank(), 1)


class TestGaussian:
    """The full-covariance Gaussian."""

    def test_its_bytes_are_those_of_earlier_versions(self) -> None:
        """Vectors drawn before samplers became a package are drawn still: epoch 1."""
        drawn = draws(GaussianSampler(GaussianSamplerOptions(use="gaussian"), SketchBank(), 0), 6)
        cell = draws(GaussianSampler(GaussianSamplerOptions(use="gaussian", scale=0.7), SketchBank(), 5), 6,
                     Cell(("round", "dark")))  # fmt: skip
        found = hashlib.sha256(drawn.tobytes() + cell.tobytes()).hexdigest()
        assert GaussianSampler.epoch == 1
        assert found == "d5d42a07fc74633a47d06c45d27e6682ff4cf2bc1bb3c4e8e529c6bdfe57493a"


class TestPca:
    """The leading axes."""

    def test_all_axes_are_the_whole_gaussian(self) -> None:
        """With all of the variance the draws have the full covariance."""
        every = draws(PcaSampler(PcaSamplerOptions(use="pca", variance=1.0), PhantomBank(), 0), 1500)
        full = draws(GaussianSampler(GaussianSamplerOptions(use="gaussian"), PhantomBank(), 0), 1500)
        a, b = np.cov(every.T), np.cov(full.T)
        assert np.linalg.norm(a - b) < 0.35 * np.linalg.norm(b)
        assert np.linalg.matrix_rank(every[:, :]) == PhantomBank().space.dimensions

    @pytest.mark.parametrize("keep", [1, 5])
    def test_kept_components_span_the_draws(self, keep: int) -> None:
        """Draws lie in the span of the mean and as many axes as are kept."""
        drawn = draws(PcaSampler(PcaSamplerOptions(use="pca", components=keep), PhantomBank(), 0), 30)
        assert np.linalg.matrix_rank(drawn.astype(np.float64), tol=1e-5) == keep + 1

    def test_less_variance_makes_people_more_alike(self) -> None:
        """Half of the variance leaves fewer directions, so neighbours lie nearer."""
        half = draws(PcaSampler(PcaSamplerOptions(use="pca", variance=0.5), PhantomBank(), 0), 200)
        most = draws(PcaSampler(PcaSamplerOptions(use="pca"), PhantomBank(), 0), 200)
        assert nearest_cos(half).mean() > nearest_cos(most).mean() + 0.05

    def test_both_ways_to_say_how_many_are_one_too_many(self) -> None:
        """`variance` and `components` exclude each other."""
        with pytest.raises(ValueError, match="not both"):
            PcaSamplerOptions(use="pca", variance=0.9, components=3)


class TestSphere:
    """Evenly on the sphere."""

    def test_directions_are_even_whatever_the_population(self) -> None:
        """The mean is nothing and every direction has an equal share."""
        drawn = draws(SphereSampler(SphereSamplerOptions(use="sphere"), PhantomBank(), 0), 2000).astype(np.float64)
        assert np.linalg.norm(drawn.mean(axis=0)) < 0.05
        spread = np.linalg.eigvalsh(drawn.T @ drawn / len(drawn)) * drawn.shape[1]
        assert 0.4 < spread.min() < spread.max() < 1.8

    @pytest.mark.parametrize(("norm", "length", "what"), [("unit", 2.0, "has unit vectors"), ("raw", None, "give the")])
    def test_a_length_belongs_to_raw_spaces(self, norm: str, length: float | None, what: str) -> None:
        """Raw spaces need one, unit spaces have none."""
        space = {**SPACE.to_dict(), "norm": norm}
        bank = SpaceBank(SpaceBankOptions(use="space", **space))
        with pytest.raises(RecipeError, match=f"identities.sampler.length: .*{what}"):
            SphereSampler(SphereSamplerOptions(use="sphere", length=length), bank, 0)


class TestPacked:
    """Packed along the bank's Gaussian."""

    def test_candidates_lie_further_apart_than_draws_across_blocks(self) -> None:
        """On the phantom bank the nearest neighbour of a candidate moves away by far, over two blocks."""
        options = PackedSamplerOptions(use="packed", size=150)
        packed = nearest_cos(draws(PackedSampler(options, PhantomBank(), 3), 300))
        plain = nearest_cos(draws(GaussianSampler(GaussianSamplerOptions(use="gaussian"), PhantomBank(), 3), 300))
        assert packed.mean() < plain.mean() - 0.15
        assert packed.max() < plain.max() - 0.15

    def test_another_seed_packs_other_people(self) -> None:
        """The run's seed decides where blocks start."""
        options = PackedSamplerOptions(use="packed", size=8, steps=3)
        one, other = (draws(PackedSampler(options, SketchBank(), seed), 8) for seed in (1, 2))
        assert float(np.abs(np.einsum("nd,nd->n", one, other)).max()) < 0.999

    def test_earlier_candidates_stay_when_more_are_asked_for(self) -> None:
        """A later block leaves earlier blocks as they were."""
        sampler = PackedSampler(PackedSamplerOptions(use="packed", size=8, steps=3), SketchBank(), 1)
        before = draws(sampler, 8)
        sampler.draw(30, EVERYONE, Key(1, Stream.CANDIDATE_VECTOR, 30).generator())
        np.testing.assert_array_equal(draws(sampler, 8), before)


class TestFiles:
    """Vectors from files."""

    def written(self, folder: Path, kind: str, vectors: Float32, says: dict[str, Any]) -> Path:
        """Write vectors in one of the forms; return the path."""
        path = folder / f"v.{kind}"
        if kind == "npy":
            np.save(path, vectors)
        elif kind == "npz":
            np.savez(path, vectors=vectors, other=np.zeros(3))
        elif kind == "safetensors":
            path.write_bytes(vector_file_bytes(vectors, says))
        else:
            table = pa.table({"name": ["x"] * len(vectors), "vector": list(vectors)})
            pq.write_table(table.replace_schema_metadata({"facemint": json.dumps(says)}), path)
        if kind in ("npy", "npz") and says:
            path.with_name(path.name + ".json").write_text(json.dumps(says))
        return path

    @pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "parquet"])
    def test_candidate_i_is_row_i(self, kind: str, tmp_path: Path) -> None:
        """In every form the rows come out in their order, and there are as many candidates as rows."""
        vectors = rows()
        sampler = files(self.written(tmp_path, kind, vectors, SAYS))
        assert sampler.candidates == 8
        np.testing.assert_allclose(draws(sampler, 8), vectors, atol=1e-7)
        assert sampler.card.licence == "CC0-1.0"
        assert sampler.card.commercial_use

    def test_there_is_nobody_beyond_the_last_row(self, tmp_path: Path) -> None:
        """A number without a row is an error of whoever asks."""
        sampler = files(self.written(tmp_path, "npy", rows(), SAYS))
        with pytest.raises(IndexError, match="candidate 8 of a file of 8"):
            draws(sampler, 9)

    def test_a_file_of_another_space_is_refused(self, tmp_path: Path) -> None:
        """Vectors of other weights would come out as plausible garbage."""
        other = {**SAYS, "space": {**SPACE.to_dict(), "weights_sha256": "0" * 64}}
        with pytest.raises(SpaceMismatchError, match=r"identities\.sampler\.path"):
            files(self.written(tmp_path, "npy", rows(), other))

    def test_a_file_that_says_no_space_needs_one_declared(self, tmp_path: Path) -> None:
        """A fitted bank says nothing of the file; a bare space in the recipe is a declaration."""
        path = self.written(tmp_path, "npy", rows(), {})
        with pytest.raises(RecipeError, match="says of no space"):
            files(path, licence="MIT", real_people=False)
        bank = SpaceBank(SpaceBankOptions(use="space", **SPACE.to_dict()))
        options = FilesSamplerOptions(use="files", path=str(path), licence="MIT", real_people=False)
        assert FilesSampler(options, bank, 1).space == SPACE

    @pytest.mark.parametrize(
        ("says", "options", "message"),
        [
            ({"real_people": False}, {}, "licence: missing"),
            ({"licence": "MIT"}, {}, "real_people: missing"),
            ({"licence": "MIT"}, {"real_people": True}, "lawful_basis: missing; the vectors of .* real people"),
            ({"licence": "MIT", "real_people": True}, {"real_people": False}, "got False, but .* says True"),
            (
                {"licence": "MIT", "real_people": True},
                {"licence": "CC0-1.0", "lawful_basis": "consent"},
                "'CC0-1.0', but",
            ),
        ],
    )
    def test_licence_and_lawful_basis_are_asked_for(
        self, says: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        """Without a licence, or real people without a lawful basis, nothing runs; a file is not contradicted."""
        path = self.written(tmp_path, "npy", rows(), {"space": SPACE.to_dict(), **says})
        with pytest.raises(RecipeError, match=f"identities.sampler.*{message}"):
            files(path, **options)

    def test_the_lawful_basis_stands_on_the_card(self, tmp_path: Path) -> None:
        """A model card of real people's vectors says on what ground they are used, and an unknown licence forbids."""
        says = {**SAYS, "real_people": True, "lawful_basis": "written consent", "licence": "agreement 7"}
        card = files(self.written(tmp_path, "safetensors", rows(), says)).card
        assert "written consent" in card.source
        assert not card.commercial_use

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("none.npy", None, "no such file"),
            ("v.txt", b"1 2 3", r"end in \.npy"),
            ("v.npy", b"not numpy", "not readable as .npy"),
            ("v.npz", b"not a zip", "not readable as .npz"),
            ("v.safetensors", b"12345678901234567890", "not readable as .safetensors"),
            ("v.parquet", b"PAR1", "not readable as .parquet"),
        ],
    )
    def test_what_is_no_file_of_vectors_is_refused(
        self, name: str, content: bytes | None, message: str, tmp_path: Path
    ) -> None:
        """Missing, foreign and damaged files end in one line that names them."""
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=message) as caught:
            files(tmp_path / name)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.zeros((3, DIMENSIONS), np.float32), "row 0 has length 0 "),
            (np.full((3, DIMENSIONS), np.nan, np.float32), "row 0 has length nan"),
            (np.ones((3, DIMENSIONS), np.int64), "got int64"),
            (np.ones(DIMENSIONS, np.float32), "shape \\(16,\\)"),
            (np.ones((0, DIMENSIONS), np.float32), "shape \\(0, 16\\)"),
            (np.ones((3, 5), np.float32), "got vectors of 5 dimensions"),
        ],
    )
    def test_rows_that_are_no_vectors_are_refused(self, vectors: Any, message: str, tmp_path: Path) -> None:
        """Zero, NaN, whole numbers, one row only, none, another dimension: refused before anything is drawn."""
        np.save(tmp_path / "v.npy", vectors)
        space = {**SPACE.to_dict(), "dimensions": vectors.shape[-1]} if vectors.shape[-1] != 5 else SPACE.to_dict()
        (tmp_path / "v.npy.json").write_text(json.dumps({**SAYS, "space": space}))
        with pytest.raises(RecipeError, match=message):
            files(tmp_path / "v.npy")

    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        """An array of objects would run code when it is read."""
        fired = tmp_path / "fired"

        class Bomb:
            def __reduce__(self) -> Any:
                return (Path.touch, (fired,))

        np.save(tmp_path / "v.npy", np.array([Bomb()], object), allow_pickle=True)
        (tmp_path / "w.npy").write_bytes(pickle.dumps(Bomb()))
        for name in ("v.npy", "w.npy"):
            with pytest.raises(UserError, match="not readable"):
                read_vectors(tmp_path / name)
        assert not fired.exists()


class TestFileBank:
    """A bank in a file."""

    def gaussians(self) -> dict[str, Any]:
        """Return two made-up Gaussians."""
        return {
            "round/dark": (np.ones(DIMENSIONS), np.eye(DIMENSIONS)),
            "all": (np.zeros(DIMENSIONS), np.eye(DIMENSIONS)),
        }

    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        """Gaussians, space and card come back, and the card's digest is the file's."""
        data = bank_bytes(self.gaussians(), FACTS)
        (tmp_path / "b.safetensors").write_bytes(data)
        bank = FileBank(FileBankOptions(use="file", path=str(tmp_path / "b.safetensors")))
        assert bank.space == SPACE
        assert bank.card.sha256 == hashlib.sha256(data).hexdigest()
        assert sorted(bank.gaussians) == ["all", "round/dark"]
        for cell, (mean, factor) in self.gaussians().items():
            np.testing.assert_array_equal(bank.gaussians[cell][0], mean)
            np.testing.assert_array_equal(bank.gaussians[cell][1], factor)

    def test_equal_banks_have_equal_bytes(self) -> None:
        """The order in which cells and facts were put together leaves no trace."""
        turned = dict(reversed(self.gaussians().items()))
        once = bank_bytes(self.gaussians(), FACTS)
        assert all(bank_bytes(turned, dict(reversed(FACTS.items()))) == once for _ in range(20))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"space": {**SPACE.to_dict(), "dimensions": 8}}, "for 2 cells of 8 dimensions"),
            ({"licence": None}, None),
            ({"space": {"name": "x"}}, "not a bank"),
        ],
    )
    def test_a_bank_that_contradicts_itself_is_refused(
        self, change: dict[str, Any], message: str | None, tmp_path: Path
    ) -> None:
        """Shapes that are not the space's, and facts that are missing, are found when it is read."""
        facts = {**FACTS, **change}
        if message is None:
            del facts["licence"]
        (tmp_path / "b.safetensors").write_bytes(bank_bytes(self.gaussians(), facts))
        with pytest.raises(UserError, match=message or "it needs"):
            read_bank(tmp_path / "b.safetensors")

    @pytest.mark.parametrize("content", [None, b"", b"x" * 100, b"vectors"])
    def test_what_is_no_bank_is_refused(self, content: bytes | None, tmp_path: Path) -> None:
        """Missing and foreign files, and files of vectors, end in one line that says how to make a bank."""
        path = tmp_path / "b.safetensors"
        if content is not None:
            path.write_bytes(vector_file_bytes(rows(), SAYS) if content == b"vectors" else content)
        with pytest.raises(RecipeError, match=r"identities.bank.path: .*facemint bank fit") as caught:
            FileBank(FileBankOptions(use="file", path=str(path)))
        assert "\n" not in str(caught.value)

    def test_numbers_that_are_none_are_refused(self, tmp_path: Path) -> None:
        """NaN in a mean, or a factor without a positive diagonal, is no Gaussian."""
        for bad in ((np.full(DIMENSIONS, np.nan), np.eye(DIMENSIONS)), (np.zeros(DIMENSIONS), -np.eye(DIMENSIONS))):
            path = tmp_path / f"{np.isnan(bad[0]).any()}.safetensors"
            path.write_bytes(bank_bytes({"all": bad}, FACTS))
            with pytest.raises(UserError, match="not finite, or a factor"):
                read_bank(path)


def test_a_bare_space_has_nobody_in_it() -> None:
    """It knows its space, no Gaussian, and is free to use."""
    bank = SpaceBank(SpaceBankOptions(use="space", **SPACE.to_dict()))
    assert bank.space == Space.from_dict(SPACE.to_dict())
    assert not bank.gaussians
    assert bank.card.commercial_use
