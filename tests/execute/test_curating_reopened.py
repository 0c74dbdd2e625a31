"""Labels that were too small come again when there is more of them, and every input is counted once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.recipe import Recipe
from pipeline.flow.versions import read_manifest, versions
from tests.crawls import crawl, crawl_recipe, crawled, gather, outcomes
from tests.flow.erasing import erase
from tests.worlds import problems

LEAST = 3
CROWD = {"p90": range(LEAST), "p91": range(LEAST)}
"""Who is published from the start: a first version needs somebody."""


def recipe_of(root: Path) -> Recipe:
    """Return a recipe that wants three images of everybody."""
    asked = crawl_recipe(root)["curate"]
    return crawled(root, curate={**asked, "clean": {**asked["clean"], "min_images": LEAST}})


def kept(store: MemoryStore) -> set[str]:
    """Return the paths of the inputs that the newest version has an image of."""
    return {path for path, (label, _) in outcomes(store).items() if label is not None}


def require_accounted(store: MemoryStore, root: Path) -> None:
    """Hold the newest account against the files that are there."""
    account = read_manifest(store, versions(store)[-1]).counts["inputs"]
    assert account["listed"] == len(list(root.glob("*/*.png")))
    assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"]
    assert account["kept"] == len(kept(store))


@settings(max_examples=3, deadline=None)
@example(when=[[0, 1, 2], [0, 0, 1, 2], [1, 1, 1]])
@given(when=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=3))
def test_whoever_comes_bit_by_bit_is_published_with_everything(when: list[list[int]]) -> None:
    """In how many helpings the pictures of a label come does not decide whether it is published, nor with which."""
    with tempfile.TemporaryDirectory() as place:
        root, store = crawl(Path(place) / "crawl", CROWD), MemoryStore()
        for helping in range(3):
            for person, helpings in enumerate(when):
                for image, at in enumerate(helpings):
                    if at == helping:
                        crawl(root, {f"p{person:02d}": range(image, image + 1)})
            gather(recipe_of(root), store)
            require_accounted(store, root)
        enough = {f"p{n:02d}" for n, helpings in enumerate(when) if len(helpings) >= LEAST} | CROWD.keys()
        assert kept(store) == {str(p.relative_to(root)) for p in root.glob("*/*.png") if p.parent.name in enough}
        assert problems(store) == []
        digest = read_manifest(store, versions(store)[-1]).digest
        assert gather(recipe_of(root), store).manifest.digest == digest


def test_what_was_small_and_was_erased_does_not_come_again(tmp_path: Path) -> None:
    """An input that was erased while its label was too small stays away when the label grows; the others come."""
    root, store = crawl(tmp_path / "crawl", {**CROWD, "p01": range(2)}), MemoryStore()
    gather(recipe_of(root), store)
    listed = ParquetTables().read(store, "private/sources/s000001.parquet", ["row", "path"])
    (row,) = (int(r) for r, path in zip(listed["row"], listed["path"], strict=True) if path == b"p01/000.png")
    erase(store, sources=[row])
    crawl(root, {"p01": range(2, 4)})
    gather(recipe_of(root), store)
    assert {path for path in kept(store) if path.startswith("p01")} == {f"p01/{n:03d}.png" for n in (1, 2, 3)}
    assert problems(store) == []


def test_of_whom_came_bit_by_bit_everything_is_erased(tmp_path: Path) -> None:
    """Nothing of a person is left in either listing, and what stays is counted once."""
    root, store = crawl(tmp_path / "crawl", {**CROWD, "p01": range(2)}), MemoryStore()
    gather(recipe_of(root), store)
    crawl(root, {"p01": range(2, 4)})
    gather(recipe_of(root), store)
    (who,) = {label for path, (label, _) in outcomes(store).items() if path.startswith("p01")}
    assert who is not None
    erase(store, who)
    for path in store.list("private/sources/"):
        held = ParquetTables().read(store, path, ["path", "label"])
        assert not [place for place in held["path"] if place.startswith(b"p01")]
        assert "p01" not in held["label"]
    account = read_manifest(store, versions(store)[-1]).counts["inputs"]
    assert (account["listed"], account["kept"], account["reasons"]) == (10, 6, {"clean": {"erased": 4}})
    assert gather(recipe_of(root), store).resumed


def test_labels_of_somebody_published_are_not_reopened(tmp_path: Path) -> None:
    """A second person under a label that has one, too small to stay, is not looked at again as the label grows."""
    root, store = crawl(tmp_path / "crawl", {**CROWD, "p01": range(3)}), MemoryStore()
    other = crawl(tmp_path / "other", {"p02": range(2)})
    for image in range(2):
        (root / "p01" / f"z{image}.png").write_bytes((other / "p02" / f"{image:03d}.png").read_bytes())
    gather(recipe_of(root), store)
    before = kept(store)
    assert outcomes(store)["p01/z0.png"] == (None, "too_few_images")
    crawl(root, {"p01": range(3, 4)})
    counts = gather(recipe_of(root), store).manifest.counts
    assert counts["inputs"]["listed"] == 12
    assert kept(store) == before | {"p01/003.png"}
    assert "private/sources/s000002.parquet" in store.list("private/sources/")
    assert len(ParquetTables().read(store, "private/sources/s000002.parquet", ["row"])["row"]) == 1


def test_what_went_is_counted_once(tmp_path: Path) -> None:
    """How many inputs are gone is told of files, not of the listings that they stand in."""
    root, store = crawl(tmp_path / "crawl", {**CROWD, "p01": range(2)}), MemoryStore()
    gather(recipe_of(root), store)
    crawl(root, {"p01": range(2, 3)})
    gather(recipe_of(root), store)
    (root / "p01" / "000.png").unlink()
    crawl(root, {"p02": range(1)})
    counts = gather(recipe_of(root), store).manifest.counts
    assert counts["inputs"]["listed"] == 10
    assert [one["gone_since"] for one in counts["sources"] if "gone_since" in one] == [1]
    assert len(kept(store)) == 9
