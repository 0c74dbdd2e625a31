"""`facemint evaluate`: its record, its table, and every mistake in one line."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jobs import show_evaluate, wiring
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import InterruptedRunError, OutputError, RecipeError, StoreError, UserError
from pipeline.execute.run import generate
from tests.command_line import facts_of, printed
from tests.crawls import png
from tests.worlds import Silent, sketches

TRAIN = "sketch://faces?identities=24&images=4&seed=1"
TEST = "sketch://faces?identities=40&images=4&seed=2"
QUICK = ("--set", "epochs=2", "--overlap-cos", "0.97")

run = functools.partial(printed, "evaluate")


def record(*arguments: str) -> dict[str, Any]:
    """Return the content of the record that a command prints."""
    content: dict[str, Any] = facts_of("evaluate", *arguments)["content"]
    return content


def verification_set(path: Path, *, people: int = 30) -> Path:
    """Write pairs of sketches as InsightFace writes them: genuine and impostor in turns."""
    source = wiring.open_labelled(f"sketch://faces?identities={people}&images=4&seed=5", alignment="sketch-32")
    faces = np.stack([f.face_HWC for f in source if f.face_HWC is not None]).reshape(people, 4, 32, 32, 3)
    pictures, same = [], []
    for shift in range(2):
        for person in range(people):
            pictures += [png(faces[person, shift]), png(faces[(person + shift) % people, 3])]
            same.append(shift == 0)
    path.write_bytes(pickle.dumps((pictures, same)))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published dataset of sketches with its exports."""
    place = tmp_path_factory.mktemp("sets") / "sketches"
    generate(
        wiring.session_on(sketches(exports=[{"use": "webdataset"}, {"use": "recordio"}]), LocalStore(place), Silent())
    )
    return place


def test_a_dataset_is_evaluated_with_its_own_judge_and_cells(dataset: Path) -> None:
    """The record names version, digests, recipe, seeds, device kind, overlap, and figures by the dataset's cells."""
    found = record(str(dataset), "--test", TEST, "--seeds", "3,5", *QUICK)
    manifest = wiring.newest_manifest(str(dataset))

    assert found["dataset"]["digest"] == manifest.digest
    assert (found["dataset"]["identities"], found["dataset"]["images"]) == (10, 30)
    assert found["dataset"]["name"] == "sketches"
    assert found["recipe"]["name"] == "sketch-tiny-changed"
    assert found["recipe_digest"] == wiring.training_options("sketch-tiny", ["epochs=2"]).digest
    assert found["seeds"] == [3, 5]
    assert found["device_kind"].startswith("cpu ")
    assert found["overlap"]["recogniser"] == "sketch-judge"
    assert found["cells"] == ["shape", "shade"]
    (test,) = found["tests"]
    assert len(test["accuracy"]["seeds"]) == 2
    assert test["pairs"] == 480
    assert set(test["cells"]["accuracy"]["cells"]) <= {"round/light", "round/dark", "square/light", "square/dark"}


def test_the_same_evaluation_gives_the_same_record(tmp_path: Path) -> None:
    """Content is equal to the last bit when repeated; the file holds what was printed."""
    arguments = (TRAIN, "--test", TEST, "--seeds", "0", *QUICK)
    first = record(*arguments)
    again = record(*arguments, "--out", str(tmp_path / "evaluation.json"))

    assert again == first
    assert json.loads((tmp_path / "evaluation.json").read_text())["content"] == first
    with pytest.raises(OutputError, match="is there already"):
        run(*arguments, "--out", str(tmp_path / "evaluation.json"))


def test_an_export_trains_as_its_version_does(dataset: Path) -> None:
    """WebDataset and RecordIO exports hold the version's images and labels: as many people, as many images."""
    for kind in ("webdataset", "recordio"):
        (place,) = dataset.glob(f"exports/*/{kind}")
        found = record(str(place), "--test", TEST, "--seeds", "0", *QUICK)
        assert (found["dataset"]["identities"], found["dataset"]["images"]) == (10, 30)


def test_the_sketch_recipe_beats_chance_on_strangers_and_says_so_in_a_table() -> None:
    """The tables show accuracy, TAR, EER, cells with intervals, the baseline and its denominator, within 80 columns."""
    shown = run(
        "sketch://faces?identities=40&images=6&seed=1", "--test", TEST, "--seeds", "0,1", "--overlap-cos", "0.97",
        "--against", "sketch://faces?identities=30&images=6&seed=3",
    )  # fmt: skip
    accuracy = float(re.findall(r"1\s+this\s+([\d.]+) ", shown)[0])

    assert accuracy > 75
    flat = " ".join(shown.split())
    for text in (
        "Recipe sketch-tiny (", "seeds 0, 1", "TAR@1e-1", "EER", "1 base", "round/dark", "Gap in accuracy:",
        "(baseline - this) / this, a share of this dataset's accuracy", "The sets differ in size",
        "insufficient data for TAR at FAR", "0 of 40 identities, none",
    ):  # fmt: skip
        assert text in flat, text
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_a_verification_set_is_verified_pair_by_pair(tmp_path: Path) -> None:
    """A `.bin` is tested in its own order, with the rates that its pairs support; a picture that comes twice is one."""
    place = verification_set(tmp_path / "made-up.bin")
    found = record(TRAIN, "--test", str(place), "--seeds", "0", *QUICK)

    (test,) = found["tests"]
    assert (test["name"], test["pairs"], test["pictures"], test["identities"]) == ("made-up.bin", 60, 90, None)
    assert test["tar"] == []
    assert [row["far"] for row in test["insufficient"]] == [1e-1, 1e-2, 1e-3, 1e-4]
    assert found["overlap"]["tests"][0]["searched"] == 90


def test_people_of_the_test_set_are_left_out() -> None:
    """Of a set that holds forty of the people tested, those forty are found and left out of the training."""
    both = "sketch://faces?identities=60&images=4&seed=2"
    removed = record(both, "--test", TEST, "--seeds", "0", "--set", "epochs=1", "--overlap-cos", "0.999")
    kept = record(both, "--test", TEST, "--seeds", "0", "--set", "epochs=1", "--overlap-cos", "0.999",
                  "--overlap", "report")  # fmt: skip

    assert (removed["overlap"]["too_near"], removed["overlap"]["removed"]) == (40, 40)
    assert (kept["overlap"]["too_near"], kept["overlap"]["removed"]) == (40, 0)
    assert removed["tests"][0]["accuracy"] != kept["tests"][0]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sketch://faces?identities=1&images=4",), "1 identities to train on; training needs at least 2"),
        ((TRAIN, "--test", "sketch://faces?identities=10&images=4"), "10 people with two or more pictures"),
        ((TRAIN, "--test", TRAIN), "0 identities to train on after 24 that overlap"),
        ((TRAIN, "--recipe", "resnet"), "unknown training recipe; known: phantom-small, sketch-tiny, ir-se50"),
        ((TRAIN, "--set", "depth=3"), "--set depth"),
        ((TRAIN, "--set", "rate=fast"), "--set rate"),
        ((TRAIN, "--set", "name=mine"), "a recipe's name is not an option"),
        ((TRAIN, "--recipe", "phantom-small"), "trains on crops of 112 pixels, and these are aligned as sketch-32"),
        ((TRAIN, "--seeds", "1,1"), "different whole numbers"),
        ((TRAIN, "--seeds", "one"), "different whole numbers"),
        ((TRAIN, "--device", "cuda:42"), "--device"),
        ((TRAIN, "--recogniser", "nobody"), "unknown recogniser"),
        ((TRAIN, "--by", "age"), "no measure reads it; known: shade, shape"),
        (("no/such/folder", "--test", TEST), "is no folder"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments: tuple[str, ...], says: str) -> None:
    """Every mistake is exit 2 with one line that says what to do."""
    extra = () if "--overlap-cos" in arguments else ("--overlap-cos", "0.97")
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        run(*arguments, *extra, *(() if "--seeds" in arguments else ("--seeds", "0")))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_faces_that_nobody_can_place_need_a_recogniser_and_a_test(tmp_path: Path) -> None:
    """Of a folder of crops nothing is known: who looks for overlap and what to test with have to be said."""
    for person in range(3):
        folder = tmp_path / "crops" / f"p{person}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png(np.full((32, 32, 3), 40 * person, np.uint8)))
    with pytest.raises(UserError, match="--overlap off"):
        run(str(tmp_path / "crops"), "--recipe", "sketch-tiny")
    with pytest.raises(UserError, match="--test: nothing to test with"):
        run(str(tmp_path / "crops"), "--recipe", "sketch-tiny", "--overlap", "off")


@pytest.mark.parametrize("damage", ["not a pickle", "cut", "a class", "picture"])
def test_a_broken_verification_set_ends_in_one_line(tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with a `.bin`, it is named in one line, and nothing in it is run."""
    place = verification_set(tmp_path / "set.bin")
    held = place.read_bytes()
    pictures, same = pickle.loads(held)
    place.write_bytes({
        "not a pickle": b"GIF89a",
        "cut": held[: len(held) // 2],
        "a class": pickle.dumps((pictures, Path("x"))),
        "picture": pickle.dumps(([b"\xff\xd8\xff nothing", *pictures[1:]], same)),
    }[damage])  # fmt: skip
    with pytest.raises(UserError, match=r"set\.bin") as caught:
        run(TRAIN, "--test", str(place), *QUICK)
    assert "\n" not in str(caught.value)


def test_embeddings_are_nothing_to_train_on(tmp_path: Path) -> None:
    """A file of embeddings is refused in one line: a recogniser learns from pictures."""
    from pipeline.adapters.sketch import SketchRecogniser, SketchRecogniserOptions

    judge = SketchRecogniser(SketchRecogniserOptions(use="sketch-judge"))
    faces = [f.face_HWC for f in wiring.open_labelled(TRAIN, alignment="sketch-32") if f.face_HWC is not None]
    place = tmp_path / "people.npz"
    labels, space = np.repeat(np.arange(24), 4).astype(str), json.dumps(judge.space.to_dict())
    np.savez(place, vectors=judge.embed(np.stack(faces)), labels=labels, space=space)
    with pytest.raises(UserError, match="holds embeddings, and no pictures") as caught:
        run(str(place), "--test", TEST, *QUICK)
    assert "\n" not in str(caught.value)


def test_a_damaged_dataset_is_said_to_be_damaged(dataset: Path, tmp_path: Path) -> None:
    """A dataset whose segment is gone ends with the store's error, not with fewer images."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    for path in copy.glob("segments/*.tar"):
        path.unlink()
    with pytest.raises(StoreError, match="missing"):
        run(str(copy), "--test", TEST, *QUICK)


@pytest.mark.slow
def test_an_interrupted_evaluation_ends_cleanly_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C ends with 130, one line and checkpoints alone; the same command then reaches the same record."""
    command = [sys.executable, "-m", "jobs.cli", "evaluate", TRAIN, "--test", TEST, "--seeds", "0", "--overlap-cos",
               "0.97", "--work", str(tmp_path / "work"), "--json"]  # fmt: skip
    going = subprocess.Popen(
        [*command, "--set", "epochs=60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list((tmp_path / "work").glob("*.pt")):
        assert going.poll() is None, going.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    going.send_signal(signal.SIGINT)
    out, err = going.communicate(timeout=240)

    assert going.returncode == 130, err
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [p.suffix for p in (tmp_path / "work").iterdir()] == [".pt"]
    arguments = (TRAIN, "--test", TEST, "--seeds", "0", "--overlap-cos", "0.97", "--set", "epochs=60")
    assert record(*arguments, "--work", str(tmp_path / "work")) == record(*arguments)


def test_progress_shows_what_is_done_and_obeys_a_stop() -> None:
    """On a terminal a bar with the time left, elsewhere a line per stage; asked to stop, both stop."""
    stopped = [False]

    def check() -> None:
        if stopped[0]:
            raise InterruptedRunError(signal.SIGINT)

    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        stopped[0] = False
        with show_evaluate.progress(check, quiet=False, console=console) as say:
            say("reading faces", 5, None, "")
            say("training, seed 1 of 3", 10, 100, "loss 3.21")
            stopped[0] = True
            with pytest.raises(InterruptedRunError):
                say("training, seed 1 of 3", 11, 100, "loss 3.20")
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "training, seed 1 of 3" in shown
        assert "loss 3.21" in shown


@pytest.mark.soak
def test_the_demo_beats_chance_clearly_on_people_nobody_trained_on(tmp_path: Path) -> None:
    """Trained on the demo dataset for half its epochs, the small recipe tells held-out phantoms apart at over 85 %."""
    command = [sys.executable, "-m", "jobs.cli"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, "generate", "demo", "--out", str(tmp_path / "demo")], check=True, env=env)

    found = record(str(tmp_path / "demo"), "--seeds", "0", "--set", "epochs=20")

    (test,) = found["tests"]
    assert found["dataset"]["images"] == 1000
    assert test["accuracy"]["mean"] > 0.85
    assert [row["far"] for row in test["tar"]] == [1e-1, 1e-2, 1e-3, 1e-4]
    assert len(test["cells"]["accuracy"]["cells"]) == 6


def test_a_recipe_is_fixed_until_it_is_changed() -> None:
    """A shipped recipe keeps its name and digest; one changed option gives another name and another digest."""
    plain, changed = wiring.training_options("ir-se50", []), wiring.training_options("ir-se50", ["batch=256"])

    assert (plain.name, changed.name) == ("ir-se50", "ir-se50-changed")
    assert plain.digest != changed.digest
    with pytest.raises(RecipeError, match="--set network"):
        wiring.training_options("ir-se50", ["network.use=vgg"])
