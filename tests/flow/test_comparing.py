"""How a run compares vectors: samples with every template, templates with each other, and who is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.cosines import NumpyProduct, exact_cos
from pipeline.domain.errors import BadVectorError
from pipeline.domain.records import Cell, Float32, Identity, unit_rows
from pipeline.execute.run import generate
from pipeline.flow.judge import NEAREST, NEAREST_ORDINAL, OWN, Templates
from tests.worlds import Silent, bytes_of, mint, sketches


def enrolled(templates_NE: Float32) -> list[Identity]:
    """Return identities with these templates and ordinals 10, 20, 30..."""
    return [
        Identity(10 * (n + 1), n, Cell(()), n, row, row, 1, 1.0) for n, row in enumerate(templates_NE)
    ]  # fmt: skip


def test_identity_measures_are_the_exact_cosines() -> None:
    """Own and nearest other cosine follow the definition, image by image, whatever shares the batch."""
    rows = unit_rows(np.random.default_rng(1).standard_normal((60, 32)), "rows")
    templates, emb = rows[:40], rows[40:]
    owners = [10 * (n + 1) for n in range(20)]
    known = Templates(enrolled(templates))
    together = known.identity_measures(emb, owners)

    for n, numbers in enumerate(together):
        cos = {m: exact_cos(emb[n], templates[m]) for m in range(40)}
        own = cos.pop(n)
        nearest = max(cos, key=lambda m: cos[m])
        expected = {OWN: own, NEAREST: float(np.float32(cos[nearest])), NEAREST_ORDINAL: 10.0 * (nearest + 1)}
        assert numbers == expected
        assert known.identity_measures(emb[n : n + 1], owners[n : n + 1]) == [expected]


def test_a_template_that_is_no_embedding_is_refused_at_once() -> None:
    """A NaN template would let every image pass as nobody's neighbour: it is an error before any comparison."""
    rows = np.eye(3, dtype=np.float32)
    rows[1] = np.nan

    with pytest.raises(BadVectorError, match="templates: row 1 has length nan"):
        Templates(enrolled(rows))


def test_the_observer_is_told_how_far_separation_is() -> None:
    """A run says how many pairs are compared, in every pass up to all of them."""
    observer = Silent()
    mint(sketches(), observer=observer)
    told = [(facts["done"], facts["total"]) for kind, facts in observer.seen if kind == "separating"]

    assert told
    assert all(done == total for done, total in told)


def test_what_compares_changes_no_byte() -> None:
    """A run on this machine's fastest product and one on numpy's write the same dataset."""
    fast, plain = MemoryStore(), MemoryStore()
    mint(sketches(), fast)
    session = wiring.session_on(sketches(), plain, Silent())
    generate(replace(session, parts=replace(session.parts, product=NumpyProduct)))

    assert bytes_of(fast) == bytes_of(plain)
