"""The dataset card: every number of the manifest, nothing that would break a table, no holes."""

from __future__ import annotations

import copy
from typing import Any

import jinja2
import pytest
import yaml

from pipeline.adapters.card import dataset_card
from pipeline.adapters.stores import MemoryStore
from tests.recipes import all_on_recipe
from tests.worlds import mint, sketches

HALF = {"share": 0.5, "share_95": [0.472, 0.528]}
MODEL = {"licence": "Apache-2.0", "commercial_use": True, "source": "trained for this project"}


@pytest.fixture
def facts() -> dict[str, Any]:
    """Return manifest fields of a small dataset of phantoms."""
    return {
        "version": "v000002",
        "parent": "v000001",
        "generation": 1,
        "name": "tiny",
        "digest": "d1" * 32,
        "fingerprint": "f1" * 32,
        "counts": {
            "identities": 1234,
            "identities_expected": 1235,
            "identities_new": 234,
            "identities_short": {"7": 1, "9": 2},
            "images": 61700,
            "images_expected": 61750,
            "make": {"candidates": 80001, "off_target": 17, "reasons": {"blur_too_high": 11}},
        },
        "figures": {
            "balance_fields": ["apparent_age_group", "est_skin_tone_mst"],
            "balance": [
                {"cell": "older/light", "asked": 617, "reached": 617, **HALF, "adjusted_share": 0.4712},
                {"cell": "older/dark", "asked": 617, "reached": 616, **HALF, "adjusted_share": None},
            ],
            "thresholds": {"own-template": {"name": "own-template", "epoch": 1, "threshold_cos": 0.56789}},
            "leakage": "not screened: no gallery was given",
            "judge": {"separation_cos": 0.41234567, "separation_fmr": 1e-3},
            "auditor": {"eer": 0.0312},
        },
        "models": {
            "generator": MODEL | {"name": "phantom-flow", "sha256": "a1" * 32},
            "judge": MODEL | {"name": "phantom-judge", "sha256": "b2" * 32, "commercial_use": False},
        },
        "spaces": {"judge": {"name": "phantom-judge", "alignment": "inner-112", "norm": "unit", "dimensions": 128}},
        "calibrations": {
            "judge": {
                "source": "labelled renders",
                "n_impostor": 402300,
                "eer": 0.029,
                "lowest_fmr": 1e-4,
                "largest_gallery": None,
            }
        },
        "use": {"purpose": "research on filters", "commercial": False},
        "licence": "not stated",
        "last_label": 1233,
        "index": {"name": "index-abcd.parquet", "bytes": 2_500_000},
    }


def test_every_number_of_the_manifest_is_in_the_card(facts: dict[str, Any]) -> None:
    """Counts, digests, licences, shares and similarity figures all appear."""
    card = dataset_card(facts)
    for text in (
        "# tiny v000002", "61,700 images of 1,234 synthetic identities", "d1" * 32, "labels 0 to 1233",
        "| make.candidates | 80,001 |", "| make.reasons.blur_too_high | 11 |", "research on filters",
        "1,234 of 1,235 identities, 61,700 of 61,750 images", "`off_target`: 17 images", "| identities_short | 2 |",
        f"| generator | phantom-flow |  | Apache-2.0 | yes | `{'a1' * 32}` |",
        f"| phantom-judge: 128 numbers, unit, aligned inner-112 | Apache-2.0 | no | `{'b2' * 32}` |",
        "| judge | labelled renders | 402,300 | 0.029 | 0.0001 | not measured |",
        "| own-template | threshold_cos 0.5679 |", "(leakage): not screened: no gallery was given.",
        "Licence: not stated.", "`index-abcd.parquet`",
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


def test_growth_is_told(facts: dict[str, Any]) -> None:
    """A version says what it follows and how many identities are new; the first follows nothing."""
    assert "| v000002 | v000001 | 1 | 234 | `f1f1f1f1f1f1f1f1` |" in dataset_card(facts)
    facts |= {"version": "v000001", "parent": None, "generation": 0}
    assert "| v000001 | nothing: the first | 0 | 234 |" in dataset_card(facts)


def test_labels_with_gaps_are_told(facts: dict[str, Any]) -> None:
    """Where somebody left, the highest label stands in the card, and how many labels nobody has; else not."""
    assert "Nobody has" not in dataset_card(facts)
    card = dataset_card(facts | {"last_label": 1236})
    assert "labels 0 to 1236" in card
    assert "Nobody has 3 of these labels any more" in card


def test_a_merged_version_names_what_it_was_merged_from(facts: dict[str, Any]) -> None:
    """Sources stand in the card with version, digest and counts; no other card speaks of merging."""
    assert "merged" not in dataset_card(facts)
    source = {"name": "others", "version": "v000007", "digest": "e5" * 32, "identities": 10, "images": 3000}
    card = dataset_card(facts | {"counts": {**facts["counts"], "merged": [source]}})
    assert f"| others v000007 | `{'e5' * 32}` | 10 | 3,000 |" in card
    assert "copied from the datasets below" in card


def test_every_section_of_a_datasheet_is_there(facts: dict[str, Any]) -> None:
    """The seven sections of Gebru et al. stand in their order, in any case."""
    facts["figures"] = {}
    headings = [line[3:] for line in dataset_card(facts).splitlines() if line.startswith("## ")]
    assert headings == [
        "Motivation", "Composition", "Collection process", "Preprocessing, cleaning, labelling", "Uses", "Distribution",
        "Maintenance",
    ]  # fmt: skip


def test_what_was_not_measured_is_said(facts: dict[str, Any]) -> None:
    """Without figures the card says that there are none, and nothing of them."""
    facts["figures"] = {}
    card = dataset_card(facts)
    assert "(leakage): not measured." in card
    assert "Similarity within and between identities: not measured." in card
    assert "| filter |" not in card


def test_screening_of_many_galleries_is_among_the_figures(facts: dict[str, Any]) -> None:
    """Where leakage is more than a sentence, the sentence points to it."""
    facts["figures"]["leakage"] = {"gallery": {"matches": 3}}
    card = dataset_card(facts)
    assert "(leakage): among the figures below." in card
    assert "| leakage.gallery.matches | 3 |" in card


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


@pytest.mark.parametrize(
    "missing",
    ["version", "parent", "name", "digest", "counts", "use", "spaces", "calibrations", "licence", "index"],
)
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


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("PolyForm-Noncommercial-1.0.0", {"license": "other", "license_name": "polyform-noncommercial-1.0.0"}),
        ("https://example.org/terms", {"license": "other", "license_link": "https://example.org/terms"}),
        (None, {"license": "unknown"}),
    ],
)
def test_the_hub_is_told_the_licence_by_its_own_name(
    facts: dict[str, Any], stated: str | None, expected: dict[str, str]
) -> None:
    """One that the hub has no name for is `other`, with its name and where its text stands."""
    facts["use"]["licence"] = stated
    front = yaml.safe_load(dataset_card(facts).split("---\n")[1])
    told = {name: value for name, value in front.items() if name.startswith("license")}
    assert expected.items() <= told.items()
    assert (told["license"] == "other") == ("license_name" in told) == ("license_link" in told)


def test_every_model_of_a_run_is_told_with_digest_licence_space_and_calibration() -> None:
    """In a run that uses everything; who has a space has it in the row, and recognisers a row of calibration."""
    store = MemoryStore()
    manifest = mint(sketches(**all_on_recipe(count=4, images=2)), store).manifest
    rows = [line for line in store.get("versions/v000001/README.md").decode().splitlines() if line.startswith("| ")]
    for role, card in manifest.models.items():
        (row,) = (r for r in rows if r.startswith(f"| {role} | {card['name']} "))
        assert card["sha256"] in row
        assert f"| {card['licence']} |" in row
        if role in ("bank", "generator", "judge", "auditor", "leakage.screening"):
            assert "16 numbers, unit, aligned sketch-32" in row
    for role in ("judge", "auditor", "leakage.screening"):
        (row,) = (r for r in rows if r.startswith(f"| {role} | sketches | "))
        assert row.count("not measured") <= 1
