"""Schedules: a dataset that grows every night by a step, and runs that end at a budget or a deadline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import FacemintError, RecipeError, StoppedError
from pipeline.flow.commit import receipts
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.command_line import facemint
from tests.recipes import sketch_recipe
from tests.watching import SMALL
from tests.worlds import bytes_of, mint, sketches


def written(folder: Path, **changes: Any) -> Path:
    """Write a sketch recipe to a file."""
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe(**changes)))
    return path


def night(recipe: Path, out: Path, *more: str) -> tuple[BaseException | None, dict[str, Any]]:
    """Run the command of a schedule in this process; return how it ended, and its summary."""
    summary = out.parent / "summary.json"
    words = ["generate", str(recipe), "--out", str(out), "--summary", str(summary), "--json", *more]
    done = facemint(*words)
    return done.exception, json.loads(summary.read_text())


def labels_of(store: LocalStore, version: str) -> Mapping[str, tuple[int, str, int, int]]:
    """Return key -> label, and where its bytes are, of a version."""
    rows = published_rows(Segments(), store, read_manifest(store, version))
    return {r.key: (r.label, r.segment, r.offset, r.length) for r in rows}


def test_a_nightly_step_grows_a_dataset_three_times(tmp_path: Path) -> None:
    """One command, four nights: versions chain, nothing old changes, and summaries say what came and what it cost."""
    recipe, out, store = written(tmp_path, **SMALL), tmp_path / "set", LocalStore(tmp_path / "set")
    before: dict[str, bytes] = {}
    for number, people in enumerate((4, 8, 12, 16), 1):
        known = set(receipts(store))
        error, summary = night(recipe, out, "--set", "identities.count=+4")
        assert error is None
        after = bytes_of(store)
        assert {p: after[p] for p in before} == before, "what was published stays as it is"
        version = summary["published"]
        assert version["version"] == f"v{number:06d}"
        assert version["parent"] == (f"v{number - 1:06d}" if number > 1 else None)
        assert version["identities"] == people
        fresh = [r for name, r in receipts(store).items() if name not in known]
        made = [r for r in fresh if r.unit["stage"] == "make"]
        assert version["added"]["identities"] == 4
        assert version["added"]["images"] == 12
        tar_bytes = sum(f.bytes for r in fresh for f in r.files if f.path.startswith("segments/"))
        assert version["added"]["bytes"] == tar_bytes
        assert summary["cost"]["images_made"] == sum(r.counts.candidates for r in made)
        assert summary["cost"]["unit_s"] == pytest.approx(
            sum(r.run["end_s"] - r.run["start_s"] for r in fresh if "end_s" in r.run), abs=0.01
        )
        assert summary["cost"]["worker_s"] >= summary["cost"]["unit_s"] - 0.01
        assert summary["work"]["stages"]["make"]["units"] == len(made)
        assert summary["outcome"] == "done"
        before = after
    chain = [read_manifest(store, v) for v in versions(store)]
    assert [m.parent_digest for m in chain[1:]] == [m.digest for m in chain[:-1]]
    for older, newer in zip(versions(store), versions(store)[1:], strict=False):
        assert labels_of(store, older).items() <= labels_of(store, newer).items()


def test_a_step_grows_as_one_large_change_would(tmp_path: Path) -> None:
    """Resolved against the newest version, the step is the plain number: the same plan, the same bytes."""
    stepped, plain = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    for store, setting in ((stepped, "identities.count=+3"), (plain, "identities.count=13")):
        mint(sketches(), store)
        grown = wiring.load_recipe(str(written(tmp_path)), wiring.grown([setting], store.uri))
        mint(grown, store)
    assert bytes_of(stepped) == bytes_of(plain)


def test_a_step_that_was_cut_short_is_the_same_step_the_next_time(tmp_path: Path) -> None:
    """While a generation is begun and not published the step means its number, not one more; so for its exports."""
    recipe, store = str(written(tmp_path)), LocalStore(tmp_path / "set")
    step = ["identities.count=+5", "attempts=4"]
    assert wiring.grown(step, str(tmp_path / "nothing")) == ["attempts=4"]
    mint(sketches(), store)
    assert wiring.grown(step, store.uri) == ["identities.count=15", "attempts=4"]

    class CutError(FacemintError):
        """The night is over."""

    class Cutting:
        def event(self, kind: str, **facts: Any) -> None:
            if kind == "unit" and facts["receipt"].unit["stage"] == "make":
                raise CutError("the night is over")

    larger = wiring.load_recipe(recipe, wiring.grown(step, store.uri))
    with pytest.raises(CutError):
        mint(larger, store, Cutting())  # type: ignore[arg-type]
    assert wiring.grown(step, store.uri) == ["identities.count=15", "attempts=4"]
    mint(larger, store)
    assert wiring.grown(step, store.uri) == ["identities.count=20", "attempts=4"]
    for path in store.list("exports/v000002/"):
        if path.endswith("/manifest.json"):
            store.delete(path)
    assert wiring.grown(step, store.uri) == ["identities.count=15", "attempts=4"]


@pytest.mark.parametrize("text", ["seed=+1", "attempts=+2", "generator.noise=+1", "enrol.budget=+5"])
def test_a_step_of_what_does_not_grow_is_refused(text: str) -> None:
    """Datasets grow in identities and in images of each; a plus before anything else is a mistake."""
    with pytest.raises(RecipeError, match=r"only identities.count and identities.images_per_identity take one"):
        wiring.grown([text], None)


def test_a_step_without_a_dataset_is_refused(tmp_path: Path) -> None:
    """Where nothing says what it adds to, `+5` is not taken for 5."""
    with pytest.raises(RecipeError, match="a step needs a dataset that it adds to"):
        wiring.load_recipe(str(written(tmp_path)), ["identities.count=+5"])


def test_a_budget_of_images_stops_within_one_unit_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Every run makes one more piece and ends with status 6; the last one publishes the bytes of an undisturbed run."""
    recipe, out, store = written(tmp_path), tmp_path / "set", LocalStore(tmp_path / "set")
    runs = 0
    while True:
        known = set(receipts(store))
        error, summary = night(recipe, out, "--budget", "images=8")
        runs += 1
        if not isinstance(error, StoppedError):
            break
        assert error.exit_status == 6
        assert "the budget of 8 images is spent" in str(error)
        assert "run the same command again to go on" in str(error)
        assert (summary["outcome"], summary["exit_status"]) == ("stopped", 6)
        made = [r for n, r in receipts(store).items() if n not in known and r.unit["stage"] == "make"]
        counts = [r.counts.candidates for r in sorted(made, key=lambda r: r.run["end_s"])]
        assert sum(counts[:-1]) < 8 <= sum(counts) == summary["cost"]["images_made"]
        assert not versions(store)
        assert runs < 9
    assert error is None
    assert runs >= 3
    undisturbed = LocalStore(tmp_path / "other")
    mint(sketches(), undisturbed)
    assert bytes_of(store) == bytes_of(undisturbed)


def test_a_deadline_that_is_over_stops_before_anything_is_made(tmp_path: Path) -> None:
    """Status 6, one line with the moment; with a later deadline the run goes to its end."""
    recipe, out = written(tmp_path), tmp_path / "set"
    error, summary = night(recipe, out, "--deadline", "2001-02-03T04:05Z")
    assert isinstance(error, StoppedError)
    assert str(error).startswith("the deadline 2001-02-03T04:05:00Z is over; ")
    assert summary["error"] == str(error)
    assert LocalStore(out).list("segments/") == []
    error, summary = night(recipe, out, "--deadline", "1h", "--budget", "worker-hours=1")
    assert error is None
    assert summary["cost"]["budget"]["worker-hours"]["of"] == 1
    assert 0 < summary["cost"]["budget"]["worker-hours"]["spent"] < 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget", "hours=3"), "--budget hours=3: got no budget that can be kept"),
        (("--budget", "gpu-hours=3"), "compute: got .*budget.gpu_hours is never spent while gpus is 0"),
        (("--deadline", "soon"), "compute.deadline: got 'soon'; that is no time"),
        (("--set", "seed=+1"), "--set seed=\\+1: a step adds to what a dataset has"),
    ],
)
def test_limits_that_cannot_be_kept_are_mistakes_of_one_line(tmp_path: Path, words: tuple[str, str], told: str) -> None:
    """Exit status 2, before anything is taken or written."""
    done = facemint("generate", written(tmp_path), "--out", tmp_path / "set", *words)
    assert isinstance(done.exception, FacemintError)
    assert done.exception.exit_status == 2
    assert "\n" not in str(done.exception)
    assert re.search(told, str(done.exception))
    assert not (tmp_path / "set").exists()
