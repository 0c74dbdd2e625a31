"""A whole curation in the sketch world: every input accounted for, growth, changed sources, resuming."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import PlanMismatchError, TargetNotReachedError
from tests.crawls import crawl, crawl_recipe, crawled, gather, outcomes, picture, png
from tests.worlds import bytes_of

PEOPLE = {f"p{n:02d}": range(5) for n in range(6)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a clean crawl of six people with five images each."""
    return crawl(tmp_path / "crawl", PEOPLE)


def test_a_clean_crawl_is_kept_whole(root: Path) -> None:
    """Every image of a clean crawl is published under the label that it came with."""
    store = MemoryStore()
    manifest = gather(crawled(root), store).manifest
    assert manifest.counts["inputs"] == {"listed": 30, "kept": 30, "refused": 0, "unreadable": 0, "reasons": {}}
    labels = Counter((path.split("/")[0], label) for path, (label, _) in outcomes(store).items())
    assert len(labels) == 6
    assert set(labels.values()) == {5}


def test_every_input_ends_somewhere(root: Path) -> None:
    """Junk, strays, copies and lone images are refused or unreadable with their reasons, and the numbers add up."""
    (root / "p00" / "junk.png").write_bytes(b"<html>")
    (root / "p00" / "empty.png").write_bytes(b"")
    shutil.copy(root / "p01" / "000.png", root / "p01" / "again.png")
    (root / "p02" / "stray.png").write_bytes(png(picture(50, 0)))
    (root / "p51").mkdir()
    (root / "p51" / "alone.png").write_bytes(png(picture(51, 0)))
    (root / "p00" / "small.png").write_bytes(png(picture(0, 9)[:12, :12]))
    store = MemoryStore()
    account = gather(crawled(root), store).manifest.counts["inputs"]
    assert (account["listed"], account["kept"]) == (36, 30)
    assert account["kept"] + account["refused"] + account["unreadable"] == account["listed"]
    found = {path: why for path, (label, why) in outcomes(store).items() if label is None}
    assert found == {
        "p00/junk.png": "not_an_image", "p00/empty.png": "empty", "p00/small.png": "too_small",
        "p01/again.png": "duplicate_bytes", "p02/stray.png": "not_of_its_label", "p51/alone.png": "too_few_images",
    }  # fmt: skip
    assert sum(n for reasons in account["reasons"].values() for n in reasons.values()) == 6


def test_strays_find_their_owner_and_split_labels_are_one(root: Path) -> None:
    """An image in a wrong folder goes to its person, and two folders of one person become one label."""
    (root / "p03" / "stray.png").write_bytes(png(picture(4, 7)))
    crawl(root, {"p05-again": range(5, 9)})
    store = MemoryStore()
    gather(crawled(root), store)
    found = outcomes(store)
    assert found["p03/stray.png"][0] == found["p04/000.png"][0]
    assert found["p05-again/005.png"][0] == found["p05/000.png"][0]


def test_two_people_in_one_folder_become_two(root: Path) -> None:
    """Of a folder with two people both are kept, under two labels."""
    for image in range(4):
        (root / "p00" / f"other-{image}.png").write_bytes(png(picture(60, image)))
    store = MemoryStore()
    gather(crawled(root), store)
    found = outcomes(store)
    assert found["p00/other-0.png"][0] == found["p00/other-3.png"][0]
    assert found["p00/other-0.png"][0] not in (None, found["p00/000.png"][0])


def test_unlabelled_images_are_clustered(tmp_path: Path) -> None:
    """Images that nobody labels become people by their likeness alone."""
    root = tmp_path / "flat"
    root.mkdir()
    for person in range(4):
        for image in range(4):
            (root / f"{image}-{person}.png").write_bytes(png(picture(person, image)))
    store = MemoryStore()
    gather(crawled(root), store)
    found = Counter((path[2], label) for path, (label, _) in outcomes(store).items())
    assert len(found) == 4
    assert set(found.values()) == {4}


def test_running_again_does_nothing(root: Path) -> None:
    """A second run of the same command leaves every byte as it is and says that the version stood."""
    store = MemoryStore()
    first = gather(crawled(root), store)
    before = {p: store.get(p) for p in store.list("") if not p.startswith(("lease", "runs/"))}
    second = gather(crawled(root), store)
    assert second.resumed
    assert second.manifest.digest == first.manifest.digest
    assert {p: store.get(p) for p in store.list("") if not p.startswith(("lease", "runs/"))} == before


def test_the_order_of_units_changes_nothing(root: Path) -> None:
    """Two runs in two places give the same bytes, whatever lay between."""
    one, other = MemoryStore(), MemoryStore()
    gather(crawled(root), one)
    gather(crawled(root), other)
    assert bytes_of(one) == bytes_of(other)


def test_growth_adds_and_changes_nothing(root: Path) -> None:
    """New images join their published person, new people get new labels, and no published image or label changes."""
    store = MemoryStore()
    gather(crawled(root), store)
    before = outcomes(store)
    crawl(root, {"p01": range(5, 8), "p20": range(4), "p21-late": range(1)})
    (root / "p02" / "other.png").write_bytes(png(picture(70, 0)))
    grown = gather(crawled(root), store).manifest
    after = outcomes(store)
    assert {path: after[path] for path in before} == before
    assert {after[f"p01/{n:03d}.png"][0] for n in range(5, 8)} == {before["p01/000.png"][0]}
    assert after["p20/000.png"][0] not in {label for label, _ in before.values()}
    assert after["p02/other.png"][0] is None
    assert (grown.version, grown.parent) == ("v000002", "v000001")
    account = grown.counts["inputs"]
    assert (account["listed"], account["kept"]) == (39, 37)


def test_copies_of_published_images_do_not_come_again(root: Path) -> None:
    """A later copy of a published image is refused as such."""
    store = MemoryStore()
    gather(crawled(root), store)
    shutil.copy(root / "p03" / "001.png", root / "p03" / "later.png")
    gather(crawled(root), store)
    assert outcomes(store)["p03/later.png"] == (None, "duplicate_bytes")


def test_what_went_or_changed_stays_published(root: Path) -> None:
    """A published image whose file is gone or altered stays; the next version says how many are."""
    store = MemoryStore()
    gather(crawled(root), store)
    before = outcomes(store)
    (root / "p00" / "000.png").unlink()
    (root / "p00" / "001.png").write_bytes(png(picture(33, 0)))
    assert gather(crawled(root), store).resumed
    crawl(root, {"p22": range(3)})
    manifest = gather(crawled(root), store).manifest
    after = outcomes(store)
    assert {path: after[path] for path in before} == before
    assert manifest.counts["sources"][-1] == {"changed_since": 1, "gone_since": 1}


def test_another_recipe_is_refused_with_the_field(root: Path) -> None:
    """A dataset is not curated on under other thresholds."""
    store = MemoryStore()
    gather(crawled(root), store)
    asked = crawl_recipe(root)["curate"]
    other = crawled(root, curate={**asked, "clean": {**asked["clean"], "link": {"cos": 0.7}}})
    with pytest.raises(PlanMismatchError, match=r"curate.clean.link.cos 0.7 instead of 0.8"):
        gather(other, store)


def test_a_source_of_nothing_is_said_in_one_line(tmp_path: Path) -> None:
    """A source without an input, and one without a face, end with what was found."""
    (tmp_path / "none").mkdir()
    with pytest.raises(TargetNotReachedError, match="hold nothing"):
        gather(crawled(tmp_path / "none"))
    (tmp_path / "junk" / "a").mkdir(parents=True)
    (tmp_path / "junk" / "a" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(TargetNotReachedError, match="1 not_an_image"):
        gather(crawled(tmp_path / "junk"))


def test_balance_takes_the_largest_even_set(root: Path) -> None:
    """With balance asked for, cells come out even, and who is left over is refused for that."""
    crawl(root, {f"p{n}": range(3) for n in range(30, 50)})
    store = MemoryStore()
    manifest = gather(crawled(root, balance={"by": ["shade"]}), store).manifest
    reached = {row["cell"]: row["reached"] for row in manifest.figures["balance"]["cells"]}
    assert max(reached.values()) - min(reached.values()) <= 1
    assert min(reached.values()) > 0
    assert "not_needed_for_balance" in manifest.counts["inputs"]["reasons"]["clean"]
