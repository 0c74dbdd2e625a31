"""`--rehearse`: what a recipe becomes, what is marked and refused; and recipes whose weights are not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import wiring
from jobs.wiring.models import Unfetched, unfetched, weights
from jobs.wiring.pinning import pinned
from jobs.wiring.rehearsing import IDENTITIES, IMAGES, rehearsed
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import ModelError, PlanMismatchError, RecipeError
from pipeline.domain.recipe import parse_recipe
from pipeline.domain.weights import WeightsRef
from pipeline.execute.generations import read_step
from tests.command_line import facemint
from tests.recipes import all_on_recipe, sketch_recipe
from tests.worlds import mint

SHIPPED = ("vec2face_10k", "arc2face_10k", "hsface_like_300k", "ip_adapter_faceid_1k")


def sketch(tmp_path: Path, **changes: Any) -> str:
    """Return the path of a sketch recipe."""
    path = tmp_path / "sketches.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe(**changes)))
    return str(path)


def test_nothing_is_refused_and_nothing_handed_over() -> None:
    """Filters and enrolment observe, balance, leakage and exports are gone, and it is small."""
    asked = all_on_recipe(count=40, images=9)
    recipe = rehearsed(asked, "test")
    assert recipe.rehearsal
    assert recipe.name == "sketches-rehearsal"
    assert (recipe.identities.count, recipe.identities.images_per_identity) == (IDENTITIES, IMAGES)
    assert recipe.enrol.mode == "observe"
    assert {node.mode for node in recipe.filters} == {"observe"}  # type: ignore[attr-defined]
    assert not recipe.exports
    assert not recipe.balance.by
    assert not recipe.leakage.galleries
    kept = {node.use for node in recipe.filters}
    assert {node["use"] for node in asked["filters"]} - kept == {"leakage", "cell-agreement"}
    assert len(recipe.measures) == len(asked["measures"])
    assert len(recipe.twins) == len(asked["twins"])


def test_a_rehearsal_ends_published_with_every_candidate_kept() -> None:
    """However alike everybody looks, everybody is enrolled, filled and published; verdicts are written down."""
    asked = sketch_recipe(
        enrol={"probes": 3, "separation": {"cos": -0.9}, "consistency": {"cos": 0.9999}, "unit_candidates": 5},
        filters=[{"use": "own-template", "cos": 0.9999}, {"use": "nearest-other", "cos": -0.5}],
    )
    store = MemoryStore()
    counts = mint(rehearsed(asked, "test"), store).manifest.counts
    assert (counts["identities"], counts["images"]) == (10, 30)
    assert counts["make"]["accepted"] == counts["make"]["candidates"] == 30
    assert counts["enrolled"] >= 10
    assert not counts["candidates_refused_at_enrolment"].get("template_collides")
    assert not counts["identities_failed"]


def test_it_is_marked_wherever_somebody_looks(tmp_path: Path) -> None:
    """Recipe, manifest, card, report, and what generate, status and plan print all say that it is a rehearsal."""
    out, recipe = str(tmp_path / "out"), sketch(tmp_path)
    planned = facemint("plan", recipe, "--rehearse")
    assert planned.exit_code == 0, planned.output
    assert "sketches-rehearsal" in planned.output
    made = facemint("generate", recipe, "--rehearse", "--out", out)
    assert made.exit_code == 0, made.output
    assert "A rehearsal" in made.output
    assert "A rehearsal" in facemint("status", out).output
    version = tmp_path / "out" / "versions" / "v000001"
    assert json.loads((version / "manifest.json").read_text())["figures"]["rehearsal"] is True
    assert "**A rehearsal.**" in (version / "README.md").read_text()
    assert "<strong>A rehearsal.</strong>" in (version / "report.html").read_text()
    stored = yaml.safe_load((tmp_path / "out" / "recipes" / "g0.yaml").read_text())
    assert stored["recipe"]["rehearsal"] is True
    assert facemint("verify", out, "--deep").exit_code == 0
    # and the same command again finds it done
    again = facemint("generate", recipe, "--rehearse", "--out", out, "--json")
    assert json.loads(again.output)["resumed"] is True


def test_no_dataset_grows_out_of_a_rehearsal(tmp_path: Path) -> None:
    """A rehearsal is a dataset of its own, and a real one does not take it up; nor the other way round."""
    recipe = sketch(tmp_path)
    store = MemoryStore()
    mint(wiring.load_recipe(recipe, rehearse=True), store)
    with pytest.raises(PlanMismatchError, match="holds a rehearsal, out of which no dataset grows"):
        mint(wiring.load_recipe(recipe), store)
    real = MemoryStore()
    mint(wiring.load_recipe(recipe), real)
    with pytest.raises(PlanMismatchError, match="holds what no rehearsal grows"):
        mint(wiring.load_recipe(recipe, rehearse=True), real)


def test_other_recipes_keep_their_marks_off(tmp_path: Path) -> None:
    """A real dataset has no word of rehearsals in its fingerprint, manifest or card."""
    store = MemoryStore()
    manifest = mint(wiring.load_recipe(sketch(tmp_path)), store).manifest
    assert "rehearsal" not in manifest.figures
    assert not {"rehearsal", "enrol.mode", "align", "identities.map"} & set(read_step(store, 0)["fingerprint_fields"])
    assert b"rehears" not in store.get("versions/v000001/README.md")


def test_recognisers_whose_files_are_not_here_are_stood_in_for() -> None:
    """A judge and an auditor that users bring as files need not be here; what stands in tells the two apart."""
    onnx = {"use": "onnx", "licence": "mine", "alignment": "phantom-112"}
    recipe = rehearsed(
        sketch_recipe(
            judge={**onnx, "path": "none.onnx", "name": "one"},
            auditor={**onnx, "path": "other.onnx", "name": "other"},
        ),
        "test",
    )
    parts = wiring.build_parts(recipe, MemoryStore(), None, "test")
    assert (parts.judge.space.name, parts.auditor.space.name) == ("rehearsed-judge", "rehearsed-auditor")
    assert parts.judge.card.sha256 != parts.auditor.card.sha256
    assert parts.aligner is not None
    assert parts.aligner.alignment == "phantom-112"


def test_a_recipe_with_a_mistake_is_not_rehearsed() -> None:
    """What is cut away is checked all the same: a typing error must not wait for the GPU."""
    with pytest.raises(RecipeError, match=r"balance|shapes"):
        rehearsed(sketch_recipe(balance={"by": ["shape"], "shapes": {}}), "test")
    with pytest.raises(RecipeError, match="for recipes of kind: generate"):
        rehearsed({"kind": "curate"}, "test")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_planned_without_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan says what would be made, and in one line what is missing; generate stops there and leaves nothing behind."""
    monkeypatch.setenv("FACEMINT_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    # the largest is planned as it is: reckoning must not take what running takes
    count = 300_000 if name == "hsface_like_300k" else 300
    planned = facemint("plan", name, "--json", "--set", f"identities.count={count}")
    assert planned.exit_code == 0, planned.output
    facts = json.loads(planned.output)
    each = wiring.load_recipe(name, unfetched=True).identities.images_per_identity
    assert facts["images"] == [0, each * count]
    assert facts["hours"] is None
    assert "facemint models fetch" in facts["unreckoned"]
    with pytest.raises(ModelError) as error:
        wiring.load_recipe(name)
    said = str(error.value)
    assert "\n" not in said
    assert "facemint models fetch hf://" in said
    assert said.startswith(f"{name}.yaml: generator.")


def test_what_stands_in_for_missing_weights_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a plan missing weights have digests that differ by address, and outside of it none."""
    monkeypatch.setenv("FACEMINT_MODELS", str(tmp_path))
    first, second = (WeightsRef(uri=f"{tmp_path}/{name}.safetensors") for name in ("one", "other"))
    with unfetched() as bringer:
        assert isinstance(weights(), Unfetched)
        assert weights().sha256(first) != weights().sha256(second)
        assert set(bringer.missing) == {first.uri, second.uri}
    with pytest.raises(ModelError):
        weights().sha256(first)


def test_weights_without_a_digest_get_the_one_they_have(tmp_path: Path) -> None:
    """A run pins what it finds: the digest decides, and where the file lies is no part of the fingerprint."""
    (tmp_path / "a").mkdir()
    for folder, data in (("a", b"weights"), (".", b"weights")):
        (tmp_path / folder / "w.bin").write_bytes(data)
    refs = [{"uri": str(tmp_path / place / "w.bin"), "sha256": None} for place in ("a", ".")]
    here, there = (pinned({"generator": {"weights": ref}}, "test") for ref in refs)
    assert here["generator"]["weights"]["sha256"] == there["generator"]["weights"]["sha256"] is not None
    formula = {"uri": "formula:generator", "sha256": None}
    assert pinned({"x": [formula]}, "test") == {"x": [formula]}
    with pytest.raises(ModelError, match=r"test: x\.0: .*\(and 1 more; see facemint models list\)"):
        pinned({"x": [{"uri": f"{tmp_path}/{n}", "sha256": None} for n in "bc"]}, "test")
    assert pinned({"x": [{"uri": f"{tmp_path}/b", "sha256": None}]}, "test", unfetched=True)["x"][0]["sha256"] is None


def test_where_pinned_weights_lie_is_not_fingerprinted(tmp_path: Path) -> None:
    """Equal weights at two places are one fingerprint; other weights are another."""
    raw = sketch_recipe()
    judge = {"use": "iresnet", "name": "reader", "depth": 18, "alignment": "phantom-112"}

    def fingerprint(uri: str, digest: str) -> str:
        whole = {**raw, "judge": {**judge, "weights": {"uri": uri, "sha256": digest}}}
        return str(wiring.prints_of(parse_recipe(wiring.full_model(), whole, "test")).fingerprint)

    assert fingerprint("/one", "a" * 64) == fingerprint("s3://two/x", "a" * 64) != fingerprint("/one", "b" * 64)
