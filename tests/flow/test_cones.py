"""Variation around an identity's vector, and samplers that end: what reaches the generator, and what enrolment does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.adapters.sketch import DIMENSIONS, SketchBank, SketchGenerator, SketchGeneratorOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.cones import VECTOR_COS
from pipeline.domain.errors import RecipeError, TargetNotReachedError
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Conditions, Float32, UInt8, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.execute.run import generate
from pipeline.execute.stop import Stop
from pipeline.flow.cones import slot_vector, slot_vectors
from pipeline.flow.estimate import from_trial
from tests.recipes import sketch_recipe
from tests.worlds import Silent, bytes_of, mint, sketches

YAW = sketch_recipe()["conditions"]["yaw_deg"]
ENROL = {**sketch_recipe()["enrol"], "vector_separation_cos": 0.5}
CONE = {"conditions": {"yaw_deg": YAW, VECTOR_COS: {"use": "uniform", "low": 0.9, "high": 0.98}}, "enrol": ENROL}


def vectors(count: int, dimensions: int = DIMENSIONS, seed: int = 3) -> Float32:
    """Return unit vectors."""
    return unit_rows(Key(seed, Stream.PREVIEW).generator().standard_normal((count, dimensions)), "test")


class Listening:
    """The sketch generator, with an ear for what it is handed."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        inner = SketchGenerator(SketchGeneratorOptions(use="sketch"))
        self._inner, self.space, self.card = inner, inner.space, inner.card
        self.noise_shape, self.image_px = inner.noise_shape, inner.image_px
        self.condition_names, self.condition_ranges = inner.condition_names, inner.condition_ranges
        self.heard: list[tuple[Float32, Conditions]] = []

    def generate(self, vectors_ND: Float32, conditions: Sequence[Conditions], noise_NCHW: Float32) -> UInt8:
        """Generate as the sketch generator does, and remember vectors and conditions."""
        self.heard += list(zip(vectors_ND.copy(), conditions, strict=True))
        return self._inner.generate(vectors_ND, conditions, noise_NCHW)


def heard_by_generator(recipe: Recipe) -> tuple[list[tuple[Float32, Conditions]], MemoryStore]:
    """Mint a recipe; return what its generator was handed, and the dataset."""
    store, ear = MemoryStore(), Listening()
    session = wiring.session_on(recipe, store, Silent())
    parts = replace(session.parts, generator=ear)
    generate(replace(session, parts=parts, executor=wiring.inline_executor(parts, Stop())))
    return ear.heard, store


class TestSlotVectors:
    """The vector of one slot."""

    def test_without_the_condition_they_are_the_identities_own(self) -> None:
        """A recipe that does not ask for cones hands out vectors bit for bit."""
        own = vectors(5)
        asked: list[Conditions] = [{"yaw_deg": 3.0}] * 5
        handed = slot_vectors(list(own), asked, 1, [(n, 0) for n in range(5)])
        assert handed.tobytes() == own.tobytes()

    def test_the_direction_belongs_to_identity_and_slot(self) -> None:
        """Equal keys give equal vectors, other slots, identities and seeds others, all at the cosine asked for."""
        own = vectors(1)[0]
        places = [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0)]
        handed = [slot_vector(own, {VECTOR_COS: 0.8}, seed, identity, slot) for seed, identity, slot in places]
        again = slot_vector(own, {VECTOR_COS: 0.8}, *places[0])
        assert again.tobytes() == handed[0].tobytes()
        assert len({v.tobytes() for v in handed}) == len(places)
        for vector in handed:
            assert float(vector.astype(np.float64) @ own.astype(np.float64)) == pytest.approx(0.8, abs=1e-6)


class TestMinting:
    """A whole mint with cones."""

    def test_samples_lie_at_their_cosine_and_probes_at_the_vector_itself(self) -> None:
        """What the generator is handed lies at the stored cosine of its sample; probes are made from the own vector."""
        recipe = sketches(**CONE)
        handed, store = heard_by_generator(recipe)
        assert all(set(asked) == {"yaw_deg"} for _, asked in handed)
        segments = Segments(DIMENSIONS)
        people = {i.ordinal: i.vector_D for i in segments.read_identities(store, "enrolled/g0.parquet")[0]}
        given = {vector.tobytes() for vector, _ in handed}
        assert {v.tobytes() for v in people.values()} <= given, "probes are made from the vector itself"
        seen: dict[tuple[int, int], set[float]] = {}
        for unit in [p for p in store.list("segments/") if re.search(r"make-.*\.parquet$", p)]:
            name = unit.removeprefix("segments/").removesuffix(".parquet")
            columns = segments.read_columns(store, name, ["identity", "slot", "conditions"])
            for identity, slot, raw in zip(columns["identity"], columns["slot"], columns["conditions"], strict=True):
                target = dict(raw)[VECTOR_COS]
                seen.setdefault((int(identity), int(slot)), set()).add(target)
                vector = slot_vector(people[int(identity)], {VECTOR_COS: target}, recipe.seed, int(identity), int(slot))
                cos = float(vector.astype(np.float64) @ people[int(identity)].astype(np.float64))
                assert abs(cos - target) < 1e-6
                assert vector.tobytes() in given
        assert all(len(targets) == 1 and 0.9 <= min(targets) <= 0.98 for targets in seen.values())
        assert len({t for targets in seen.values() for t in targets}) > 20

    def test_cones_do_not_depend_on_how_the_work_is_done(self) -> None:
        """The same bytes whatever is in flight, and others than without cones."""
        one, other = MemoryStore(), MemoryStore()
        mint(sketches(**CONE), one)
        mint(sketches(**CONE, compute={"executor": "inline", "in_flight": 1}), other)
        assert bytes_of(one) == bytes_of(other)

    def test_a_wide_cone_varies_more_than_none(self) -> None:
        """Images of an identity differ more from each other where their vectors do."""
        calm = {"generator": {"use": "sketch", "noise": 0.2}, "filters": [], "enrol": ENROL}
        spread = {}
        for cos in (1.0, 0.9):
            recipe = sketches(**calm, conditions={"yaw_deg": YAW, VECTOR_COS: {"use": "constant", "value": cos}})
            store = MemoryStore()
            mint(recipe, store)
            segments = Segments(DIMENSIONS)
            columns = segments.read_columns(store, "make-g0-000000", ["identity", "embedding"])
            emb, who = columns["embedding"], np.array(columns["identity"])
            spread[cos] = np.mean([(emb[who == n] @ emb[who == n].T).min() for n in np.unique(who)])
        assert spread[0.9] < spread[1.0] - 0.05


MISFITS: list[tuple[dict[str, Any], float, str]] = [
    ({"use": "uniform", "low": 0.86, "high": 0.95}, 0.5, r"below 0.8660 .*ask for 0.8660 or more, or .*_cos 0.4792"),
    ({"use": "constant", "value": 0.97}, 0.9, r"got down to 0.97, .*enrol.vector_separation_cos 0.9, so below 0.9747"),
    ({"use": "choice", "values": [0.99, -0.5]}, 0.5, r"got down to -0.5.*ask for 0.8660 or more$"),
    ({"use": "uniform", "low": 0.9, "high": 1.2}, 0.5, r"got up to 1.2; a cosine is at most 1"),
]


@pytest.mark.parametrize(("asked", "separation", "message"), MISFITS)
def test_cones_that_could_overlap_are_refused(asked: dict[str, Any], separation: float, message: str) -> None:
    """A cone wider than half the angle between identities is refused, naming the bound and the knob."""
    enrol = {**ENROL, "vector_separation_cos": separation}
    with pytest.raises(RecipeError, match=message):
        sketches(conditions={"yaw_deg": YAW, VECTOR_COS: asked}, enrol=enrol)


def test_cones_at_the_bound_are_allowed() -> None:
    """The bound itself is safe, and the knob that the refusal names makes room."""
    for value, separation in ((0.8661, 0.5), (0.86, 0.4792)):
        asked = {"use": "constant", "value": value}
        sketches(conditions={VECTOR_COS: asked}, filters=[], enrol={**ENROL, "vector_separation_cos": separation})


def from_file(folder: Path, rows: Float32, **identities: Any) -> dict[str, Any]:
    """Write vectors of the sketch world; return recipe keys that draw from them."""
    path = folder / "vectors.npy"
    np.save(path, rows)
    said = {"space": SketchBank().space.to_dict(), "licence": "CC0-1.0", "real_people": False}
    path.with_name("vectors.npy.json").write_text(json.dumps(said))
    asked = {**sketch_recipe()["identities"], "sampler": {"use": "files", "path": str(path)}, **identities}
    return {"identities": asked, "balance": {}}


class TestSamplersThatEnd:
    """Vectors from a file."""

    def test_every_identity_is_a_row_of_the_file(self, tmp_path: Path) -> None:
        """Candidates are rows in their order; no number beyond the last row is ever given."""
        rows = vectors(30)
        store = MemoryStore()
        mint(sketches(**from_file(tmp_path, rows)), store)
        people = Segments(DIMENSIONS).read_identities(store, "enrolled/g0.parquet")[0]
        assert len(people) >= 10
        for identity in people:
            np.testing.assert_allclose(identity.vector_D, rows[identity.candidate], atol=1e-7)

    def test_a_shortage_names_the_sampler(self, tmp_path: Path) -> None:
        """With twins among its rows a file runs out: exit 4, after every row and none beyond."""
        twins = np.concatenate([vectors(6)] * 4)
        store = MemoryStore()
        with pytest.raises(TargetNotReachedError, match=r"all 24 candidates that the sampler has.*give it more"):
            mint(sketches(**from_file(tmp_path, twins)), store)

    def test_growth_goes_on_where_the_file_was_left(self, tmp_path: Path) -> None:
        """A grown dataset takes further rows, and ends where the file ends."""
        rows, store = vectors(40), MemoryStore()
        mint(sketches(**from_file(tmp_path, rows, count=6)), store)
        mint(sketches(**from_file(tmp_path, rows, count=12)), store)
        segments = Segments(DIMENSIONS)
        first, second = (segments.read_identities(store, f"enrolled/g{g}.parquet")[0] for g in (0, 1))
        assert max(i.candidate for i in first) < min(i.candidate for i in second)
        assert max(i.candidate for i in second) < 40

    def test_a_trial_of_few_people_does_with_them(self, tmp_path: Path) -> None:
        """What a run costs can be estimated from a file of fewer people than a trial takes."""
        recipe = sketches(**from_file(tmp_path, vectors(3), count=2))
        parts = wiring.build_parts(recipe, MemoryStore(), None, "test")
        assert from_trial(parts).images > 0

    def test_more_people_than_rows_are_refused_at_once(self, tmp_path: Path) -> None:
        """A recipe that asks for more than there are is refused when it is read."""
        with pytest.raises(RecipeError, match=r"identities.count: got 10, but the files sampler has 9 candidates"):
            sketches(**from_file(tmp_path, vectors(9)))

    def test_the_file_is_fingerprinted_and_its_place_is_not(self, tmp_path: Path) -> None:
        """The same bytes elsewhere are the same dataset; other bytes at the same place are another."""
        prints = []
        for folder, rows in (("a", vectors(30)), ("b", vectors(30)), ("c", vectors(30, seed=4))):
            (tmp_path / folder).mkdir()
            prints.append(wiring.prints_of(sketches(**from_file(tmp_path / folder, rows))).fingerprint)
        assert prints[0] == prints[1] != prints[2]
