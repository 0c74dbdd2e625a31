"""Pictures that are no crops yet: found, cut, judged, and refused where nobody is in them."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import wiring
from jobs.wiring.parts import aligner_of, build
from pipeline.adapters.sketch import SketchFinder, SketchScene, SketchSceneOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import RecipeError
from pipeline.domain.fingerprint import prints_of
from pipeline.domain.manifest import Receipt
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.execute.run import refilter
from pipeline.flow.aligning import NO_FACE, aligned, usual_points
from pipeline.flow.versions import published_rows
from tests.photographs import ASSETS, LFW, SCRFD, lfw, pixels
from tests.photographs import aligned as photographs
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

ALIGN = {"detector": {"use": "sketch"}}


def scenes(empty: float = 0.1, **changes: object) -> Recipe:
    """Return a sketch recipe whose pictures have to be cut."""
    return sketches(generator={"use": "sketch-scene", "empty": empty}, align=ALIGN, **changes)


def test_a_dataset_is_made_of_pictures_that_have_to_be_cut() -> None:
    """Crops are stored in the judge's alignment; empty pictures are refused with one reason, and counted."""
    store = MemoryStore()
    published = mint(scenes(0.15), store).manifest
    counts = published.counts
    assert counts["images"] == counts["images_expected"] == 30
    for stage in ("enrol", "make"):
        assert counts[stage]["reasons"][NO_FACE] > 0
        assert counts[stage]["accepted"] + counts[stage]["refused"] == counts[stage]["candidates"]
    parts = wiring.build_parts(scenes(), store, None, "test")
    units = [Receipt.from_json(store.get(p)).name for p in store.list("receipts/make-")]
    rows = [row for unit in units for row in parts.segments.read_rows(store, unit)]
    lost = [row for row in rows if row["reasons"] == [NO_FACE]]
    assert lost
    for row in lost:
        assert not row["embedding"].any()
        assert row["measures"] == {}
        assert [v["filter"] for v in row["verdicts"]] == ["detect"]
    kept = published_rows(parts.segments, store, published)[0]
    image = store.get_range(f"segments/{kept.segment}.tar", kept.offset, kept.length)
    assert parts.codec.decode(image).shape == (32, 32, 3)
    assert published.models["align"]["name"] == "sketch-finder"


def test_cut_pictures_are_the_same_whoever_makes_them() -> None:
    """Neither the batch of the judge nor how many batches are in flight changes a byte of what is cut."""
    first, second = MemoryStore("memory://a"), MemoryStore("memory://b")
    mint(scenes(compute={"executor": "inline", "in_flight": 1}), first)
    mint(scenes(compute={"executor": "inline", "in_flight": 2}), second)
    assert bytes_of(first) == bytes_of(second)


def test_a_cut_pattern_is_the_pattern() -> None:
    """Cutting gives back what was put into the scene, whatever its place and size."""
    recipe = scenes(0.0)
    generator = SketchScene(SketchSceneOptions(use="sketch-scene", empty=0.0))
    plain = build("generator", sketches().generator)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((6, 16)).astype(np.float32) / 4
    noise = rng.standard_normal((6, 1, 32, 32)).astype(np.float32)
    crops, found = aligner_of(recipe, "sketch-32").align(generator.generate(vectors, [{}] * 6, noise))
    assert found.all()
    patterns = plain.generate(vectors, [{}] * 6, noise)
    inside = (slice(None), slice(2, -2), slice(2, -2))
    apart = np.abs(crops[inside].astype(int) - patterns[inside].astype(int))
    # edges between patches are softened by the cut; patches are not
    assert np.median(apart) == 0
    assert apart.mean() < 4


def test_a_picture_without_a_face_is_black_and_alone() -> None:
    """What becomes of a picture does not depend on those beside it; one without a face gives no crop."""
    aligner = aligner_of(scenes(), "sketch-32")
    generator = SketchScene(SketchSceneOptions(use="sketch-scene", empty=0.5))
    rng = np.random.default_rng(1)
    pictures = generator.generate(
        rng.standard_normal((16, 16)).astype(np.float32), [{}] * 16, rng.standard_normal((16, 1, 32, 32), np.float32)
    )
    crops, found = aligner.align(pictures)
    assert 0 < found.sum() < 16
    assert not crops[~found].any()
    alone = [aligner.align(pictures[n : n + 1]) for n in range(16)]
    np.testing.assert_array_equal(np.concatenate([c for c, _ in alone]), crops)
    np.testing.assert_array_equal(np.concatenate([f for _, f in alone]), found)


def test_refilter_keeps_why_a_picture_was_refused() -> None:
    """A candidate without a face has nothing to judge again: it stays refused for that reason."""
    store = MemoryStore()
    mint(scenes(0.15), store)
    filters = [{"use": "own-template", "cos": 0.2}]
    changed = scenes(0.15, filters=filters)
    counts = refilter(wiring.session_on(changed, store, Silent())).manifest.counts
    assert counts["refilter"]["reasons"][NO_FACE] > 0


def test_pictures_that_are_no_crops_need_an_aligner() -> None:
    """A recipe whose generator makes no crops is refused before anything runs, with what to add."""
    with pytest.raises(RecipeError, match=r"align: missing; the sketch-scene generator makes pictures of 96 pixels"):
        sketches(generator={"use": "sketch-scene"})
    with pytest.raises(RecipeError, match="align"):
        sketches(generator={"use": "sketch"}, align={"detector": {"use": "nobody"}})


def test_an_aligner_is_fingerprinted_and_its_absence_is_not() -> None:
    """Who cuts decides bytes; a recipe without has the fingerprint that it had before there was any."""
    plain, cut = wiring.prints_of(sketches()), wiring.prints_of(sketches(align=ALIGN))
    assert not [k for k in plain.fields if k.startswith(("align", "model.align"))]
    assert {"align.detector.use", "align.choice", "model.align.sha256", "model.align.epoch"} <= cut.fields.keys()
    looked = {"detector": {"use": "scrfd", "path": "here.onnx"}}
    raw = sketch_recipe(generator={"use": "sketch-scene"}, align=looked)
    fields = [
        prints_of(parse_recipe(wiring.full_model(), {**raw, "align": {"detector": detector}}, "test"), {}).fields
        for detector in (looked["detector"], {**looked["detector"], "path": "there.onnx", "licence": "mine"})
    ]
    assert fields[0] == fields[1]  # its digest, on its card, says which it is
    central = wiring.prints_of(sketches(align={**ALIGN, "choice": "central"}))
    assert len({p.fingerprint for p in (plain, cut, central)}) == 3


def test_the_usual_place_of_a_face_is_measured_once() -> None:
    """A fixed crop measured over many pictures is where the detector finds most of them, and costs no detection."""
    generator = SketchScene(SketchSceneOptions(use="sketch-scene", empty=0.2))
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((40, 1, 32, 32)).astype(np.float32)
    noise[:, 0, 1, 1:4] = 0.7  # always at one place, in one size
    pictures = generator.generate(rng.standard_normal((40, 16)).astype(np.float32), [{}] * 40, noise)
    points, seen, spread = usual_points(SketchFinder(), pictures, "largest")
    assert spread == pytest.approx(0.0, abs=1e-6)
    assert 20 < seen < 40
    assert np.isfinite(points).all()
    fixed = {"detector": {"use": "fixed", "points": [[round(float(x), 6) for x in p] for p in points]}}
    recipe = sketches(generator={"use": "sketch-scene", "empty": 0.0}, align=fixed)
    by_points, found = aligner_of(recipe, "sketch-32").align(pictures)
    by_looking, there = aligner_of(scenes(), "sketch-32").align(pictures)
    assert found.all()
    np.testing.assert_allclose(by_points[there].astype(int), by_looking[there].astype(int), atol=2)


def test_whole_pictures_can_be_the_crop() -> None:
    """Without points the picture is the crop in another size; nothing is cut off."""
    recipe = sketches(align={"detector": {"use": "fixed", "alignment": "sketch-32"}})
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    crops, found = aligner_of(recipe, "sketch-32").align(pictures)
    assert found.all()
    np.testing.assert_array_equal(crops, pictures)


def test_parts_without_an_aligner_pass_pictures_on() -> None:
    """A generator that makes crops has no aligner, and its crops are not touched."""
    parts = wiring.build_parts(sketches(), MemoryStore(), None, "test")
    assert parts.aligner is None
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    crops, found = aligned(parts, pictures)
    assert crops is pictures
    assert found.all()


@pytest.mark.skipif(not SCRFD.is_file() or not LFW.is_dir(), reason=f"no real pictures or detector in {ASSETS}")
def test_a_real_detector_cuts_pictures_as_it_cuts_photographs() -> None:
    """Pictures of a generator that needs it are cut by SCRFD as any photograph is; a grey one has no face."""
    raw = sketch_recipe(generator={"use": "sketch-scene"}, align={"detector": {"use": "scrfd", "path": str(SCRFD)}})
    recipe = parse_recipe(wiring.full_model(), {**raw, "align": {**raw["align"], "choice": "central"}}, "test")
    paths = lfw()[:2]
    side_px = min(min(pixels(path).shape[:2]) for path in paths)
    pictures = np.stack([pixels(path)[:side_px, :side_px] for path in paths])
    grey = np.full_like(pictures[:1], 127)
    crops, found = aligner_of(recipe, "arcface-112").align(np.concatenate([pictures, grey]))
    assert found.tolist() == [True, True, False]
    assert not crops[2].any()
    np.testing.assert_array_equal(crops[:2], photographs(paths))
