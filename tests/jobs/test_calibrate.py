"""`facemint calibrate`, and recipes that name what it wrote."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.calibration import Calibration
from pipeline.domain.calibration_file import CalibrationFile, digest_of
from pipeline.domain.errors import FacemintError, OutputError, RecipeError, SpaceMismatchError, UserError
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.flow.thresholds import fmr_words
from tests.command_line import printed
from tests.crawls import png
from tests.recipes import sketch_recipe
from tests.worlds import mint

SOURCE = "sketch://faces?identities=120&images=7&seed=11"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a calibration of the sketch judge."""
    path = tmp_path_factory.mktemp("calibrations") / "judge.json"
    printed("calibrate", "sketch-judge", SOURCE, "--out", str(path), "--templates", "2,3", "--json")
    return path


def loaded(tmp_path: Path, *overrides: str, **changes: Any) -> Recipe:
    """Return the sketch recipe with changes, loaded from a file as a user's is."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe(**changes)))
    return wiring.load_recipe(str(path), overrides)


def test_a_calibration_says_what_it_was_measured_on(measured: Path, tmp_path: Path) -> None:
    """The file holds space, weights and what was embedded by digest, counts, every level or that data are missing."""
    content = json.loads(measured.read_text())
    judge = wiring.build("judge", loaded(tmp_path).judge)
    calibration = Calibration.from_dict(content)

    assert calibration.space == judge.space
    assert calibration.source == SOURCE
    assert content["recogniser"]["sha256"] == judge.card.sha256
    assert calibration.measured["identities"] == 120
    assert calibration.measured["images"] == 840
    assert len(calibration.measured["digest"]) == 64
    assert set(calibration.pairs) == {
        "sample/sample", "sample/template2", "sample/template3", "template2/template2", "template3/template3",
    }  # fmt: skip
    for pair in content["pairs"].values():
        assert pair["fmr"] + pair["insufficient"] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    assert calibration.one_to_many["sample/template3"][-1].n == 119


def test_the_same_faces_give_the_same_file(measured: Path, tmp_path: Path) -> None:
    """Measuring twice, and at another batch, writes equal bytes."""
    for name, batch in (("a.json", "8"), ("b.json", "16")):
        out = tmp_path / name
        printed("calibrate", "sketch-judge", SOURCE, "--out", str(out), "--templates", "3,2", "--set", f"batch={batch}")
        assert out.read_bytes() == measured.read_bytes()


def test_the_table_states_what_the_data_cannot_support(tmp_path: Path) -> None:
    """The tables show cosines by level, and levels without data are named with what they would need."""
    shown = printed("calibrate", "sketch-judge", "sketch://faces?identities=40&images=4&seed=1", "--out",
                str(tmp_path / "c.json"), "--templates", "3")  # fmt: skip
    shown = " ".join(shown.split())

    assert "sketch-judge on sketch://faces?identities=40&images=4&seed=1: 40 identities, 160 images" in shown
    assert "Cosine at FMR" in shown
    assert "sample/sample: insufficient data for FMR 1e-03, 1e-04, 1e-05, 1e-06 (12,480 impostor pairs" in shown
    assert "1e-03 needs 30,000" in shown
    assert "Not measured: template3/template3, because no identity has 6 images" in shown


def test_a_verification_set_calibrates_samples_alone(tmp_path: Path) -> None:
    """Pairs without identities give sample/sample; the rest is stated as not measured."""
    faces = [f.face_HWC for f in wiring.open_labelled("sketch://faces?identities=60&images=4", alignment="sketch-32")]
    people = np.stack([f for f in faces if f is not None]).reshape(60, 4, 32, 32, 3)
    pictures, same = [], []
    for i in range(60):
        for shift in range(6):
            other = people[(i + shift) % 60]
            pictures += [png(people[i, 0]), png(other[1])]
            same.append(shift == 0)
    (tmp_path / "set.bin").write_bytes(pickle.dumps((pictures, same)))

    shown = printed("calibrate", "sketch-judge", str(tmp_path / "set.bin"), "--out", str(tmp_path / "c.json"))
    calibration = Calibration.from_dict(json.loads((tmp_path / "c.json").read_text()))

    assert list(calibration.pairs) == ["sample/sample"]
    assert (calibration.pairs["sample/sample"].n_genuine, calibration.pairs["sample/sample"].n_impostor) == (60, 300)
    assert "Not measured: templates, 1:N, because the source holds pairs and no identities" in shown
    assert calibration.source == "set.bin"


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("nobody", SOURCE), UserError, "unknown recogniser; known: .*onnx, phantom-auditor"),
        (("sketch-judge", "phantom://renders"), UserError, "aligned as phantom-112"),
        (("sketch-judge", SOURCE, "--set", "batsh=3"), RecipeError, "batsh"),
        (("sketch-judge", SOURCE, "--set", "batch=0"), RecipeError, "batch"),
        (("sketch-judge", SOURCE, "--templates", "1"), UserError, "whole numbers from 2"),
        (("sketch-judge", SOURCE, "--templates", "4,x"), UserError, "whole numbers from 2"),
        (("sketch-judge", SOURCE, "--templates", "9"), UserError, "more than 9 images; got 0"),
        (("sketch-judge", "sketch://faces?identities=3&images=2"), UserError, "at least 300 impostor pairs"),
        (("sketch-judge", "nowhere"), UserError, "is no folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    tmp_path: Path, arguments: tuple[str, ...], error: type[FacemintError], told: str
) -> None:
    """What was got and what is allowed; nothing is written."""
    with pytest.raises(error, match=told) as caught:
        printed("calibrate", *arguments, "--out", str(tmp_path / "c.json"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_skipped_images_are_counted_and_the_first_is_named_where_none_is_left(tmp_path: Path) -> None:
    """With --skip-unreadable the file says how many were left out; where nothing is left, the error says why."""
    for face in wiring.open_labelled("sketch://faces?identities=30&images=3", alignment="sketch-32"):
        path = tmp_path / "set" / f"{face.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.asarray(face.face_HWC)))
    (tmp_path / "set" / "s000003" / "notes.txt").write_text("not a picture")
    (tmp_path / "bad" / "p").mkdir(parents=True)
    (tmp_path / "bad" / "p" / "x.png").write_bytes(b"x")
    arguments = ("--templates", "2", "--skip-unreadable", "--out", str(tmp_path / "c.json"))

    shown = printed("calibrate", "sketch-judge", str(tmp_path / "set"), *arguments)

    assert json.loads((tmp_path / "c.json").read_text())["measured"]["skipped"] == 1
    assert "could not be read or embedded: 1" in shown
    (tmp_path / "c.json").unlink()
    with pytest.raises(UserError, match=r"1 were left out, the first of them p/x\.png: 1 bytes"):
        printed("calibrate", "sketch-judge", str(tmp_path / "bad"), *arguments)


def test_a_file_that_is_there_is_not_replaced(measured: Path, tmp_path: Path) -> None:
    """An existing calibration is never overwritten, and a folder that is missing is not made."""
    before = measured.read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        printed("calibrate", "sketch-judge", SOURCE, "--out", str(measured))
    with pytest.raises(OutputError, match="there is no folder"):
        printed("calibrate", "sketch-judge", SOURCE, "--out", str(tmp_path / "no" / "c.json"))
    assert measured.read_bytes() == before


def test_a_recipe_takes_its_thresholds_from_the_file(measured: Path, tmp_path: Path) -> None:
    """The judge's thresholds are those of the file that the recipe names, not those it ships with."""
    plain, mine = loaded(tmp_path), loaded(tmp_path, f"judge.calibration={measured}")
    expected = Calibration.from_dict(json.loads(measured.read_text()))

    shipped, given = (wiring.build("judge", r.judge).calibration for r in (plain, mine))

    assert given == expected
    assert given.threshold_cos(1e-2, "sample/template3") != shipped.threshold_cos(1e-2, "sample/template3")


def test_the_content_is_fingerprinted_and_the_path_is_not(measured: Path, tmp_path: Path) -> None:
    """Another calibration is another fingerprint, named by its digest; another path, or the auditor's, is not."""
    moved = tmp_path / "elsewhere.json"
    moved.write_bytes(measured.read_bytes())
    changed = json.loads(measured.read_text())
    changed["source"] = "other faces"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed))
    auditor = tmp_path / "auditor.json"
    printed("calibrate", "sketch-auditor", SOURCE, "--out", str(auditor), "--templates", "2,3", "--json")

    plain = wiring.prints_of(loaded(tmp_path))
    here, there, third = (
        wiring.prints_of(loaded(tmp_path, f"judge.calibration={p}")) for p in (measured, moved, other)
    )

    assert here.fingerprint == there.fingerprint
    assert len({plain.fingerprint, here.fingerprint, third.fingerprint}) == 3
    assert wiring.prints_of(loaded(tmp_path, f"auditor.calibration={auditor}")).fingerprint == plain.fingerprint
    assert not any("calibration" in name for name in plain.fields)
    assert {n for n in here.fields if "calibration" in n} == {"judge.calibration.sha256"}
    assert here.fields["judge.calibration.sha256"] == digest_of(json.loads(measured.read_text()))


def test_workers_get_the_content_with_the_recipe(measured: Path, tmp_path: Path) -> None:
    """What is handed to a worker as plain data builds the same judge, although the file is gone."""
    moved = tmp_path / "gone.json"
    moved.write_bytes(measured.read_bytes())
    recipe = loaded(tmp_path, f"judge.calibration={moved}")
    moved.unlink()

    again = parse_recipe(wiring.full_model(), json.loads(json.dumps(recipe.model_dump(mode="json"))), "worker")

    assert wiring.build("judge", again.judge).calibration == wiring.build("judge", recipe.judge).calibration
    assert wiring.prints_of(again).fingerprint == wiring.prints_of(recipe).fingerprint


def test_altered_content_is_refused(measured: Path, tmp_path: Path) -> None:
    """Content that is not that of its digest never becomes a threshold."""
    raw = loaded(tmp_path, f"judge.calibration={measured}").model_dump(mode="json")
    raw["judge"]["calibration"]["content"]["pairs"]["sample/sample"]["cos"][0] = 0.0
    with pytest.raises(RecipeError, match="SHA-256"):
        parse_recipe(wiring.full_model(), raw, "worker")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON.*; name a file of facemint calibrate"),
        ("[1]", "holds no calibration"),
        ("{}", "is no calibration"),
        ('{"space": 3, "source": "x", "pairs": {}, "one_to_many": {}}', "is no calibration"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """The message names the recipe's key and the file."""
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        loaded(tmp_path, f"judge.calibration={path}")
    assert "judge.calibration" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("sample/sample", "cos", [0.9, 0.5, 0.2, 0.1]),
        ("sample/sample", "cos", [0.1, 0.2]),
        ("sample/sample", "fmr", [0.1, 0.1, 0.01, 0.001]),
        ("sample/sample", "fnmr", [0.1, 0.1, 0.2, 7]),
        ("sample/sample", "cos", ["a", "b", "c", "d"]),
        ("sample/template2", "fmr", 3),
    ],
)
def test_levels_that_do_not_rise_are_refused(
    measured: Path, tmp_path: Path, kind: str, field: str, values: Any
) -> None:
    """A file changed by hand whose thresholds make no sense never becomes one."""
    content = json.loads(measured.read_text())
    content["pairs"][kind][field] = values
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no calibration"):
        loaded(tmp_path, f"judge.calibration={tmp_path / 'c.json'}")


def test_another_recognisers_calibration_is_refused(measured: Path, tmp_path: Path) -> None:
    """A calibration belongs to weights and alignment: the judge's cannot be the auditor's."""
    with pytest.raises(SpaceMismatchError, match="weights_sha256") as caught:
        loaded(tmp_path, f"auditor.calibration={measured}")
    assert "facemint calibrate" in str(caught.value)


def test_a_path_that_nobody_resolved_is_refused() -> None:
    """A recipe taken apart by hand cannot smuggle an unread path in."""
    with pytest.raises(RecipeError, match="has to be resolved"):
        parse_recipe(wiring.full_model(), sketch_recipe(judge={"use": "sketch-judge", "calibration": "c.json"}), "x")
    with pytest.raises(ValueError, match="SHA-256"):
        CalibrationFile(file="x", sha256="0" * 64, content={})


def test_a_run_publishes_what_its_cosines_mean(measured: Path, tmp_path: Path) -> None:
    """Thresholds given as raw cosines stand in manifest and card with their FMR, and in the plan."""
    filters = [{"use": "own-template", "cos": 0.5}, {"use": "nearest-other", "cos": 0.9999, "mode": "observe"}]
    enrol = {"probes": 3, "separation": {"cos": 0.6}, "consistency": {"cos": 0.1}}
    recipe = loaded(tmp_path, f"judge.calibration={measured}", filters=filters, enrol=enrol)
    calibration = Calibration.from_dict(json.loads(measured.read_text()))
    store = MemoryStore()

    figures = mint(recipe, store).manifest.figures

    own = figures["thresholds"]["own-template"]
    assert own["threshold_cos"] == 0.5
    assert own["fmr"] == f"{calibration.fmr_at(0.5, 'sample/template3'):.1e} (sample/template3)"
    assert figures["thresholds"]["nearest-other"]["fmr"].startswith("below 1e-0")
    assert figures["separation_fmr"]["enrolment"] == fmr_words(calibration, 0.6, probe_images=3, reference_images=3)
    assert own["fmr"] in store.get("versions/v000001/README.md").decode()
    rows = {row["where"]: row for row in wiring.plan_run(recipe, None, 1)["thresholds"]}
    assert rows["own-template"] == {"where": "own-template", "cos": 0.5, "fmr": own["fmr"]}
    assert rows["enrol.consistency"]["fmr"].startswith("above 1e-01")
    assert set(rows) == {
        "enrol.separation, enrolment", "enrol.separation, made", "enrol.consistency", "own-template", "nearest-other",
    }  # fmt: skip


def test_plan_shows_rates_of_raw_cosines(tmp_path: Path) -> None:
    """`facemint plan` prints each threshold with its cosine and its FMR."""
    loaded(tmp_path, enrol={"probes": 3, "separation": {"cos": 0.6}, "unit_candidates": 5})
    shown = printed("plan", str(tmp_path / "recipe.yaml"))

    assert "enrol.separation, made" in shown
    assert "0.6000" in shown
    assert "(template3/template3)" in shown
