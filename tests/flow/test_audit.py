"""The audit's figures over many images, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.domain.records import unit_rows
from pipeline.flow.audit import _nearest_other, audit_unit, similarity_figures
from tests.worlds import mint, sketches


def test_genuine_pairs_are_not_lost_among_many_images() -> None:
    """With more images than are compared exhaustively, every identity still gives all of its genuine pairs."""
    judge = wiring.build_parts(sketches(), MemoryStore(), None, "test").judge
    people, images = 2100, 3
    rng = np.random.default_rng(0)
    centre = np.repeat(rng.standard_normal((people, 16)), images, axis=0)
    emb = unit_rows(centre + 0.1 * rng.standard_normal(centre.shape), "test")
    figures = similarity_figures(emb, np.repeat(np.arange(people), images), judge.calibration)
    assert figures["n_genuine"] == people * 3
    assert figures["genuine_mean_cos"] > 0.95 > figures["impostor_mean_cos"] + 0.9
    shuffled = rng.permutation(len(emb))
    again = similarity_figures(emb[shuffled], np.repeat(np.arange(people), images)[shuffled], judge.calibration)
    assert again["n_genuine"] == people * 3
    assert again["genuine_mean_cos"] == pytest.approx(figures["genuine_mean_cos"], abs=1e-6)


def test_the_nearest_other_template_does_not_depend_on_the_block() -> None:
    """Blocks save memory, nothing else, and nobody is their own neighbour."""
    templates = unit_rows(np.random.default_rng(1).standard_normal((25, 16)), "test")
    whole = templates @ templates.T
    np.fill_diagonal(whole, -1)
    for block in (1, 7, 25, 100):
        np.testing.assert_allclose(_nearest_other(templates, block), whole.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("stage", ["enrol", "make"])
def test_nothing_is_published_over_an_altered_segment_of_either_stage(stage: str) -> None:
    """Segments of enrolment stand in the manifest like those of images, and are hashed again like them."""
    recipe = sketches()
    store = MemoryStore()
    mint(recipe, store)
    name = store.list(f"segments/{stage}")[0]
    store.put(name, store.get(name)[:-1] + b"?")
    parts = wiring.build_parts(recipe, store, None, "test")
    with pytest.raises(StoreError, match="its bytes are not those of its receipt"):
        audit_unit(name.split("/")[1].split(".")[0], parts)


def test_every_segment_that_a_manifest_names_was_audited() -> None:
    """Units of both stages go to the audit, also those in which nobody was filled."""
    from tests.worlds import Silent

    seen, store = Silent(), MemoryStore()
    mint(sketches(), store, seen)
    audited = {facts["unit"] for kind, facts in seen.seen if kind == "audited"}
    assert audited == {p.split("/")[1].removesuffix(".json") for p in store.list("receipts/")}
