"""The audit's figures over many images, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import StoreError
from pipeline.domain.records import unit_rows
from pipeline.flow.audit import _nearest_other, audit_unit, plan_audit, similarity_figures
from pipeline.flow.commit import receipts
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
    unit = next(u for u in plan_audit(receipts(store), parts.auditor.card) if u.of == name.split("/")[1].split(".")[0])
    with pytest.raises(StoreError, match="its bytes are not those of its receipt"):
        audit_unit(unit, parts)


def test_every_segment_that_a_manifest_names_was_audited() -> None:
    """Units of both stages have a receipt of their audit, also those in which nobody was filled."""
    store = MemoryStore()
    mint(sketches(), store)
    audited = {r.unit["of"] for r in receipts(store, "audit-").values()}
    assert audited == {n for n in receipts(store) if n.startswith(("enrol-", "make-"))}


def test_an_audit_is_not_repeated_unless_its_reader_changed() -> None:
    """The same auditor's receipts are equal; another one plans every unit anew under the same name."""
    parts = wiring.build_parts(sketches(), store := MemoryStore(), None, "test")
    mint(sketches(), store)
    known = receipts(store)
    planned = plan_audit(known, parts.auditor.card)
    assert all(known[u.name].unit == u.to_dict() for u in planned)
    other = plan_audit(known, replace(parts.auditor.card, epoch=parts.auditor.card.epoch + 1))
    assert [u.name for u in other] == [u.name for u in planned]
    assert all(known[u.name].unit != u.to_dict() for u in other)
