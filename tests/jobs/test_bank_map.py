"""`facemint bank map`, and runs whose bank lives in another space than their generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import SpaceMismatchError, UserError
from pipeline.execute.generations import read_step
from tests.command_line import facemint, facts_of
from tests.worlds import mint, sketches

FACES = "sketch://faces?identities=240&images=2&seed=3"
SAID = {"licence": "Apache-2.0", "lawful_basis": "nobody is a person"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a bank in the judge's space, and a map from there into the generator's, with what the map says."""
    folder = tmp_path_factory.mktemp("map")
    bank, path = str(folder / "bank.safetensors"), str(folder / "map.safetensors")
    wiring.fit_bank(FACES, "sketch-screening", bank, **SAID)
    told = wiring.fit_space_map(FACES, "sketch-screening", "sketch-conditioning", path, **SAID)
    return {"bank": bank, "map": path, "told": told}


def recipe(files: dict[str, Any], **changes: Any) -> Any:
    """Return a sketch recipe over that bank."""
    identities = {
        "count": 6,
        "images_per_identity": 3,
        "bank": {"use": "file", "path": files["bank"]},
        "sampler": {"use": "gaussian"},
        **changes,
    }
    return sketches(identities=identities, balance={})


def test_vectors_of_another_space_are_refused_or_mapped(files: dict[str, Any]) -> None:
    """Without a map a bank of another space stops the recipe; with one the dataset says how well it fits."""
    with pytest.raises(SpaceMismatchError, match=r"identities\.bank"):
        recipe(files)
    store = MemoryStore()
    mapped = recipe(files, map={"use": "affine", "path": files["map"]})
    manifest = mint(mapped, store).manifest
    assert manifest.counts["images"] == 18
    assert "cosine to the true vector" in manifest.models["map"]["source"]
    stored = read_step(store, 0)
    assert stored["recipe"]["identities"]["map"]["use"] == "affine"
    assert stored["fingerprint_fields"]["model.map.sha256"] == files["told"]["sha256"]
    # where the file lies decides nothing
    assert "identities.map.path" not in stored["fingerprint_fields"]


def test_a_map_into_another_space_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    """A map that leads somewhere else than the generator's space stops the recipe."""
    away = str(tmp_path / "away.safetensors")
    wiring.fit_space_map(FACES, "sketch-screening", "sketch-judge", away, **SAID)
    with pytest.raises(SpaceMismatchError, match=r"identities\.map"):
        recipe(files, map={"use": "affine", "path": away})


def test_the_verb_prints_what_the_file_says(files: dict[str, Any], tmp_path: Path) -> None:
    """Table and JSON tell error and spaces; a second run over the same file changes nothing."""
    out = tmp_path / "again.safetensors"
    asked = ["bank", "map", FACES, "--from", "sketch-screening", "--to", "sketch-conditioning", "--out", str(out)]
    asked += ["--licence", "Apache-2.0", "--lawful-basis", "nobody is a person"]
    for _ in range(2):
        result = facemint(*asked)
        assert result.exit_code == 0, result.output
        assert "Judged on" in result.output
    told = facts_of("bank", "show", out)
    assert told["error"] == files["told"]["error"]
    assert told["target"]["name"] == "sketch-conditioning"
    assert told["sha256"] == facts_of(*asked)["sha256"]
    assert "Map again" in facemint("bank", "show", out).output


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [("sketch-judge", "sketch-judge", "one space"), ("sketch-judge", "nobody", "unknown recogniser")],
)
def test_mistakes_are_one_line(tmp_path: Path, source: str, target: str, said: str) -> None:
    """A map of a space to itself, and a recogniser that is not known, are the user's mistakes."""
    with pytest.raises(UserError, match=said):
        wiring.fit_space_map(FACES, source, target, str(tmp_path / "m.safetensors"), **SAID)
