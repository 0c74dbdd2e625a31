"""The dataset card: every number of the manifest, nothing that would break a table, no holes."""

from __future__ import annotations

import copy
from typing import Any

import jinja2
import pytest
import yaml

from pipeline.adapters.card import dataset_card

HALF = {"share": 0.5, "share_95": [0.472, 0.528]}
MODEL = {"licence": "Apache-2.0", "commercial_use": True, "source": "trained for this project"}


@pytest.fixture
def facts() -> dict[str, Any]:
    """Return manifest fields of a small dataset of phantoms."""
    return {
        "version": "v000002",
        "name": "tiny",
        "digest": "d1" * 32,
        "counts": {"identities": 1234, "images": 61700, "candidates": 80001, "reasons": {"blur_too_high": 11}},
        "figures": {
            "balance_fields": ["apparent_age_group", "est_skin_tone_mst"],
            "balance": [
                {"cell": "older/light", "asked": 617, "reached": 617, **HALF, "adjusted_share": 0.4712},
                {"cell": "older/dark", "asked": 617, "reached": 616, **HALF, "adjusted_share": None},
            ],
            "judge": {"separation_cos": 0.41234567, "separation_fmr": 1e-3},
            "auditor": {"eer": 0.0312},
        },
        "models": {
            "generator": MODEL | {"name": "phantom-flow", "sha256": "a1" * 32},
            "judge": MODEL | {"name": "phantom-judge", "sha256": "b2" * 32, "commercial_use": False},
        },
        "use": {"purpose": "research on filters", "commercial": False},
    }


def test_every_number_of_the_manifest_is_in_the_card(facts: dict[str, Any]) -> None:
    """Counts, digests, licences, shares and similarity figures all appear."""
    card = dataset_card(facts)
    for text in (
        "# tiny v000002", "61,700 images of 1,234 synthetic identities", "d1" * 32, "labels 0 to 1233",
        "| candidates | 80,001 |", "| reasons.blur_too_high | 11 |", "research on filters",
        f"| generator | phantom-flow | Apache-2.0 | yes | `{'a1' * 32}` |",
        f"| judge | phantom-judge | Apache-2.0 | no | `{'b2' * 32}` |",
        "Sources: trained for this project.", "attributes: apparent_age_group, est_skin_tone_mst.",
        "| older/light | 617 | 617 | 50.0 % | 47.2 % to 52.8 % | 47.1 % |",
        "| older/dark | 617 | 616 | 50.0 % | 47.2 % to 52.8 % | not measured |",
        "| judge.separation_cos | 0.4123 |", "| judge.separation_fmr | 0.001 |", "| auditor.eer | 0.0312 |",
    ):  # fmt: skip
        assert text in card


def test_tables_are_tables(facts: dict[str, Any]) -> None:
    """Every table row has as many cells as its head, and no blank line splits a table."""
    lines = dataset_card(facts).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|---"):
            width, row = line.count("|"), number + 1
            assert lines[number - 1].count("|") == width
            assert lines[row].startswith("|")
            while lines[row].startswith("|"):
                assert lines[row].count("|") == width
                row += 1
            assert lines[row] == ""


def test_front_matter_is_yaml(facts: dict[str, Any]) -> None:
    """The hub finds name and size between the two marks."""
    card = dataset_card(facts)
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pretty_name"] == "tiny v000002"
    assert front["size_categories"] == ["10K<n<100K"]


@pytest.mark.parametrize(("images", "category"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "n>1B")])
def test_size_category_bounds(facts: dict[str, Any], images: int, category: str) -> None:
    """The hub's size categories begin at their lower bound."""
    facts["counts"]["images"] = images
    assert yaml.safe_load(dataset_card(facts).split("---\n")[1])["size_categories"] == [category]


def test_phantoms_are_called_test_objects(facts: dict[str, Any]) -> None:
    """Phantoms are said not to be people; a generator of human faces gets the other warning."""
    warning = "Phantoms are test objects, not people"
    assert warning in dataset_card(facts)
    facts["models"]["generator"]["name"] = "arc2face"
    other = dataset_card(facts)
    assert warning not in other
    assert "hantom" not in other.replace("phantom-judge", "")
    assert "A generator trained on real faces can reproduce them" in other


def test_attributes_are_called_estimates(facts: dict[str, Any]) -> None:
    """The card says what attributes are, balanced or not."""
    assert "estimates of appearance" in dataset_card(facts)
    facts["figures"]["balance"] = [{"cell": "all", "asked": 9, "reached": 9, **HALF, "adjusted_share": None}]
    facts["figures"]["balance_fields"] = []
    card = dataset_card(facts)
    assert "estimates of appearance" in card
    assert "No balance over perceived attributes was asked for." in card


@pytest.mark.parametrize("missing", ["version", "name", "digest", "counts", "use"])
def test_a_missing_field_is_an_error(facts: dict[str, Any], missing: str) -> None:
    """A card with a hole is not written."""
    del facts[missing]
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        dataset_card(facts)


@pytest.mark.parametrize("path", [("counts", "images"), ("use", "purpose"), ("models", "judge", "licence")])
def test_a_missing_inner_field_is_an_error(facts: dict[str, Any], path: tuple[str, ...]) -> None:
    """A hole further in is not written either."""
    inner = facts
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        dataset_card(facts)


def test_names_cannot_break_out(facts: dict[str, Any]) -> None:
    """A licence with a bar, a purpose with a line break and template marks stay text."""
    facts["models"]["judge"]["licence"] = "A | B"
    facts["use"]["purpose"] = "line one\n# line two {{ digest }} <script>"
    card = dataset_card(facts)
    assert "A \\| B" in card
    assert "line one # line two {{ digest }} \\<script\\>" in card


def test_equal_facts_give_equal_text(facts: dict[str, Any]) -> None:
    """The card holds no time, and reading the facts does not change them."""
    before = copy.deepcopy(facts)
    assert dataset_card(facts) == dataset_card(facts)
    assert facts == before
