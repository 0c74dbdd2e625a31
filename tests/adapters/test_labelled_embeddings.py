"""Files of embeddings: a declared space, plain arrays, and headers that must account for every byte."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.labelled.embeddings import EmbeddingFile
from pipeline.domain.errors import SpaceMismatchError, UserError
from pipeline.domain.space import Space
from pipeline.flow.labelled import embed_labelled
from tests.worlds import sketches

SPACE = Space("theirs", "cd" * 32, "sketch-32", "raw", 4)
VECTORS = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def npz(path: Path, **arrays: Any) -> Path:
    """Write an npz with a declared space, and return where."""
    np.savez(path, **{"space": np.array(json.dumps(SPACE.to_dict())), **arrays})
    return path


@pytest.mark.parametrize("width", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("labels", [[5, 5, 9], ["a", "a", "b"]])
def test_vectors_of_any_width_and_labels_of_either_kind_are_read(tmp_path: Path, width: type, labels: list) -> None:
    """Labels become text, vectors float32, rows without names are named by their number."""
    faces = list(EmbeddingFile(npz(tmp_path / "a.npz", vectors=VECTORS.astype(width), labels=labels)))

    assert [f.label for f in faces] == [str(x) for x in labels]
    assert [f.name for f in faces] == ["row 0", "row 1", "row 2"]
    np.testing.assert_array_equal(np.stack([f.vector_D for f in faces if f.vector_D is not None]), VECTORS)


def test_another_space_is_an_error(tmp_path: Path) -> None:
    """Vectors of another recogniser are never compared: the differing parts are named."""
    judge = wiring.build("judge", sketches().judge)
    source = EmbeddingFile(npz(tmp_path / "a.npz", vectors=VECTORS, labels=[1, 1, 2]))

    with pytest.raises(SpaceMismatchError, match="weights_sha256"):
        embed_labelled(source, judge, 8)


def test_rows_that_mean_nothing_are_listed(tmp_path: Path) -> None:
    """NaN, infinite and zero vectors have no row, and are named."""
    judge = wiring.build("judge", sketches().judge)
    vectors = np.ones((4, judge.space.dimensions), np.float32)
    vectors[0, 3], vectors[1], vectors[3, 0] = np.nan, 0, np.inf
    np.savez(tmp_path / "a.npz", vectors=vectors, labels=list("abcd"), space=json.dumps(judge.space.to_dict()))

    found = embed_labelled(EmbeddingFile(tmp_path / "a.npz"), judge, 8)

    assert found.unreadable == ("row 0", "row 1", "row 3")
    assert found.label_names == ("c",)


def lying(shape: tuple[int, ...]) -> bytes:
    """Return a stored array whose header claims another shape than it holds."""
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return data.getvalue() + VECTORS.tobytes()


def archive(path: Path, **members: bytes) -> Path:
    """Write a zip of stored arrays."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    Path(f"{path}.json").write_text(json.dumps({"space": SPACE.to_dict()}))
    return path


def stored(array: np.ndarray) -> bytes:
    """Return an array as numpy stores it."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


LABELS = stored(np.array([1, 1, 2]))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"vectors": lying((2**20, 2**20)), "labels": LABELS}, "header claims"),
        ({"vectors": lying((2, 4)), "labels": LABELS}, "header claims"),
        ({"vectors": stored(np.array([object()] * 3)), "labels": LABELS}, "header claims"),
        ({"vectors": b"\x93NUMPY\x09\x00", "labels": LABELS}, "not a plain numpy array"),
        ({"vectors": pickle.dumps(VECTORS), "labels": LABELS}, "not a plain numpy array"),
        ({"labels": LABELS}, "no array 'vectors'"),
        ({"vectors": stored(VECTORS)}, "no array 'labels'"),
        ({"vectors": stored(VECTORS[:2]), "labels": LABELS}, "3 labels for 2 vectors"),
        ({"vectors": stored(VECTORS[:, :3]), "labels": LABELS}, "shape \\(3, 3\\)"),
        ({"vectors": stored(VECTORS.astype(np.int32)), "labels": LABELS}, "type int32"),
        ({"vectors": stored(VECTORS), "labels": stored(np.array([1.5, 2, 3]))}, "labels of shape"),
        ({"vectors": stored(VECTORS), "labels": LABELS, "names": stored(np.array(["a"]))}, "1 names for 3"),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(tmp_path: Path, members: dict[str, bytes], told: str) -> None:
    """A header that claims more or less than the file holds, objects, and unequal lengths: one line, nothing run."""
    with pytest.raises(UserError, match=told) as caught:
        list(EmbeddingFile(archive(tmp_path / "a.npz", **members)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sidecar", "told"),
    [
        (None, "says of no space"),
        ("{", "not readable as JSON"),
        ("[]", "where a mapping"),
        ("{}", "where a mapping"),
        ('{"space": {"name": "x"}}', "a space has name"),
        (json.dumps({"space": {**SPACE.to_dict(), "dimensions": 0}}), "is not one"),
        (json.dumps({"space": {**SPACE.to_dict(), "dimensions": True}}), "is not one"),
        (json.dumps({"space": {**SPACE.to_dict(), "norm": "max"}}), "is not one"),
        (json.dumps({"space": {**SPACE.to_dict(), "name": 4}}), "is not one"),
    ],
)
def test_a_file_without_a_sound_space_is_refused(tmp_path: Path, sidecar: str | None, told: str) -> None:
    """A file of vectors that does not say where they live is not guessed at."""
    np.save(tmp_path / "a.npy", VECTORS)
    if sidecar is not None:
        (tmp_path / "a.npy.json").write_text(sidecar)
    with pytest.raises(UserError, match=told):
        EmbeddingFile(tmp_path / "a.npy")


def test_an_array_without_labels_is_refused(tmp_path: Path) -> None:
    """Vectors in .npy need labels beside them; either form is named."""
    np.save(tmp_path / "a.npy", VECTORS)
    (tmp_path / "a.npy.json").write_text(json.dumps({"space": SPACE.to_dict()}))
    with pytest.raises(UserError, match=r"a\.labels\.npy or a\.labels\.txt"):
        list(EmbeddingFile(tmp_path / "a.npy"))
    np.save(tmp_path / "a.labels.npy", np.array([3, 3, 4]))
    assert [f.label for f in EmbeddingFile(tmp_path / "a.npy")] == ["3", "3", "4"]


@pytest.mark.parametrize("cut", [10, 200])
def test_damaged_files_are_refused(tmp_path: Path, cut: int) -> None:
    """A truncated npz or parquet is the user's error, told in one line."""
    whole = npz(tmp_path / "a.npz", vectors=VECTORS, labels=[1, 1, 2]).read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-cut])
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(cut))
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(UserError, match="not readable as") as caught:
            list(EmbeddingFile(tmp_path / name))
        assert "\n" not in str(caught.value)
