"""Which vectors may meet which generator, which crops which judge: spaces, bare banks, raw features, fixed crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from jobs import wiring
from jobs.wiring.parts import sampler_of
from pipeline.adapters.banks import SpaceBankOptions
from pipeline.adapters.fixed_points import FixedPointsOptions
from pipeline.adapters.sketch import SketchFaces, SketchRecogniser, SketchRecogniserOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.banking import identity_means
from pipeline.domain.errors import RecipeError
from pipeline.domain.records import Float32, UInt8
from pipeline.domain.space import Space
from pipeline.flow.labelled import embed_labelled
from tests.command_line import facemint, facts_of
from tests.recipes import sketch_recipe
from tests.worlds import mint, sketches

JUDGE = {"use": "iresnet", "name": "reader", "depth": 18, "weights": {"uri": "formula:judge"}}


def identities(bank: dict[str, Any], sampler: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe that says where vectors come from."""
    return {"count": 4, "images_per_identity": 2, "bank": bank, "sampler": sampler}


def test_a_bare_space_is_the_generators_own() -> None:
    """Whoever draws evenly need not copy the digest of the generator's space; the whole dataset is made."""
    recipe = sketches(identities=identities({"use": "space"}, {"use": "sphere"}), balance={})
    parts = wiring.build_parts(recipe, MemoryStore(), None, "test")
    assert parts.sampler.space == parts.generator.space
    assert mint(recipe).manifest.counts["images"] == 8


def test_a_space_is_said_whole_or_not_at_all() -> None:
    """Half a declaration is a mistake, not a default."""
    with pytest.raises(ValidationError, match="says of the space all but weights_sha256, alignment"):
        SpaceBankOptions(use="space", name="mine", norm="unit", dimensions=16)


def test_vectors_that_say_nothing_of_their_space_are_refused(tmp_path: Path) -> None:
    """The generator's own space is no word about a file: whoever means it declares it."""
    path = tmp_path / "vectors.npy"
    np.save(path, np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32))
    files = {"use": "files", "path": str(path), "licence": "CC0-1.0", "real_people": False}
    with pytest.raises(RecipeError, match="says of no space where its vectors live"):
        sketches(identities=identities({"use": "space"}, files), balance={})
    declared = {"use": "space", **wiring.build_parts(sketches(), MemoryStore(), None, "x").generator.space.to_dict()}
    recipe = sketches(identities=identities(declared, files), balance={})
    assert sampler_of(recipe, wiring.build("identities.bank", recipe.identities.bank)).candidates == 40


def test_judges_and_auditors_have_unit_vectors() -> None:
    """Bare features are what a generator is conditioned on; a judge compares cosines."""
    raw = {**JUDGE, "norm": "raw", "alignment": "phantom-112"}
    with pytest.raises(RecipeError, match=r"judge\.norm: 'reader' keeps the lengths"):
        sketches(judge=raw, enrol={"separation": {"cos": 0.5}, "consistency": {"cos": 0.5}}, filters=[])


class BareSketches(SketchRecogniser):
    """A sketch recogniser whose vectors keep their lengths, as those of Vec2Face's recogniser do."""

    def __init__(self) -> None:
        """Read as the judge does."""
        super().__init__(SketchRecogniserOptions(use="sketch-judge"))
        mine = self.space.to_dict() | {"norm": "raw"}
        self.space = Space.from_dict(mine)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return rows whose length is the contrast of the face."""
        bare: Float32 = super().embed(faces_NHWC) * (1 + faces_NHWC.std(axis=(1, 2, 3))[:, None].astype(np.float32))
        return bare


def test_identity_means_of_bare_features_keep_their_lengths() -> None:
    """A bank in a space that keeps lengths is fitted to plain means; in one of unit vectors to unit means."""
    from pipeline.adapters.codec import JpegCodec

    faces = embed_labelled(SketchFaces(JpegCodec(), identities=5, images=3, seed=1), BareSketches(), 8)
    assert len(faces.names) == 15
    lengths = np.linalg.norm(faces.emb_NE, axis=1)
    assert lengths.min() > 10
    means, images = identity_means(faces.emb_NE, faces.labels_N, keep_lengths=True)
    np.testing.assert_allclose(means[2], faces.emb_NE[faces.labels_N == 2].mean(axis=0), rtol=1e-5)
    assert images.tolist() == [3] * 5
    np.testing.assert_allclose(np.linalg.norm(identity_means(faces.emb_NE, faces.labels_N)[0], axis=1), 1.0)


@pytest.mark.parametrize(
    ("points", "said"),
    [([[0.3, 0.4]] * 5, "in one place"), ([[0.3, 0.4], [0.7, 0.4]], "five are given"), ([[0.3, 9]] * 5, "less than")],
)
def test_fixed_points_are_five_and_apart(points: list[list[float]], said: str) -> None:
    """Points that say no place, too few of them, and points far outside of the picture are mistakes."""
    with pytest.raises(ValidationError, match=said):
        FixedPointsOptions.model_validate({"use": "fixed", "points": points})


def test_the_usual_place_of_a_face_is_printed_as_the_recipe_takes_it(tmp_path: Path) -> None:
    """What `calibrate-crop` prints goes into the recipe as it stands, and a dataset is made with it."""
    raw = sketch_recipe(generator={"use": "sketch-scene"}, align={"detector": {"use": "sketch"}})
    path = tmp_path / "scenes.yaml"
    path.write_text(yaml.safe_dump(raw))
    asked = ["calibrate-crop", str(path), "--images", "60"]
    printed = facemint(*asked)
    assert printed.exit_code == 0, printed.output
    node = yaml.safe_load(printed.output[printed.output.index("align:") :])
    facts = facts_of(*asked)
    assert node["align"]["detector"] == facts["detector"]
    assert 40 < facts["found"] < 60
    assert facts["spread"] > 0.1  # these scenes have patterns anywhere, which the figure says
    sketches(generator={"use": "sketch-scene"}, **node)


def test_where_nothing_looks_nothing_is_measured(tmp_path: Path) -> None:
    """A recipe without a detector that looks has no usual place of a face."""
    path = tmp_path / "sketches.yaml"
    path.write_text(yaml.safe_dump(sketch_recipe()))
    result = facemint("calibrate-crop", path)
    assert result.exit_code != 0
    assert "none that looks is named" in str(result.exception)
