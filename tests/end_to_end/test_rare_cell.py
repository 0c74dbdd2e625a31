"""A cell that hardly anybody of a population is in: equal shares of it are reached exactly, or the run says why not.

The sketch bank with a rare cell knows everyone alone, so that nothing can be drawn towards that cell: the hard case.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.sketch import (
    SketchBank,
    SketchBankOptions,
    SketchGenerator,
    SketchGeneratorOptions,
    SketchMeasures,
)
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import TargetNotReachedError
from pipeline.domain.records import unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.flow.versions import read_manifest
from tests.end_to_end.commands import ROOT, written
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

RARE = 0.02
IMPOSSIBLE = 1e-12
SQUARE_DARK = "square/dark"


def rare_recipe(rounds: int, rare: float = RARE, **changes: Any) -> dict[str, Any]:
    """Return a recipe of 12 people, a quarter in each cell, one of which is rare."""
    small = sketch_recipe()
    people = {**small["identities"], "count": 12, "images_per_identity": 2, "bank": {"use": "sketch", "rare": rare}}
    apart = {"separation": {"cos": 0.97}, "consistency": {"cos": 0.5}, "vector_separation_cos": 0.99}
    enrol = {"probes": 3, "unit_candidates": 10, "rounds": rounds, **apart}
    filters = [{"use": "own-template", "fmr": 1e-2}]
    return sketch_recipe(**{"identities": people, "enrol": enrol, "filters": filters, **changes})


def reached(balance: dict[str, Any]) -> dict[str, int]:
    """Return reached identities by cell."""
    return {row["cell"]: row["reached"] for row in balance["cells"]}


def test_the_cell_is_rare_by_nature() -> None:
    """Of 3,000 drawn from the population, fewer than 3 % are read as square and dark, and some are."""
    mean, factor = SketchBank(SketchBankOptions(use="sketch", rare=RARE)).gaussians["all"]
    raw = mean + Key(1, Stream.PREVIEW).generator().standard_normal((3000, len(mean))) @ factor.T
    noise = Key(2, Stream.PREVIEW).generator().standard_normal((3000, *SketchGenerator.noise_shape), dtype=np.float32)
    generator = SketchGenerator(SketchGeneratorOptions(use="sketch"))
    faces = generator.generate(unit_rows(raw, "people"), [{}] * 3000, noise)
    read = SketchMeasures().measure(faces)

    share = float(((read["shape=square"] > 0.5) & (read["shade=dark"] > 0.5)).mean())
    assert 0.005 < share < 0.03


def test_equal_shares_of_a_rare_cell_are_reached_exactly() -> None:
    """Round after round asks for what is short, until a quarter of the people are of a cell of one in fifty."""
    seen = Silent()
    manifest = mint(sketches(**rare_recipe(20)), observer=seen).manifest

    assert manifest.figures["balance"]["exact"]
    assert set(reached(manifest.figures["balance"]).values()) == {3}
    assert manifest.figures["balance"]["summary"]["parity_min_to_max"] == 1.0
    rounds = [facts for kind, facts in seen.seen if kind == "enrolled"]
    assert 1 < len(rounds) < 20
    assert manifest.counts["enrolled"] > 60  # one in fifty: most who are enrolled on the way are of other cells


def test_marginal_targets_do_not_wait_for_a_cell_that_never_comes() -> None:
    """Halves by shape and by shade are reached without anybody square and dark, by the other three cells."""
    halves = {"shape": {"round": 0.5, "square": 0.5}, "shade": {"light": 0.5, "dark": 0.5}}
    recipe = rare_recipe(20, rare=1e-4, balance={"by": ["shape", "shade"], "marginal": halves})

    balance = mint(sketches(**recipe)).manifest.figures["balance"]

    assert balance["exact"]
    assert {row["value"]: row["reached"] for row in balance["values"]} == {
        "round": 6, "square": 6, "light": 6, "dark": 6
    }  # fmt: skip
    assert reached(balance)[SQUARE_DARK] <= 1


def test_a_tolerance_lets_a_rare_cell_be_short_by_that_much() -> None:
    """Three rounds find two of the rare cell where three are owed: within a tenth, and others make up for it."""
    recipe = rare_recipe(3, balance={"by": ["shape", "shade"], "tolerance": 0.1})

    balance = mint(sketches(**recipe)).manifest.figures["balance"]
    there = reached(balance)

    assert balance["exact"]
    assert sum(there.values()) == 12
    assert there[SQUARE_DARK] == 2
    assert all(3 <= n <= 4 for cell, n in there.items() if cell != SQUARE_DARK)
    assert balance["summary"]["parity_min_to_max"] == 2 / 4  # against the shares asked for


def test_a_cell_that_never_comes_ends_with_what_was_read_instead() -> None:
    """An impossible share ends after its rounds, saying that nothing comes out as it and to leave it out."""
    with pytest.raises(
        TargetNotReachedError,
        match=rf"after 2 enrolment rounds .*{SQUARE_DARK}: 0 of 3 \(yield 0\.0 %: of \d+ drawn towards it 0 came out "
        rf"as it and \d+ as \w+/\w+\).*nothing that was tried comes out as .*{SQUARE_DARK}, .*no share in balance",
    ) as ended:
        mint(sketches(**rare_recipe(2, rare=IMPOSSIBLE)))
    assert ended.value.exit_status == 4


@pytest.mark.slow
def test_a_short_run_ends_with_4_and_doing_what_it_says_ends_with_0(tmp_path: Path) -> None:
    """The command line names the rounds that may be enough; with as many it goes on where it was, and ends exact."""
    out = tmp_path / "out"
    path = written(tmp_path, rare_recipe(3))

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.cli", "generate", str(path), "--out", str(out), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)

    ended, rounds = run(), 3
    assert ended.returncode == 4
    while ended.returncode == 4 and rounds < 12:
        line = ended.stderr.splitlines()[-1]
        assert re.search(rf"^facemint: after .* 1 of 4 cells is short: {SQUARE_DARK}: \d of 3 \(yield \d", line), line
        found = re.search(r"raise enrol\.rounds and run again \(to (\d+) or more\)", line)
        assert found, line
        assert int(found[1]) > rounds
        rounds = int(found[1])
        ended = run("--set", f"enrol.rounds={rounds}")
    assert ended.returncode == 0, ended.stderr
    store, whole = LocalStore(out), MemoryStore()
    assert set(reached(read_manifest(store, "v000001").figures["balance"]).values()) == {3}
    mint(sketches(**rare_recipe(rounds)), whole)
    assert {k: v for k, v in bytes_of(store).items() if k.startswith("segments/")} == {
        k: v for k, v in bytes_of(whole).items() if k.startswith("segments/")
    }


def test_short_on_request_says_how_large_the_balanced_part_is() -> None:
    """With --allow-short the manifest holds the largest balanced set of those who are there, and whom to make next."""
    manifest = mint(sketches(**rare_recipe(3)), allow_short=True).manifest
    balance = manifest.figures["balance"]

    assert not balance["exact"]
    assert set(manifest.counts["missing_by_cell"]) == {SQUARE_DARK}
    there = reached(balance)
    whole = {"round/light", "round/dark", "square/light"}
    # fewer than one off its share: the others may hold one more than the rare one
    assert balance["largest_balanced"]["cells"] == {
        c: min(n, there[SQUARE_DARK] + (c in whole)) for c, n in there.items()
    }
    assert balance["largest_balanced"]["next_cells"] == [SQUARE_DARK]
