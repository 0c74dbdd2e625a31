"""Images that nobody labels, which come bit by bit: who is published grows, and who was too small stays away."""

from __future__ import annotations

from pathlib import Path

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.recipe import Recipe
from tests.crawls import crawl, crawl_recipe, crawled, gather, outcomes
from tests.worlds import problems


def heap(root: Path, people: dict[str, range]) -> Path:
    """Write images into one folder without a folder per person, so that nothing says whose they are."""
    crawl(root / "by-name", people)
    for path in sorted((root / "by-name").glob("*/*.png")):
        path.rename(root / f"{path.parent.name}-{path.name}")
    for folder in (*(root / "by-name").iterdir(), root / "by-name"):
        folder.rmdir()
    return root


def recipe_of(root: Path) -> Recipe:
    """Return a recipe that wants three images of everybody."""
    asked = crawl_recipe(root)["curate"]
    return crawled(root, curate={**asked, "clean": {**asked["clean"], "min_images": 3}})


def test_of_images_that_nobody_labels_those_of_somebody_published_join_and_small_clusters_stay(tmp_path: Path) -> None:
    """A person who is published gets what comes later; a cluster too small at its time is not looked at again."""
    root, store = heap(tmp_path / "heap", {"p01": range(3), "p02": range(2)}), MemoryStore()
    gather(recipe_of(root), store)
    assert outcomes(store)["p02-000.png"] == (None, "too_few_images")
    heap(root, {"p01": range(3, 5), "p02": range(2, 3)})
    manifest = gather(recipe_of(root), store).manifest
    found = outcomes(store)
    assert {label for path, (label, _) in found.items() if path.startswith("p01")} == {0}
    assert {outcome for path, outcome in found.items() if path.startswith("p02")} == {(None, "too_few_images")}
    # three at once are somebody
    heap(root, {"p02": range(3, 6)})
    gather(recipe_of(root), store)
    found = outcomes(store)
    assert [found[f"p02-{n:03d}.png"][0] for n in range(6)] == [None] * 3 + [1] * 3
    assert manifest.counts["inputs"]["listed"] == 8
    assert problems(store) == []
