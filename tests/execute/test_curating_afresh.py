"""A first version of a curation that comes to nobody leaves the way open: for a milder recipe, for more photographs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import CalibrationError, LeaseHeldError, PlanMismatchError, TargetNotReachedError
from pipeline.domain.review import decisions_of
from pipeline.execute.settling import Reviewed
from pipeline.flow.removal import LOOK_S
from tests.crawls import crawl, crawl_recipe, crawled, gather, outcomes
from tests.recipes import MADE_UP
from tests.worlds import copy_of, mint, problems, sketches

PEOPLE = {f"p{n:02d}": range(3) for n in range(4)}
NOBODY = {"filters": [{"use": "range", "measure": "yaw_deg", "min": 80}]}
GALLERY = {"name": "people", "source": "sketch://faces?identities=5&images=2&seed=11", **MADE_UP}


def cleaned(least: int) -> dict[str, Any]:
    """Return how to curate where so many images of somebody are wanted."""
    asked = crawl_recipe(Path("anywhere"))["curate"]
    return {"curate": {**asked, "clean": {**asked["clean"], "min_images": least}}}


def held(store: MemoryStore) -> dict[str, bytes]:
    """Return every file but those that say when, where and by whom something was done."""
    told = ("runs/", "receipts/")
    return {p: store.get(p) if not p.startswith(told) else b"" for p in store.list("") if not p.startswith("runs/")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a crawl of four people."""
    return crawl(tmp_path / "crawl", PEOPLE)


@pytest.mark.parametrize(("strict", "why"), [(NOBODY, "12 yaw_deg_too_low"), (cleaned(5), "4 too_few_images")])
def test_after_nobody_was_left_a_milder_recipe_makes_what_it_makes_in_an_empty_place(
    root: Path, strict: dict[str, Any], why: str
) -> None:
    """Whether filters or cleaning left nobody: the next recipe is taken, and nothing of the first one remains."""
    store, anew = MemoryStore(), MemoryStore()
    for _ in range(2):
        with pytest.raises(TargetNotReachedError, match=rf"{why}; .*the same command begins afresh once the recipe is"):
            gather(crawled(root, **strict), store)
    assert gather(crawled(root), store).manifest.digest == gather(crawled(root), anew).manifest.digest
    assert held(store) == held(anew)
    assert problems(store) == []
    assert gather(crawled(root), store).resumed


def test_the_same_recipe_over_the_same_photographs_looks_at_none_again(root: Path) -> None:
    """What cannot end otherwise is told at once, from what was found: the photographs themselves need not be there.

    A link that leads nowhere will not either, until the listing tells of it.
    """
    store = MemoryStore()
    (root / "p00" / "broken.png").symlink_to("nowhere.png")
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **NOBODY), store)
    before = held(store)
    for folder in list(root.iterdir()):
        shutil.rmtree(folder)
    with pytest.raises(TargetNotReachedError, match="12 yaw_deg_too_low"):
        gather(crawled(root, **NOBODY), store)
    assert held(store) == before


def test_after_nobody_was_left_more_photographs_are_looked_at(root: Path) -> None:
    """Whom there were too few images of is there once there are more, under the same recipe; a plan says so before."""
    store, recipe = MemoryStore(), crawled(root, **cleaned(5))
    with pytest.raises(TargetNotReachedError):
        gather(recipe, store)
    crawl(root, {name: range(3, 5) for name in PEOPLE})
    manifest = gather(recipe, store).manifest
    assert (manifest.counts["identities"], manifest.counts["inputs"]["listed"]) == (4, 20)
    assert problems(store) == []


def test_a_plan_lists_everything_again_where_a_run_begins_afresh(root: Path, tmp_path: Path) -> None:
    """A plan for a place where nobody was left counts every photograph as new, as the run will."""
    out = tmp_path / "out"
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **cleaned(5)), LocalStore(out))
    assert wiring.plan_curation(crawled(root, **cleaned(5)), str(out), 1)["inputs"] == 0
    assert wiring.plan_curation(crawled(root), str(out), 1)["inputs"] == 12


def test_photographs_that_are_brought_back_are_looked_at(root: Path, tmp_path: Path) -> None:
    """Where everything was gone when it was to be written, the same command works once it is there again."""
    store, aside = MemoryStore(), tmp_path / "aside"
    gather(crawled(root), store, Reviewed(hold=True))
    shutil.move(root, aside)
    root.mkdir()
    with pytest.raises(TargetNotReachedError, match="12 gone_since_planned"):
        gather(crawled(root), store)
    root.rmdir()
    shutil.move(aside, root)
    assert gather(crawled(root), store).manifest.counts["images"] == 12


def test_sources_that_held_nothing_are_not_held_to_their_recipe(tmp_path: Path) -> None:
    """A place where nothing was listed is as good as empty: the recipe may be mended along with its sources."""
    store, root = MemoryStore(), tmp_path / "crawl"
    root.mkdir()
    with pytest.raises(TargetNotReachedError, match="the sources hold nothing"):
        gather(crawled(root, **NOBODY), store)
    crawl(root, PEOPLE)
    assert gather(crawled(root), store).manifest.counts["images"] == 12


def test_what_was_stopped_half_way_gives_way_to_no_other_recipe(root: Path) -> None:
    """Work that did not come to its end is not thrown away, whoever asks for something else."""
    store = MemoryStore()
    gather(crawled(root), store, Reviewed(hold=True))
    before = held(store)
    with pytest.raises(PlanMismatchError, match=r"holds a dataset of another recipe \(filters"):
        gather(crawled(root, **NOBODY), store)
    assert held(store) == before


def test_what_came_to_nobody_gives_way_to_no_dataset_of_another_name(root: Path) -> None:
    """Somebody who names a wrong place removes nothing of whoever works there."""
    store = MemoryStore()
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **NOBODY), store)
    before = held(store)
    with pytest.raises(PlanMismatchError, match=r"holds a dataset of another recipe \(filters"):
        gather(crawled(root, name="somebody-elses"), store)
    assert held(store) == before


def reviewing(**changes: Any) -> dict[str, Any]:
    """Return how to curate so that everybody is in the review queue."""
    return {"curate": {**crawl_recipe(Path("anywhere"))["curate"], "review": {"margin_cos": 0.5}}, **changes}


def decided(store: MemoryStore, word: str, many: int) -> Reviewed:
    """Return the queue of a store as people give it back, with a decision about the first faces of it."""
    head, *lines = store.get("private/review/g0.csv").decode().splitlines()
    faces = [line for line in lines if line.startswith("face,")]
    table = "\n".join([head, *(line + word for line in faces[:many])]).encode()
    return Reviewed(decisions_of(table, "given.csv"), table)


def test_what_people_decided_is_not_forgotten(root: Path) -> None:
    """Whom people refused does not come back under a milder recipe, unless they give decisions anew or take them back.

    Decisions under the recipe that stands are about what it found: new photographs wait.
    """
    store = MemoryStore()
    gather(crawled(root, **reviewing(**NOBODY)), store, Reviewed(hold=True))
    refused = decided(store, "refuse", 1)
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **reviewing(**NOBODY)), store, refused)
    before = held(store)
    with pytest.raises(PlanMismatchError, match=r"people decided about what is here .* again with --decisions"):
        gather(crawled(root, **reviewing()), store)
    assert held(store) == before
    taken_back = copy_of(store)
    assert gather(crawled(root, **reviewing()), store, refused).manifest.counts["images"] == 11
    assert list(outcomes(store).values()).count((None, "refused_by_review")) == 1
    crawl(root, {"p09": range(3)})
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **reviewing(**NOBODY)), taken_back, decided(taken_back, "", 0))
    assert gather(crawled(root, **reviewing()), taken_back).manifest.counts["images"] == 15


def test_what_is_held_for_review_gives_way_to_nothing(root: Path) -> None:
    """A queue that people are asked to go through stays what it is about, though an earlier run had come to nobody."""
    store = MemoryStore()
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **NOBODY), store)
    gather(crawled(root, **NOBODY), store, Reviewed(hold=True))
    before = held(store)
    with pytest.raises(PlanMismatchError, match=r"holds a dataset of another recipe \(filters"):
        gather(crawled(root), store)
    crawl(root, {"p09": range(3)})
    gather(crawled(root, **NOBODY), store, Reviewed(hold=True))
    assert held(store) == before


def test_a_minted_dataset_gives_way_to_no_curation(root: Path) -> None:
    """What was enrolled for a dataset that is to be minted is nothing that a curation may remove."""
    store = MemoryStore()
    with pytest.raises(TargetNotReachedError):
        mint(sketches(**NOBODY, attempts=1, rounds=1), store)
    before = held(store)
    with pytest.raises(PlanMismatchError, match="another recipe"):
        gather(crawled(root), store)
    assert held(store) == before


class _Killed(BaseException):
    """Stands for a process that is gone: nothing catches it on the way."""


class _DyingStore(MemoryStore):
    """A store whose process dies when it has removed so many files."""

    left = 10**9

    def delete(self, path: str) -> None:
        """Remove a file, or die."""
        self.left -= 1
        if self.left < 0:
            raise _Killed
        super().delete(path)


@pytest.mark.parametrize(("removed", "strict"), [(0, False), (7, True), (15, False)])
def test_a_run_that_is_killed_while_it_begins_afresh_is_gone_on_with(root: Path, removed: int, *, strict: bool) -> None:
    """However much was removed, the next run begins as in an empty place, under the old recipe too."""
    store, anew = _DyingStore(), MemoryStore()
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **NOBODY), store)
    store.left = removed
    with pytest.raises(_Killed):
        gather(crawled(root), store)
    store.left = 10**9
    if strict:
        with pytest.raises(TargetNotReachedError, match="12 yaw_deg_too_low"):
            gather(crawled(root, **NOBODY), store)
    gather(crawled(root), store)
    gather(crawled(root), anew)
    assert held(store) == held(anew)


class _TakenOverStore(MemoryStore):
    """A store whose process sleeps past its lease while it removes a file; meanwhile another run publishes."""

    before_removing: Callable[[], None] | None = None
    taken: str = ""

    def delete(self, path: str) -> None:
        """Remove a file, at once or when it is another's."""
        if self.before_removing is not None and path.startswith("segments/"):
            others, self.before_removing, self.taken = self.before_removing, None, path
            others()
        super().delete(path)


def test_whoever_was_replaced_while_it_removed_takes_nothing_of_the_other(root: Path) -> None:
    """The file in hand may be gone, which another run makes again; every other file of the published version stays."""
    store, published = _TakenOverStore(), dict[str, bytes]()
    with pytest.raises(TargetNotReachedError):
        gather(crawled(root, **NOBODY), store)

    def replace() -> None:
        lease = max(store.list("runs/lease-"))
        store.put(lease, json.dumps({**json.loads(store.get(lease)), "expires_s": 0.0}).encode())
        gather(crawled(root), store)
        published.update(held(store))
        time.sleep(LOOK_S)

    store.before_removing = replace
    with pytest.raises(LeaseHeldError):
        gather(crawled(root), store)
    assert "versions/v000001/manifest.json" in published
    assert published.keys() - held(store).keys() == {store.taken}
    assert gather(crawled(root), store).manifest.version == "v000001"
    assert held(store) == published


def test_a_gallery_that_gives_no_threshold_is_told_before_anything_is_listed(root: Path) -> None:
    """A rate that no calibration reaches for a gallery leaves the place open for another."""
    store = MemoryStore()
    with pytest.raises(CalibrationError, match=r"give leakage.control .*, or leakage.cos"):
        gather(crawled(root, leakage={"galleries": [GALLERY], "fpir": 1e-7}), store)
    assert not [path for path in store.list("") if path.startswith(("recipes/", "private/sources/", "receipts/"))]
    assert gather(crawled(root, leakage={"galleries": [GALLERY], "cos": 0.99}), store).manifest.version == "v000001"
