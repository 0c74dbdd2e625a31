"""Datasets whose images show more than the judge reads: what exports, evaluations and erasures make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs import wiring
from jobs.cli import app
from jobs.wiring.given_face import face_given
from jobs.wiring.labelled import open_labelled, open_pairs
from pipeline.adapters.cropping import inner_crop
from pipeline.adapters.decoding import decode
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import FacemintError, UserError
from pipeline.domain.intake import Decoded, DecodeLimits
from pipeline.flow.versions import published_rows, read_manifest
from tests.crawls import crawl_recipe, crawled, gather, picture, png
from tests.photographs import LFW, SCRFD, aligned, lfw

PX, MARGIN = 96, 0.25
"""The judge's crop has 32 px: it lies in the middle, 64 px wide."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dataset of six people, four wide crops each, in `set`, and exports of it beside."""
    home = tmp_path_factory.mktemp("wide")
    for person in range(6):
        for image in range(4):
            wide = np.random.default_rng(1).integers(0, 256, (PX, PX, 3)).astype(np.uint8)
            wide[16:80, 16:80] = picture(person, image).repeat(2, 0).repeat(2, 1)
            path = home / "crawl" / f"p{person:02d}" / f"{image:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(wide))
    asked = {**crawl_recipe(home)["curate"], "crop": {"px": PX, "margin": MARGIN}}
    recipe = crawled(home / "crawl", curate=asked, exports=[{"use": "webdataset", "folder": "published"}])
    gather(recipe, LocalStore(home / "set"))
    for kind, name, given in (
        ("webdataset", "tars", {}),
        ("recordio", "records", {}),
        ("webdataset", "small", {"image_px": 48}),
        ("imagefolder", "folder", {"image_px": 32}),
        ("pairs", "pairs", {"image_px": 32, "folds": 2}),
    ):
        wiring.export_dataset(str(home / "set"), kind, str(home / name), given=given)
    return home


def means(reference: Path) -> dict[str, Any]:
    """Return label -> the mean of its faces as the judge's alignment has them."""
    faces: dict[str, list[Any]] = {}
    for one in open_labelled(str(reference), alignment="sketch-32"):
        assert one.face_HWC is not None
        assert one.face_HWC.shape == (32, 32, 3)
        faces.setdefault(one.label, []).append(one.face_HWC.astype(np.float64))
    assert [len(found) for found in faces.values()] == [4] * 6
    return {label: np.mean(found, axis=0) for label, found in faces.items()}


@pytest.mark.parametrize(("export", "most"), [("tars", 0.0), ("records", 0.0), ("small", 12.0)])
def test_an_export_is_read_as_its_dataset_is(home: Path, export: str, most: float) -> None:
    """Who evaluates an export trains on the judge's crops, of whatever size its images are."""
    dataset, exported = means(home / "set"), means(home / export)
    assert dataset.keys() == exported.keys()
    for label, mean in dataset.items():
        away = {other: np.abs(mean - face).mean() for other, face in exported.items()}
        assert away.pop(label) <= most < min(away.values())


@pytest.mark.parametrize("name", ["tars", "small", "folder", "pairs", "set/exports/v000001/published"])
def test_an_export_says_what_its_crops_show(home: Path, name: str) -> None:
    """Manifest and card say how much lies around the aligned crop, whether exported by hand or by the recipe."""
    assert json.loads((home / name / "manifest.json").read_text())["crop_margin"] == MARGIN
    card = (home / name / "README.md").read_text()
    assert "25 % of its side added on every side. It is the middle 66.67 % of width and height" in card


def test_what_cannot_be_cut_is_not_taken_for_aligned(home: Path) -> None:
    """Images that show more, resized to the judge's size, are no crops of his, and reading them so is refused."""
    with pytest.raises(UserError, match=r"as imagefolder they are not cut; name the dataset itself, or an export"):
        open_labelled(str(home / "folder"), alignment="sketch-32")
    with pytest.raises(UserError, match=r"pairs\.bin: its images show more .* name the dataset itself"):
        open_pairs(str(home / "pairs" / "pairs.bin"), alignment="sketch-32")


def test_evaluations_of_a_wide_dataset_and_of_its_export_agree(home: Path) -> None:
    """Both are trained on as many people and faces, and come as near to those tested."""
    said = ["--test", "sketch://faces?identities=20&images=3&seed=1", "--seeds", "0", "--pairs", "60"]
    said += ["--set", "epochs=1", "--recogniser", "sketch-judge", "--by", "shape", "--json"]
    found = []
    for name in ("set", "tars"):
        done = CliRunner().invoke(app, ["evaluate", str(home / name), *said])
        assert done.exit_code == 0, done.exception
        found.append(json.loads(done.stdout[done.stdout.find("{") :])["content"])
    assert [(one["dataset"]["identities"], one["dataset"]["images"]) for one in found] == [(6, 24), (6, 24)]
    assert found[0]["overlap"] == found[1]["overlap"]


@pytest.mark.parametrize("kind", ["webdataset", "recordio", "imagefolder"])
def test_trainers_get_the_aligned_crop_where_they_ask_for_it(home: Path, tmp_path: Path, kind: str) -> None:
    """With `aligned` an export holds what the judge reads, at the size asked for, and says that nothing lies around."""
    manifest = wiring.export_dataset(
        str(home / "set"), kind, str(tmp_path / "out"), ["aligned=true"], {"image_px": 32, "image_quality": 100}
    )[0]
    assert manifest["aligned"]
    assert "crop_margin" not in manifest
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the aligned crop, 32 x 32 px, cut out of what is stored; JPEG quality 100" in card
    assert "side added on every side" not in card
    dataset, exported = means(home / "set"), means(tmp_path / "out")
    assert len(exported) == 6
    for label, mean in dataset.items():
        away = {other.lstrip("0") or "0": np.abs(mean - face).mean() for other, face in exported.items()}
        # another kernel, and encoded once more
        assert away.pop(label) < 5 < min(away.values())


def test_aligned_crops_have_a_size(home: Path, tmp_path: Path) -> None:
    """Without a size there is nothing to cut to, and the message says what to give."""
    with pytest.raises(UserError, match="give their side as `image_px`"):
        wiring.export_dataset(str(home / "set"), "hf", str(tmp_path / "out"), ["aligned=true"])


def matched(home: Path, face: Path) -> Sequence[dict[str, Any]]:
    """Return whom a face comes near to, the nearest first."""
    done = CliRunner().invoke(app, ["erase", str(home / "set"), "--face", str(face), "--json"])
    assert done.exit_code == 0, done.exception
    nearest: list[dict[str, Any]] = json.loads(done.stdout)["face"]["nearest"]
    return nearest


def test_a_stored_image_and_the_crop_in_it_match_their_person(home: Path, tmp_path: Path) -> None:
    """`--face` takes an image as the dataset stores them, and what the judge reads of it; both are the same person."""
    store = LocalStore(home / "set")
    row = published_rows(Segments(), store, read_manifest(store, "v000001"))[9]
    jpeg = store.get_range(f"segments/{row.segment}.tar", row.offset, row.length)
    (tmp_path / "stored.jpg").write_bytes(jpeg)
    seen = decode(jpeg, DecodeLimits())
    assert isinstance(seen, Decoded)
    (tmp_path / "crop.png").write_bytes(png(inner_crop(seen.image_HWC, MARGIN, 32)))
    for name in ("stored.jpg", "crop.png"):
        nearest = matched(home, tmp_path / name)
        assert nearest[0]["identity"] == row.identity
        assert nearest[0]["reaches"]
        assert not any(one["reaches"] for one in nearest[1:])


def test_another_size_is_refused_with_those_that_would_do(home: Path, tmp_path: Path) -> None:
    """Where the recipe finds no faces, a picture of another size is nobody's, and both sizes are named."""
    (tmp_path / "odd.png").write_bytes(png(np.zeros((50, 50, 3), np.uint8)))
    done = CliRunner().invoke(app, ["erase", str(home / "set"), "--face", str(tmp_path / "odd.png")])
    assert isinstance(done.exception, FacemintError)
    assert "crops of 32 x 32" in str(done.exception)
    assert "or an image as this dataset stores them (96 px)" in str(done.exception)


@pytest.mark.skipif(not SCRFD.exists() or not LFW.exists(), reason="the assets' photographs or detector are not here")
def test_a_photograph_is_cut_where_the_recipe_finds_faces(tmp_path: Path) -> None:
    """Whoever asks to be forgotten gives a photograph; it is cut as the dataset's own were, or refused in one line."""
    from pipeline.adapters.onnx.scrfd import ScrfdOptions

    recipe: Any = SimpleNamespace(align=SimpleNamespace(detector=ScrfdOptions(use="scrfd", path=str(SCRFD))))
    whole = next(path for path in lfw() if alone(path))
    found = face_given(recipe, "arcface-112", whole.read_bytes())
    assert np.array_equal(found, aligned([whole])[0])
    # one of the judge's size is his crop already
    assert np.array_equal(face_given(recipe, "arcface-112", png(found)), found)
    for data, said in ((png(np.zeros((200, 200, 3), np.uint8)), "no face is found in it"), (b"x" * 99, "not_an_image")):
        with pytest.raises(ValueError, match=said):
            face_given(recipe, "arcface-112", data)


def alone(path: Path) -> bool:
    """Return whether a photograph shows a single face."""
    from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions

    seen = decode(path.read_bytes(), DecodeLimits())
    assert isinstance(seen, Decoded)
    return len(Scrfd(ScrfdOptions(path=str(SCRFD))).detect(seen.image_HWC)) == 1
