"""Licences of datasets: which names are taken, what they allow, and what contradicts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.adapters import sketch
from pipeline.domain.errors import RecipeError
from pipeline.domain.licences import _FREE, _NON_COMMERCIAL, licence_of
from tests.worlds import sketches


@pytest.mark.parametrize("name", [*_FREE, *_NON_COMMERCIAL])
def test_a_listed_licence_is_taken_in_any_case_and_keeps_its_name(name: str) -> None:
    """Its SPDX page is its address, and whether it allows commercial use stands in its name."""
    found = licence_of(f" {name.lower()} ")
    assert (found.name, found.url) == (name, f"https://spdx.org/licenses/{name}.html")
    assert found.commercial is not bool(re.search(r"-NC-|Noncommercial", name))
    assert set(found.hub) in ({"license"}, {"license", "license_name", "license_link"})


def test_an_address_is_taken_and_nothing_claimed_of_it() -> None:
    """Nobody here has read its terms."""
    found = licence_of("https://example.org/terms.txt")
    assert (found.url, found.commercial) == ("https://example.org/terms.txt", None)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("CC-BY-4", r"got 'CC-BY-4'; did you mean CC-BY-4.0 or "),
        ("cc by nc 4.0", r"did you mean CC-BY-NC-4.0"),
        ("free for all", r"give an SPDX name such as CC-BY-4.0 or CC-BY-NC-4.0, or the address of its text"),
        ("ftp://x", r"give an SPDX name"),
    ],
)
def test_any_other_name_is_refused_with_what_is_near(stated: str, said: str) -> None:
    """In the recipe's own line."""
    with pytest.raises(RecipeError, match=rf"use.licence: .*{said}") as caught:
        sketches(use={"licence": stated})
    assert "\n" not in str(caught.value)


def test_a_licence_that_contradicts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commercial under a non-commercial licence, and a licence that gives away what a model's does not allow."""
    with pytest.raises(RecipeError, match=r"commercial is true, but licence CC-BY-NC-4.0 forbids commercial use"):
        sketches(use={"commercial": True, "licence": "CC-BY-NC-4.0"})
    assert sketches(use={"commercial": True, "licence": "CC-BY-4.0"}).use.licence == "CC-BY-4.0"
    card = replace(sketch.SketchMeasures().card, commercial_use=False, licence="CC BY-NC 4.0")
    others = sketch._card
    monkeypatch.setattr(sketch, "_card", lambda name: card if name == "measures" else others(name))
    with pytest.raises(
        RecipeError, match=r"use.licence CC-BY-4.0 allows commercial use, but sketch-measures is licensed"
    ):
        sketches(use={"licence": "CC-BY-4.0"})
    for allowed in ("CC-BY-NC-4.0", "https://example.org/terms", None):
        assert sketches(use={"licence": allowed}).use.licence == allowed
