"""`facemint quantiles`, recipes whose measures name what it wrote, and the filter that reads percentiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import wiring
from pipeline.adapters.recognisers.iresnet_norm import IResNetNormOptions
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import FacemintError, OutputError, RecipeError, UserError
from pipeline.domain.percentiles import Percentiles, percentile_of, quantiles_of, settling_options
from pipeline.domain.recipe import Recipe
from pipeline.flow.commit import receipts
from tests.command_line import printed, refused
from tests.crawls import crawl, crawl_recipe, gather, png
from tests.recipes import sketch_recipe
from tests.worlds import Silent, mint

SOURCE = "sketch://faces?identities=60&images=4&seed=11"
FILTER = {"use": "quality-percentile", "score": "sharpness", "min": 40}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of quantiles of the sharpness of sketches."""
    path = tmp_path_factory.mktemp("quantiles") / "sharpness.json"
    printed("quantiles", "sharpness", SOURCE, "--score", "sharpness", "--out", str(path), "--json")
    return path


def loaded(tmp_path: Path, measure: Mapping[str, Any], *overrides: str, **changes: Any) -> Recipe:
    """Return the sketch recipe with one more measure, loaded from a file as a user's is."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe(measures=[{"use": "sketch"}, dict(measure)], exports=[], **changes)))
    return wiring.load_recipe(str(path), overrides)


def judged(*more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change of the sketch recipe: a loose filter of its own, and these."""
    return {"filters": [{"use": "own-template", "fmr": 0.1}, *more], "attempts": 8}


def candidates(store: Any) -> list[dict[str, Any]]:
    """Return the rows of everything that was made."""
    return [row for name in sorted(receipts(store, "make-")) for row in Segments().read_rows(store, name)]


def test_the_file_says_of_which_model_and_faces_it_is(ranks: Path, tmp_path: Path) -> None:
    """Model by digest, options and crops; the population by digest and number; 101 quantiles of its very scores."""
    content = json.loads(ranks.read_text())
    part = wiring.build("measures", loaded(tmp_path, {"use": "sharpness"}).measures[1])
    faces = [np.asarray(f.face_HWC) for f in wiring.open_labelled(SOURCE, alignment="sketch-32")]

    assert content["model"] == {
        "use": "sharpness", "sha256": part.card.sha256, "epoch": part.card.epoch, "options": {},
        "alignment": "sketch-32",
    }  # fmt: skip
    assert (content["population"]["source"], content["population"]["images"]) == (SOURCE, 240)
    assert content["quantiles"] == {"sharpness": list(quantiles_of(part.measure(np.stack(faces))["sharpness"]))}


def test_the_same_faces_give_the_same_file_and_one_that_is_there_stays(ranks: Path, tmp_path: Path) -> None:
    """A second run writes equal bytes elsewhere, and nothing over the first."""
    again = tmp_path / "again.json"
    shown = " ".join(printed("quantiles", "sharpness", SOURCE, "--score", "sharpness", "--out", str(again)).split())
    assert again.read_bytes() == ranks.read_bytes()
    assert "sharpness on sketch://faces?identities=60&images=4&seed=11: 240 faces" in shown
    assert "known to about ±6.5 points" in shown
    quantiles = json.loads(again.read_text())["quantiles"]["sharpness"]
    assert " ".join(f"{quantiles[place]:.3g}" for place in (0, 5, 10, 25, 50, 75, 100)) in shown
    with pytest.raises(OutputError, match="is there already"):
        printed("quantiles", "sharpness", SOURCE, "--out", str(ranks))


def test_a_recipe_with_the_filter_refuses_the_lowest_faces(ranks: Path, tmp_path: Path) -> None:
    """Who stands below the bound among the reference faces is refused, everybody else is not, and the card says how."""
    store = MemoryStore()
    # frontal, as the reference faces are: what is asked of a sketch tints it, and shifts its sharpness
    recipe = loaded(tmp_path, {"use": "sharpness", "percentiles": str(ranks)}, conditions={}, **judged(FILTER))
    manifest = mint(recipe, store).manifest
    quantiles = np.asarray(json.loads(ranks.read_text())["quantiles"]["sharpness"])
    rows = candidates(store)
    told = [(dict(row["measures"]), "sharpness_percentile_too_low" in row["reasons"]) for row in rows]

    first = [low for (_, low), row in zip(told, rows, strict=True) if row["attempt"] == 0]
    assert 0.2 < np.mean(first) < 0.7, "about 40 % of faces like the reference lie below 40"
    for measures, low in told:
        assert measures["sharpness_percentile"] == percentile_of([measures["sharpness"]], quantiles)[0]
        assert low == (measures["sharpness_percentile"] < 40)
    assert not any(low and row["accepted"] for (_, low), row in zip(told, rows, strict=True))
    assert manifest.counts["images"] == 30
    assert f"percentiles among 240 faces of {SOURCE}" in manifest.models["measure sharpness"]["source"]


def test_a_curation_drops_the_worst_of_its_own_faces(tmp_path: Path) -> None:
    """Photographs are their own reference: with the filter at 20 about a fifth of them is refused, for this reason."""
    root = crawl(tmp_path / "crawl", {f"p{n:02d}": range(4) for n in range(26)})
    ranks = tmp_path / "ranks.json"
    printed("quantiles", "sharpness", str(root), "--alignment", "sketch-32", "--out", str(ranks))
    measures = [{"use": "sketch"}, {"use": "sharpness", "percentiles": str(ranks)}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(crawl_recipe(root, measures=measures, filters=[{**FILTER, "min": 20}])))
    counts = gather(wiring.load_recipe(str(path))).manifest.counts["make"]
    # not exactly a fifth: what is judged has been through JPEG
    assert counts["candidates"] == 104
    assert 15 <= counts["refused"] == counts["reasons"]["sharpness_percentile_too_low"] <= 27


def test_the_quantiles_are_fingerprinted_and_nothing_else_of_the_file_is(ranks: Path, tmp_path: Path) -> None:
    """Other quantiles are another dataset; another name of the source is not; and without any nothing has changed."""

    def prints(change: Callable[[Any], None]) -> Any:
        content = json.loads(ranks.read_text())
        change(content)
        other = tmp_path / "other.json"
        other.write_text(json.dumps(content))
        return wiring.prints_of(loaded(tmp_path, {"use": "sharpness", "percentiles": str(other)}))

    same = prints(lambda _: None)
    renamed = prints(lambda c: c["population"].update(source="elsewhere"))
    higher = prints(lambda c: c["quantiles"]["sharpness"].__setitem__(100, 1.5))
    plain = wiring.prints_of(loaded(tmp_path, {"use": "sharpness"}))
    assert same.fingerprint == renamed.fingerprint
    assert len({same.fingerprint, higher.fingerprint, plain.fingerprint}) == 3
    assert not [name for name in (*same.fields, *plain.fields) if "percentiles" in name]


BROKEN: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: c["quantiles"]["sharpness"].pop(), r"quantiles: sharpness: 100 quantiles; .*101 finite ones"),
    (lambda c: c["quantiles"]["sharpness"].__setitem__(50, "0.5"), r"quantiles.sharpness.50: Input should be"),
    (lambda c: c["quantiles"]["sharpness"].reverse(), r"sharpness: 101 quantiles; .*at least the one before"),
    (lambda c: c["quantiles"].clear(), r"quantiles: .*at least 1 item"),
    (lambda c: c["population"].update(images=20), r"population.images: .*greater than or equal to 101"),
    (lambda c: c.pop("model"), r"model: Field required"),
    (lambda c: c["model"].update(sha256="0" * 64), r"of other weights or code \(sha256 000000000000\.\.\. where"),
    (lambda c: c["model"].update(epoch=99), r"of its epoch 99 where this is epoch"),
    (lambda c: c["model"].update(use="lightqnet"), r"of the measure lightqnet; make them with facemint quantiles sha"),
    (lambda c: c["model"].update(alignment="arcface-112"), r"measures.1: .*'arcface-112'.*--alignment sketch-32"),
    (
        lambda c: c["quantiles"].update(beauty=c["quantiles"].pop("sharpness")),
        r"of 'beauty', which it does not give \(it gives sharpness, luma_mean, luma_contrast\)",
    ),
]


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_a_file_that_does_not_fit_is_one_line(
    ranks: Path, tmp_path: Path, change: Callable[[Any], Any], told: str
) -> None:
    """Truncated, without numbers, of another model, other crops, other scores: found when the recipe is read."""
    content = json.loads(ranks.read_text())
    change(content)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=told) as caught:
        loaded(tmp_path, {"use": "sharpness", "percentiles": str(wrong)})
    assert "\n" not in str(caught.value)


def test_crops_that_a_measure_does_not_read_are_refused(tmp_path: Path) -> None:
    """Percentiles of faces of another alignment are others although model and options are the same."""
    out = tmp_path / "lighting.json"
    printed("quantiles", "lighting", SOURCE, "--score", "luminance_mean", "--out", str(out))
    lighting = {"use": "lighting", "percentiles": str(out)}
    assert loaded(tmp_path, {**lighting, "alignment": "sketch-32"}).measures[1].percentiles is not None  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="faces aligned to 'sketch-32' where it reads 'arcface-112'"):
        loaded(tmp_path, lighting)


def test_options_that_move_a_score_have_to_agree() -> None:
    """A network that reads blue first gives other lengths by the same weights; where they lie is of no account."""

    def normed(options: Mapping[str, Any], **more: Any) -> Any:
        node = IResNetNormOptions(weights={"uri": "formula:norm"}, depth=18, **more)
        model = {"use": "iresnet-norm", "epoch": 1, "sha256": wiring.build("measures", node).card.sha256}
        among = {"source": "faces", "digest": "0" * 64, "images": 500}
        held = {
            "model": {**model, "options": options, "alignment": "arcface-112"},
            "population": among,
            "quantiles": {"feature_norm": np.linspace(8, 40, 101).tolist()},
        }
        return wiring.build("measures", node.model_copy(update={"percentiles": Percentiles.model_validate(held)}))

    said = settling_options(IResNetNormOptions(weights={"uri": "formula:norm"}, depth=18))
    assert set(said) == {"depth", "layout", "bn_eps", "mean", "std", "channels", "flip"}
    young = {k: v for k, v in said.items() if k not in ("std", "flip")}
    for same in (said, young):
        assert normed(same, device="cpu", name="other").names == ("feature_norm", "feature_norm_percentile")
    for options, more, told in (
        (said, {"channels": "bgr"}, "its percentiles are of channels rgb where the recipe says bgr"),
        (young, {"flip": True}, "of flip False where the recipe says True"),
        ({**said, "gone": 3}, {}, "of gone 3 where the recipe says None"),
    ):
        with pytest.raises(RecipeError, match=told):
            normed(options, **more)


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not JSON.*; name a file of facemint quantiles"), ("[]", "the whole")]
)
def test_what_is_no_file_of_percentiles_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    """Torn, or something else; the message names the recipe's key and the file."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"recipe.yaml: measures.1.percentiles: .*x.json .*{told}"):
        loaded(tmp_path, {"use": "sharpness", "percentiles": str(path)})


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ("sharpness", r"'sharpness' has no percentiles; .*made by facemint quantiles MEASURE SOURCE --out FILE"),
        ("ediffiqa", r"nothing here gives the score 'ediffiqa'; measures present: .*sharpness.*; add the measure"),
    ],
)
def test_a_filter_without_percentiles_is_refused_before_a_run(tmp_path: Path, score: str, told: str) -> None:
    """The line names the filter and says how to come by them."""
    with pytest.raises(RecipeError, match=r"recipe.yaml: filters.1: .*" + told) as caught:
        loaded(tmp_path, {"use": "sharpness"}, **judged({**FILTER, "score": score}))
    assert "\n" not in str(caught.value)


def test_a_dataset_that_stands_is_judged_by_percentiles_that_are_added(ranks: Path, tmp_path: Path) -> None:
    """Without making an image: `measure --add` brings the percentiles under a labeller, `refilter` reads them."""
    out = tmp_path / "out"
    mint(loaded(tmp_path, {"use": "sharpness"}, **judged()), LocalStore(out))
    done = wiring.measure_on(LocalStore(out), "sharpness", [f"percentiles={ranks}", "labeller=ranked"], Silent())
    assert "sharpness_percentile@ranked" in done["measures"]
    again = wiring.measure_on(LocalStore(out), "sharpness", [f"percentiles={ranks}", "labeller=ranked"], Silent())
    assert (again["images"], again["units_before"]) == (0, done["units"])
    filters = tmp_path / "filters.yaml"
    filters.write_text(yaml.safe_dump([*judged()["filters"], {**FILTER, "score": "sharpness@ranked"}]))
    facts = json.loads(printed("refilter", str(out), "--filters", str(filters), "--dry-run", "--json"))
    assert 0 < facts["identities_before"] >= facts["identities"]
    assert "sharpness@ranked_percentile_too_low" in json.dumps(facts)
    # its own images may be the reference too, if there are enough of them
    assert "30 faces with a score" in refused("quantiles", "sharpness", out, "--out", tmp_path / "q.json")


def test_what_was_added_before_there_were_percentiles_is_still_whole() -> None:
    """Options without percentiles are told as they were, so side-cars of earlier versions are not made again."""
    from jobs.wiring.measuring import addition_of
    from pipeline.domain.recipe import parse_recipe

    recipe = parse_recipe(wiring.full_model(), sketch_recipe(), "test")
    options = addition_of(recipe, {"use": "lighting", "alignment": "sketch-32"}).options
    assert options == {"use": "lighting", "alignment": "sketch-32", "labeller": None}


def test_a_rehearsal_reads_no_percentiles(tmp_path: Path) -> None:
    """Made-up weights have no ranks: the measure stays, its percentiles and the filter that reads them go."""
    path = tmp_path / "recipe.yaml"
    measures = [{"use": "sketch"}, {"use": "sharpness", "percentiles": str(tmp_path / "not there.json")}]
    path.write_text(yaml.safe_dump(sketch_recipe(measures=measures, **judged(FILTER))))
    small = wiring.load_recipe(str(path), rehearse=True)
    assert [node.use for node in small.measures] == ["sketch", "sharpness"]
    assert "quality-percentile" not in [node.use for node in small.filters]


def test_a_printed_recipe_may_be_run(ranks: Path, tmp_path: Path) -> None:
    """What `facemint recipe` prints holds the quantiles, and reads as the same recipe without the file."""
    recipe = loaded(tmp_path, {"use": "sharpness", "percentiles": str(ranks)}, **judged(FILTER))
    text = printed("recipe", str(tmp_path / "recipe.yaml"))
    (tmp_path / "printed.yaml").write_text(text)
    again = wiring.load_recipe(str(tmp_path / "printed.yaml"))
    assert wiring.prints_of(again).fingerprint == wiring.prints_of(recipe).fingerprint


def test_a_folder_of_all_is_enough(tmp_path: Path) -> None:
    """Whose faces they are does not matter; what cannot be read is counted, on request."""
    for face in wiring.open_labelled("sketch://faces?identities=51&images=2", alignment="sketch-32"):
        path = tmp_path / "set" / "all" / f"{face.name.replace('/', '-')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.asarray(face.face_HWC)))
    (tmp_path / "set" / "all" / "torn.png").write_bytes(b"x")
    arguments = ("quantiles", "sharpness", str(tmp_path / "set"), "--alignment", "sketch-32")
    assert "torn.png" in refused(*arguments, "--out", tmp_path / "a.json")
    printed(*arguments, "--skip-unreadable", "--out", str(tmp_path / "b.json"))
    content = json.loads((tmp_path / "b.json").read_text())
    assert (content["population"]["images"], content["population"]["left_out"]) == (102, 1)
    assert content["population"]["source"] == "set"
    assert sorted(content["quantiles"]) == ["luma_contrast", "luma_mean", "sharpness"]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("beauty", SOURCE), UserError, "unknown measure; known: .*ediffiqa"),
        (("ediffiqa", SOURCE), RecipeError, "measure ediffiqa: has no default for path; give --set path="),
        (("sharpness", SOURCE, "--score", "beauty"), UserError, "--score beauty: .*it gives sharpness, luma_mean"),
        (("sharpness", SOURCE, "--set", "labeller=a"), UserError, "--set labeller: changes no score"),
        (("sharpness", SOURCE, "--set", "percentiles=a"), UserError, "--set percentiles: changes no score"),
        (("sharpness", SOURCE, "--set", "radius=2"), RecipeError, "--set radius=2: .*options of sharpness"),
        (("lighting", SOURCE, "--set", "alignment=arcface-112"), UserError, "reads faces aligned to 'arcface-112'"),
        (("sharpness", "sketch://faces?identities=20&images=5"), UserError, "100 faces with a score; .*101 or more"),
        (("sharpness", "nowhere"), UserError, "is no folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    tmp_path: Path, arguments: tuple[str, ...], error: type[FacemintError], told: str
) -> None:
    """What was got and what is allowed; nothing is written."""
    with pytest.raises(error, match=told) as caught:
        printed("quantiles", *arguments, "--out", str(tmp_path / "q.json"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
