"""Label noise planted into real photographs: what cleaning finds, what it takes for a fault, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore
from pipeline.execute.curating import curate
from tests.crawls import crawled, outcomes
from tests.photographs import ASSETS, LFW, SCRFD
from tests.planted_labels import Outcome, Planted, good_lost, label_noise, plant, scores
from tests.worlds import Silent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LFW.is_dir(), reason="the photographs and models of ../shared/assets are not here"),
]
GROUND = {"licence": "research benchmark", "lawful_basis": "a test of this software, kept on this machine"}
JUDGE = {
    "use": "onnx", "path": str(ASSETS / "models" / "mobilefacenet_foamliu_128d.onnx"), "name": "foamliu",
    "licence": "Apache-2.0", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
}  # fmt: skip
AUDITOR = {
    "use": "onnx", "path": str(SCRFD.parent / "w600k_mbf_uint8dyn.onnx"), "name": "w600k",
    "licence": "non-commercial research", "batch": 1,
}  # fmt: skip
CLEAN = {"link": {"cos": 0.33}, "keep": {"cos": 0.36}, "merge": {"cos": 0.7}, "drop": {"cos": 0.6}}


def _cleaned(people: list[str], tmp_path: Path, seed: int) -> tuple[Planted, dict[str, Outcome]]:
    """Plant, curate, and return the truth and what became of every file."""
    truth = plant(LFW, people, tmp_path / "crawl", seed)
    recipe = crawled(
        tmp_path / "crawl",
        sources=[{"use": "folder", "path": str(tmp_path / "crawl"), **GROUND}],
        align={
            "detector": {"use": "scrfd", "path": str(SCRFD), "size_px": 320, "licence": "non-commercial research"},
            "choice": "central",
        },
        judge=JUDGE,
        auditor=AUDITOR,
        measures=[],
        curate={"clean": CLEAN},
        unit={"identities": 100},
    )
    store = LocalStore(tmp_path / "out")
    curate(*wiring.curation_on(recipe, store, Silent()))
    return truth, {path: Outcome(*told) for path, told in outcomes(store).items()}


def _told(truth: Planted, found: dict[str, Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    """Print the table, and hold what the documentation says against it."""
    table = scores(truth, found)
    noise, lost = label_noise(truth, found), good_lost(truth, found)
    with capsys.disabled():
        print(f"\n{'fault':<8}{'planted':>8}{'found':>7}{'recall':>8}{'precision':>11}")  # noqa: T201
        for name, score in table.items():
            print(f"{name:<8}{score.planted:>8}{score.found:>7}{score.recall:>8.3f}{score.precision:>11.3f}")  # noqa: T201
        print(f"label noise {noise:.2%}, good images lost {len(lost) / len(truth.person):.2%}")  # noqa: T201
    assert noise < 0.005
    assert len(lost) < 0.02 * len(truth.person)
    assert table["moved"].recall >= 0.98
    assert table["copies"].recall >= 0.9
    assert table["junk"].recall == table["junk"].precision == 1.0
    assert table["split"].recall == table["joined"].recall == 1.0


def test_planted_noise_is_found_among_forty_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5 % in wrong folders, 3 % copies, two people split, two joined, junk: found, and little else."""
    people = [line.strip() for line in (LFW / "identities40.txt").read_text().splitlines() if line.strip()]
    _told(*_cleaned(people, tmp_path, 3), capsys)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [3, 4])
def test_planted_noise_is_found_among_all(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The same among everybody of the benchmark's folds with two photographs or more."""
    people = [p.name for p in sorted(LFW.iterdir()) if p.is_dir() and len(list(p.glob("*.jpg"))) >= 2]
    _told(*_cleaned(people, tmp_path, seed), capsys)
