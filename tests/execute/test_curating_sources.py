"""Sources that move, are named in two ways, hold the dataset itself or bring copies of what is published."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.cleaning import main_cluster
from pipeline.domain.curation import Cleaning
from pipeline.domain.errors import PlanMismatchError, RecipeError, TargetNotReachedError
from pipeline.execute.settling import Reviewed
from pipeline.flow.curating import clean
from tests.crawls import GROUND, crawl, crawl_recipe, crawled, gather, outcomes, picture, png
from tests.worlds import Silent

PEOPLE = {f"p{n:02d}": range(4) for n in range(4)}


def sources(*paths: Path | str, **options: str) -> list[dict[str, str]]:
    """Return folders as a recipe names them."""
    return [{"use": "folder", "path": str(path), **GROUND, **options} for path in paths]


def test_a_source_that_is_named_no_more_is_said_in_one_line(tmp_path: Path) -> None:
    """Inputs that are still to be read, of a source that the recipe names no more, end the run with what to do."""
    root, store = crawl(tmp_path / "crawl", PEOPLE), MemoryStore()
    gather(crawled(root), store, Reviewed(hold=True))
    moved = shutil.move(root, tmp_path / "moved")
    with pytest.raises(PlanMismatchError, match=r"crawl: inputs of it are still to be read.*`name: .*crawl`"):
        gather(crawled(Path(moved)), store)
    named = crawled(Path(moved), sources=sources(moved, name=str(root)))
    assert gather(named, store).manifest.counts["inputs"]["kept"] == 16


def test_a_named_source_may_move(tmp_path: Path) -> None:
    """What a dataset knows by a name is nothing new where it lies elsewhere."""
    root, store = crawl(tmp_path / "crawl", PEOPLE), MemoryStore()
    gather(crawled(root, sources=sources(root, name="first")), store)
    moved = Path(shutil.move(root, tmp_path / "moved"))
    assert gather(crawled(moved, sources=sources(moved, name="first")), store).resumed
    assert gather(crawled(moved, sources=sources(f"{moved}/./", name="first")), store).resumed


@pytest.mark.parametrize("other", ["{}", "{}/", "{}/../crawl", "{}/."])
def test_one_place_is_named_once(tmp_path: Path, other: str) -> None:
    """One folder, however it is written, is one source."""
    root = crawl(tmp_path / "crawl", PEOPLE)
    twice = [*sources(root), *sources(other.format(root), name="other")]
    with pytest.raises(RecipeError, match="are one place; keep one"):
        gather(crawled(root, sources=twice))


@pytest.mark.parametrize("where", [".", "out", "p00/out"])
def test_a_dataset_does_not_lie_in_its_own_source(tmp_path: Path, where: str) -> None:
    """A dataset whose next listing would hold its own images is refused before anything is written."""
    root = crawl(tmp_path / "crawl", PEOPLE)
    before = sorted(root.rglob("*"))
    for write in (
        lambda uri: wiring.open_curation(crawled(root), uri, Silent()),
        lambda uri: wiring.plan_curation(crawled(root), uri, 1),
    ):
        with pytest.raises(RecipeError, match=r"lies inside the source .*; choose a place outside of it"):
            write(str(root / where))
    assert sorted(root.rglob("*")) == before


def test_a_crawl_that_is_gone_before_it_is_written_is_said_to_be_gone(tmp_path: Path) -> None:
    """Where nobody is left as the files went, that is what the message says."""
    root, store = crawl(tmp_path / "crawl", PEOPLE), MemoryStore()
    gather(crawled(root), store, Reviewed(hold=True))
    for folder in list(root.iterdir()):
        shutil.rmtree(folder)
    with pytest.raises(TargetNotReachedError, match="16 gone_since_planned"):
        gather(crawled(root), store)


def test_thresholds_of_two_kinds_are_compared_before_anything_is_read(tmp_path: Path) -> None:
    """Where one threshold is a rate and the other a cosine, which is the stricter is found out at the start."""
    root = crawl(tmp_path / "crawl", PEOPLE)
    asked = crawl_recipe(root)["curate"]
    asked["clean"] |= {"merge": {"fmr": 0.01}, "drop": {"cos": 0.99}}
    with pytest.raises(RecipeError, match=r"clean.drop: a cosine of 0.990, stricter than clean.merge, which is 0\.\d+"):
        crawled(root, curate=asked)


@pytest.mark.parametrize(
    ("named", "published"), [({}, {"caption", "licence"}), ({"columns": ["url"]}, {"url", "licence"})]
)
def test_where_an_image_lay_is_published_only_if_named(
    tmp_path: Path, named: dict[str, list[str]], published: set[str]
) -> None:
    """Addresses, paths and EXIF that come with images stay out of what is published, unless the recipe names them."""
    root, store = crawl(tmp_path / "crawl", PEOPLE), MemoryStore()
    facts = {
        "url": "https://a.example/jane.jpg",
        "image_url": "x",
        "exif": {"GPSLatitude": 52},
        "file_name": "jane.jpg",
    }
    for image in root.glob("*/*.png"):
        image.with_suffix(".json").write_text(json.dumps({**facts, "caption": "a face"}))
    gather(crawled(root, sources=[{**sources(root)[0], **named}]), store)
    unit = next(p for p in store.list("receipts/make-")).removeprefix("receipts/").removesuffix(".json")
    found = Segments().read_columns(store, unit, ["sourced"])["sourced"]
    assert all(set(one) == published for one in found)


def mottled(person: int, image: int) -> np.ndarray:
    """Return a picture whose perceptual hash is its own."""
    noise = np.random.default_rng([person, image, 9]).standard_normal((8, 8, 1))
    spots = np.kron(noise, np.ones((4, 4, 3))) * 30
    return np.asarray(np.clip(picture(person, image) + spots, 0, 255), np.uint8)


def test_near_copies_of_published_images_do_not_come_again(tmp_path: Path) -> None:
    """Another quality of a published picture, and its mirror image, are refused when they are found later."""
    root, store = tmp_path / "crawl", MemoryStore()
    for person in (1, 5, 9):
        (root / f"p{person}").mkdir(parents=True)
        for image in range(3):
            (root / f"p{person}" / f"{image}.png").write_bytes(png(mottled(person, image)))
    asked = crawl_recipe(root)["curate"]
    asked["clean"] |= {"link": {"cos": 0.4}, "keep": {"cos": 0.4}, "duplicates": {"bits": 6, "cos": None}}
    assert gather(crawled(root, curate=asked), store).manifest.counts["inputs"]["kept"] == 9
    jpeg = io.BytesIO()
    Image.fromarray(mottled(5, 1)).save(jpeg, "JPEG", quality=60)
    (root / "p5" / "again.jpg").write_bytes(jpeg.getvalue())
    (root / "p5" / "mirrored.png").write_bytes(png(np.ascontiguousarray(mottled(5, 1)[:, ::-1])))
    (root / "p5" / "new.png").write_bytes(png(mottled(5, 8)))
    gather(crawled(root, curate=asked), store)
    found = outcomes(store)
    assert found["p5/again.jpg"] == found["p5/mirrored.png"] == (None, "near_duplicate")
    assert found["p5/new.png"][0] == found["p5/0.png"][0]


def test_a_label_of_copies_fits_into_memory() -> None:
    """A label with many copies of one picture needs no memory for every pair of them."""
    count = 1000
    emb = np.random.default_rng(0).standard_normal((1, 32)) + np.zeros((count, 1))
    faces = {
        "sha256": [str(n) for n in range(count)], "face": np.zeros(count, int), "row": np.arange(count),
        "measures": [{}] * count, "hash": np.zeros(count, np.int64), "mirrored": np.zeros(count, np.int64),
        "embedding": (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32),
    }  # fmt: skip
    tracemalloc.start()
    settled = clean._settle(faces, np.arange(count), clean.Limits(0.4, 0.4, 0.7, 0.6), Cleaning(), labelled=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert settled.reason_N == ["", *["near_duplicate"] * (count - 1)]
    assert set(settled.found_N[1:]) == {"row 0"}
    assert peak < 60e6


def test_a_large_label_fits_into_memory() -> None:
    """A label of thousands of alike images is clustered without holding every pair of them."""
    noise = np.random.default_rng(0).standard_normal((3000, 16))
    emb = noise * 0.01 + np.ones(16)
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    tracemalloc.start()
    found = main_cluster(emb, link_cos=0.4, keep_cos=0.4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.kept_N.all()
    assert peak < 300e6
