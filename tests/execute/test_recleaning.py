"""Cleaning again by another recogniser: what it finds goes, what it takes for one is reported, labels stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import PlanMismatchError, UserError
from tests.command_line import facts_of, refused
from tests.crawls import blend, crawl, crawl_recipe, crawled, gather, outcomes, png
from tests.flow.erasing import DyingAtAnyChange
from tests.flow.test_run import Killed
from tests.worlds import Silent, bytes_of, copy_of, filled

BY = "sketch-auditor"
LEVELS = {"link_cos": 0.8, "keep_cos": 0.9, "same_cos": 0.75}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set whose cleaning let a look-alike through, and two people who look like one."""
    home = tmp_path_factory.mktemp("reclean")
    root = crawl(home / "crawl", {f"p{n:02d}": range(5) for n in range(4)})
    (root / "p01" / "other.png").write_bytes(png(blend(1, 51, 0)))
    (root / "p60").mkdir()
    for image in range(4):
        (root / "p60" / f"{image:03d}.png").write_bytes(png(blend(2, 52, image)))
    clean = crawl_recipe(root)["curate"]["clean"] | {"link": {"cos": 0.6}, "keep": {"cos": 0.6}}
    store = LocalStore(home / "set")
    gather(crawled(root, curate={"clean": clean, "rows": 8, "buckets": 3}), store)
    assert outcomes(store)["p01/other.png"][0] is not None
    wiring.measure_on(store, BY, [], Silent())
    return home / "set"


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "set"))


def levels() -> list[str]:
    """Return the thresholds as a user types them."""
    return [part for name, cos in LEVELS.items() for part in (f"--{name.replace('_', '-')}", str(cos))]


def test_what_another_recogniser_finds_leaves(place: Path) -> None:
    """The look-alike goes with a reason, whoever looks like one person is reported, and every other label stays."""
    store = LocalStore(place)
    before = outcomes(store)
    told = facts_of("reclean", place, "--by", BY, *levels())
    after = outcomes(store)
    assert after["p01/other.png"][0] is None
    assert {p: o for p, o in after.items() if p != "p01/other.png"} == {
        p: o for p, o in before.items() if p != "p01/other.png"
    }
    facts = told["reclean"]
    assert (facts["images"], facts["images_left_out"], facts["identities_left_out"]) == (25, 1, 0)
    pairs = {(a, b) for a, b, _ in facts["alike"]}
    assert pairs == {tuple(sorted((before["p02/000.png"][0], before["p60/000.png"][0])))}  # type: ignore[type-var]
    manifest = wiring.newest_manifest(str(place))
    assert manifest.version == "v000002"
    assert manifest.counts["refilter"]["left_out_by_reason"] == {f"main_cluster@{BY}_too_low": 1}
    assert manifest.counts["inputs"]["kept"] == 24
    assert f"main_cluster@{BY}_too_low" in (place / "versions" / "v000002" / "report.html").read_text()


def test_a_dry_run_writes_nothing(place: Path) -> None:
    """It says the same and leaves every byte as it was."""
    store = LocalStore(place)
    before = {path: store.get(path) for path in store.list("")}
    facts = facts_of("reclean", place, "--by", BY, *levels(), "--dry-run")
    assert facts["images_left_out"] == 1
    assert {path: store.get(path) for path in store.list("")} == before


def test_again_changes_nothing_and_anew_can_be_had(place: Path) -> None:
    """The same command stands on what it did; other thresholds need the filter taken back, and --replace."""
    facts_of("reclean", place, "--by", BY, *levels())
    store = LocalStore(place)
    before = bytes_of(store)
    assert facts_of("reclean", place, "--by", BY, *levels())["version"] == "v000002"
    assert bytes_of(store) == before
    strict = ["--link-cos", 0.2, "--keep-cos", 0.2]
    assert "with other thresholds" in refused("reclean", place, "--by", BY, *strict)
    assert "take that back first" in refused("reclean", place, "--by", BY, *strict, "--replace")
    facts_of("refilter", place, "--set", "filters=[]")
    assert outcomes(store)["p01/other.png"][0] is not None
    told = facts_of("reclean", place, "--by", BY, *strict, "--replace")
    assert told["reclean"]["images_left_out"] == 0
    assert told["reclean"]["version"] == "v000003"


def test_rounds_and_growth(tmp_path: Path) -> None:
    """Cleaned, taken back, grown, cleaned again: each version says what it left out, and no label changes."""
    root = crawl(tmp_path / "crawl", {f"p{n:02d}": range(4) for n in range(3)})
    (root / "p01" / "other.png").write_bytes(png(blend(1, 51, 0)))
    clean = crawl_recipe(root)["curate"]["clean"] | {"link": {"cos": 0.6}, "keep": {"cos": 0.6}}
    recipe = crawled(root, curate={"clean": clean, "rows": 8, "buckets": 3})
    store = LocalStore(tmp_path / "set")
    gather(recipe, store)
    before = outcomes(store)
    wiring.measure_on(store, BY, [], Silent())
    wiring.reclean_on(store, BY, LEVELS, Silent())
    crawl(root, {"p09": range(4)})
    with pytest.raises(PlanMismatchError, match="filters"):
        gather(recipe, store)
    wiring.refilter_on(store, wiring.changed_recipe(store, ["filters=[]"], None), Silent(), None, False, False)
    gather(recipe, store)
    with pytest.raises(UserError, match=r"1 of \d segments have no embeddings by 'sketch-auditor'"):
        wiring.reclean_on(store, BY, LEVELS, Silent(), replace=True)
    wiring.measure_on(store, BY, [], Silent())
    facts, published = wiring.reclean_on(store, BY, LEVELS, Silent(), replace=True)
    assert (facts["images"], facts["images_left_out"]) == (17, 1)
    assert published.manifest.counts["inputs"]["reasons"] == {"filter": {f"main_cluster@{BY}_too_low": 1}}
    after = outcomes(store)
    assert {p: o for p, o in after.items() if p in before and p != "p01/other.png"} == {
        p: o for p, o in before.items() if p != "p01/other.png"
    }


@pytest.mark.parametrize("dies_at", [2, 3, 5, 8])
def test_killed_and_run_again(made: Path, dies_at: int) -> None:
    """Whichever write is the last one, the same command ends in the same version."""
    home = LocalStore(made)
    straight = copy_of(home)
    wiring.reclean_on(straight, BY, LEVELS, Silent())
    dying = filled(DyingAtAnyChange(dies_at, after=True), home)
    with pytest.raises(Killed):
        wiring.reclean_on(dying, BY, LEVELS, Silent())
    store = copy_of(dying)
    wiring.reclean_on(store, BY, LEVELS, Silent())
    assert bytes_of(store) == bytes_of(straight)


def test_the_numbers_are_private(place: Path) -> None:
    """What is written of real people lies under private/; a published copy needs none of it."""
    before = set(LocalStore(place).list(""))
    facts_of("reclean", place, "--by", BY, *levels())
    new = [p for p in LocalStore(place).list("") if p not in before and "main-cluster" in p]
    assert new
    assert all(p.startswith("private/measures/") for p in new)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "arcface"], "--by arcface: no such recogniser was added; sketch-auditor; add one"),
        (["--by", BY], "cosines of the judge and not of this recogniser; give --link-cos and --keep-cos"),
    ],
)
def test_mistakes_are_one_line(place: Path, arguments: list[str], said: str) -> None:
    """A recogniser that nobody added, thresholds that nobody gave."""
    assert said in refused("reclean", place, *arguments)
