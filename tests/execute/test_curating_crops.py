"""Stored images that show more than the judge's crop: models read the judge's crop out of what is stored."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.cropping import aligned_crop, inner_crop, wide_crop
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import RecipeError
from pipeline.domain.landmarks import alignment
from tests.crawls import crawl_recipe, crawled, gather, picture, png
from tests.worlds import Silent

PX, MARGIN = 96, 0.25
"""The judge's crop has 32 px: it lies in the middle, 64 px wide."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a crawl of crops that show a margin around what the judge reads, of six people."""
    for person in range(6):
        folder = tmp_path / "crawl" / f"p{person:02d}"
        folder.mkdir(parents=True)
        for image in range(4):
            (folder / f"{image:03d}.png").write_bytes(png(wide(picture(person, image))))
    return tmp_path / "crawl"


def wide(face: np.ndarray) -> np.ndarray:
    """Return a face at twice its size with noise around it."""
    out = np.random.default_rng(1).integers(0, 256, (PX, PX, 3)).astype(np.uint8)
    out[16:80, 16:80] = face.repeat(2, 0).repeat(2, 1)
    return out


def options(root: Path, **crop: float) -> dict[str, object]:
    """Return a recipe's section that asks for such crops."""
    return {**crawl_recipe(root)["curate"], "crop": crop}


def test_what_is_stored_shows_more(root: Path) -> None:
    """Stored images have the size asked for, and the judge tells people apart by what lies in their middle."""
    store = MemoryStore()
    manifest = gather(crawled(root, curate=options(root, px=PX, margin=MARGIN)), store).manifest
    assert manifest.counts["identities"] == 6
    assert manifest.counts["inputs"]["kept"] == 24
    for path in store.list("segments/"):
        if path.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(store.get(path))) as tar:
                jpegs = [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]  # type: ignore[union-attr]
            assert {Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs} == {(PX, PX)}


def test_later_readers_see_what_the_judge_saw(root: Path, tmp_path: Path) -> None:
    """The judge added to the set again finds the embeddings that the segments hold, and so does who reads its faces."""
    store = LocalStore(tmp_path / "set")
    recipe = crawled(root, curate=options(root, px=PX, margin=MARGIN))
    gather(recipe, store)
    wiring.measure_on(store, "sketch-judge", [], Silent())
    from pipeline.flow.sidecars import read_added_embeddings

    units = [p.removeprefix("receipts/").removesuffix(".json") for p in store.list("receipts/make-")]
    for unit in units:
        _, again = read_added_embeddings(Segments(), store, unit, "sketch-judge")
        stored = Segments().read_columns(store, unit, ["embedding"])["embedding"]
        assert np.abs(again - stored).max() < 1e-5
    faces = [one.face_HWC for one in wiring.labelled._dataset(str(tmp_path / "set"), "sketch-32")]
    assert {face.shape for face in faces if face is not None} == {(32, 32, 3)}
    assert len(faces) == 24


def test_a_crop_too_small_for_its_margin_is_refused(root: Path) -> None:
    """Where models would see fewer pixels than they read, the message says what would do."""
    with pytest.raises(RecipeError, match=r"curate\.crop\.px: got 40.*the judge reads 32; give 48 or more"):
        crawled(root, curate=options(root, px=40, margin=0.25))
    crawled(root, curate=options(root, px=48, margin=0.25))


@pytest.mark.parametrize(("px", "margin"), [(224, 0.25), (112, 0.0), (336, 0.5), (400, 0.1)])
def test_the_inner_part_is_the_aligned_crop(px: int, margin: float) -> None:
    """What is cut out of a wide crop is, but for resampling, what would have been cut out of the picture itself."""
    side = 600
    y, x = np.mgrid[:side, :side] / side
    smooth = np.stack([127 + 110 * np.sin(9 * x + 2 * y), 127 + 110 * np.cos(7 * y), 127 + 110 * np.sin(5 * (x - y))])
    image = np.round(smooth).transpose(1, 2, 0).astype(np.uint8)
    template = alignment("arcface-112")
    points = np.array(template.points) * 2.4 + 150
    whole = wide_crop(image, points, template, px, margin)
    plain = aligned_crop(image, points, template, 112)
    assert whole is not None
    assert plain is not None
    inner = inner_crop(whole, margin, 112)
    assert inner.shape == (112, 112, 3)
    assert np.abs(inner.astype(int) - plain)[2:-2, 2:-2].max() <= 3


def test_what_is_no_square_is_no_crop() -> None:
    """A stored image of another shape is damaged, and no wrong part of it is read."""
    with pytest.raises(ValueError, match="crops are square"):
        inner_crop(np.zeros((20, 30, 3), np.uint8), 0.25, 10)
    assert JpegCodec().decode(JpegCodec().encode(np.zeros((16, 16, 3), np.uint8))).shape == (16, 16, 3)
