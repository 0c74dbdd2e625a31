"""Every source of labelled faces keeps the promises of `ports.LabelledFaces`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import wiring
from jobs.wiring.labelled import open_labelled
from pipeline.adapters.stores import open_store
from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFaces, Recogniser
from pipeline.flow.labelled import embed_labelled
from tests.worlds import mint, sketches

EXPORTS = ("webdataset", "recordio", "imagefolder")
SOURCES = ("folder", "dataset", "npz", "npy", "parquet", "sketch", *EXPORTS)
SKETCH = "sketch://faces?identities=4&images=3&seed=5"


@pytest.fixture(scope="module")
def judge() -> Recogniser:
    """Return the sketch judge."""
    judge: Recogniser = wiring.build("judge", sketches().judge)
    return judge


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory, judge: Recogniser) -> dict[str, str]:
    """Return a reference of each kind of source; all but the dataset hold the faces of one sketch reference."""
    root = tmp_path_factory.mktemp("labelled")
    faces = list(open_labelled(SKETCH, alignment="sketch-32"))
    for face in faces:
        path = root / "folder" / f"{face.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face.face_HWC).save(path)
    vectors = judge.embed(np.stack([f.face_HWC for f in faces if f.face_HWC is not None]))
    labels, names = [f.label for f in faces], [f.name for f in faces]
    space = json.dumps(judge.space.to_dict())
    np.savez(root / "a.npz", vectors=vectors, labels=labels, names=names, space=np.array(space))
    np.save(root / "b.npy", vectors)
    (root / "b.labels.txt").write_text("\n".join(labels) + "\n")
    (root / "b.npy.json").write_text(json.dumps({"space": judge.space.to_dict()}))
    write_parquet(root / "c.parquet", vectors, labels, names, space)
    mint(sketches(exports=[{"use": kind} for kind in EXPORTS]), open_store(str(root / "set")))
    return {
        "folder": str(root / "folder"),
        "dataset": str(root / "set"),
        "npz": str(root / "a.npz"),
        "npy": str(root / "b.npy"),
        "parquet": str(root / "c.parquet"),
        "sketch": SKETCH,
        **{kind: str(root / "set/exports/v000001" / kind) for kind in EXPORTS},
    }


def write_parquet(path: Path, vectors: np.ndarray, labels: list[str], names: list[str], space: str) -> None:
    """Write embeddings as parquet, their space in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"label": labels, "name": names, "vector": list(vectors)})
    pq.write_table(table.replace_schema_metadata({"space": space}), path)


def opened(references: dict[str, str], kind: str) -> LabelledFaces:
    """Return a fresh source of a kind."""
    return open_labelled(references[kind], alignment="sketch-32")


@pytest.mark.parametrize("kind", SOURCES)
def test_order_labels_and_pixels_never_change(references: dict[str, str], kind: str) -> None:
    """Two passes, and a second source of the same reference, yield the same faces in the same order."""
    source = opened(references, kind)
    passes = [list(source), list(source), list(opened(references, kind))]

    for again in passes[1:]:
        for one, other in zip(passes[0], again, strict=True):
            assert (one.label, one.name) == (other.label, other.name)
            np.testing.assert_array_equal(one.face_HWC, other.face_HWC)
            np.testing.assert_array_equal(one.vector_D, other.vector_D)


@pytest.mark.parametrize("kind", SOURCES)
def test_names_are_unique_and_one_kind_of_face_is_given(references: dict[str, str], kind: str) -> None:
    """Every name comes once; a source gives crops of the asked size, or float32 vectors of a declared space."""
    source = opened(references, kind)
    faces = list(source)

    assert len({f.name for f in faces}) == len(faces) > 0
    assert source.name
    for face in faces:
        if source.space is None:
            assert face.vector_D is None
            assert face.face_HWC is not None
            assert face.face_HWC.shape == (32, 32, 3)
            assert face.face_HWC.dtype == np.uint8
        else:
            assert face.face_HWC is None
            assert face.vector_D is not None
            assert face.vector_D.shape == (source.space.dimensions,)
            assert face.vector_D.dtype == np.float32


@pytest.mark.parametrize("kind", ["folder", "npz", "npy", "parquet", "sketch"])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_embeddings_are_the_same_from_every_source(
    references: dict[str, str], judge: Recogniser, kind: str, batch: int
) -> None:
    """The same faces as pictures, as files of vectors and as drawn give the same rows and labels, at any batch."""
    found = embed_labelled(opened(references, kind), judge, batch)
    expected = embed_labelled(open_labelled(SKETCH, alignment="sketch-32"), judge, 8)

    np.testing.assert_allclose(found.emb_NE, expected.emb_NE, atol=1e-6)
    assert found.labels_N.tolist() == expected.labels_N.tolist() == [i // 3 for i in range(12)]
    assert found.label_names == expected.label_names
    assert found.unreadable == ()


@pytest.mark.parametrize("kind", ["dataset", *EXPORTS])
def test_a_dataset_gives_every_image_under_its_identity(
    references: dict[str, str], judge: Recogniser, kind: str
) -> None:
    """A published dataset of ten people with three images each comes whole, by identity; so do its exports."""
    found = embed_labelled(opened(references, kind), judge, 8)

    assert np.bincount(found.labels_N).tolist() == [3] * 10


def test_digests_tell_contents_apart(references: dict[str, str], judge: Recogniser) -> None:
    """The digest is of what was embedded: equal for equal faces, another one where a single pixel differs."""
    source = open_labelled(SKETCH, alignment="sketch-32")
    same = embed_labelled(source, judge, 4).digest

    assert embed_labelled(source, judge, 9).digest == same
    assert embed_labelled(open_labelled(SKETCH + "&first=1", alignment="sketch-32"), judge, 4).digest != same
    assert embed_labelled(opened(references, "npz"), judge, 4).digest != same


def test_more_people_and_images_leave_the_first_as_they_were() -> None:
    """A drawn person is named by seed and number: asking for more people or images changes none."""
    few = {f.name: f for f in open_labelled(SKETCH, alignment="sketch-32")}
    many = {f.name: f for f in open_labelled("sketch://faces?identities=9&images=5&seed=5", alignment="sketch-32")}
    part = {f.name: f for f in open_labelled(SKETCH + "&first=2", alignment="sketch-32")}

    for name, face in few.items():
        np.testing.assert_array_equal(face.face_HWC, many[name].face_HWC)
    for name in few.keys() & part.keys():
        np.testing.assert_array_equal(few[name].face_HWC, part[name].face_HWC)
    assert len(few.keys() & part.keys()) == 6


def test_rendered_phantoms_are_drawn_by_number_and_pass_through_jpeg() -> None:
    """Phantom renders are 112-pixel crops, the same alone as among others, and of other people for another seed."""
    two = list(open_labelled("phantom://renders?identities=2&images=2&seed=7", alignment="phantom-112"))
    second = list(open_labelled("phantom://renders?identities=1&images=1&seed=7&first=1", alignment="phantom-112"))
    other = next(iter(open_labelled("phantom://renders?identities=1&images=1&seed=8", alignment="phantom-112")))

    assert [f.label for f in two] == ["p000000"] * 2 + ["p000001"] * 2
    np.testing.assert_array_equal(two[2].face_HWC, second[0].face_HWC)
    assert two[0].face_HWC is not None
    assert two[0].face_HWC.shape == (112, 112, 3)
    assert not np.array_equal(two[0].face_HWC, two[1].face_HWC)
    assert not np.array_equal(two[0].face_HWC, other.face_HWC)


@pytest.mark.parametrize(
    ("reference", "alignment", "told"),
    [
        ("phantom://renders?identites=3", "phantom-112", "unknown 'identites'; known: identities"),
        ("phantom://renders?images=0", "phantom-112", "whole number from 1"),
        ("phantom://renders?seed=4294967296", "phantom-112", "whole number from 0"),
        ("phantom://renders?seed=-1", "phantom-112", "whole number"),
        ("phantom://heads", "phantom-112", "phantom://renders"),
        ("phantom://renders", "arcface-112", "aligned as phantom-112"),
        ("sketch://faces?first=4294967295&identities=2", "sketch-32", "ask for fewer"),
        ("pairs.bin", "phantom-112", "pairs"),
        ("nowhere", "phantom-112", "is no folder"),
        ("nowhere.npz", "phantom-112", "no such file"),
        ("s3:/", "phantom-112", "is no folder"),
        (".", "unsized", "ends in -<pixels>"),
    ],
)
def test_a_reference_that_names_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, alignment: str, told: str
) -> None:
    """What was got, what is allowed: an unknown key, number, scheme, place or alignment."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told) as caught:
        list(open_labelled(reference, alignment=alignment))
    assert "\n" not in str(caught.value)


def test_images_of_another_size_say_how_to_align(references: dict[str, str]) -> None:
    """A dataset or a folder of 32-pixel images is refused by a recogniser of 112-pixel crops."""
    for kind in ("dataset", "folder"):
        with pytest.raises(UserError, match="32 x 32 pixels where the recogniser reads aligned crops of 112 x 112"):
            list(open_labelled(references[kind], alignment="phantom-112"))


def test_an_unpublished_dataset_is_refused(tmp_path: Path) -> None:
    """A place with a folder of versions and no version says so."""
    (tmp_path / "versions").mkdir()
    with pytest.raises(UserError, match="no version is published"):
        open_labelled(str(tmp_path), alignment="sketch-32")


def test_grey_pictures_read_as_rgb(tmp_path: Path) -> None:
    """A grey PNG becomes three equal channels."""
    (tmp_path / "a").mkdir()
    data = io.BytesIO()
    Image.new("L", (32, 32), 77).save(data, "PNG")
    (tmp_path / "a" / "x.jpg").write_bytes(data.getvalue())

    (face,) = open_labelled(str(tmp_path), alignment="sketch-32")

    assert face.face_HWC is not None
    assert (face.face_HWC == 77).all()
