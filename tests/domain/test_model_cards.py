"""Cards of published models: found by digest or by repository and file."""

from __future__ import annotations

import re

import pytest

from pipeline.domain.errors import ModelError
from pipeline.domain.model_cards import PUBLISHED, card_of, published
from pipeline.domain.weights import WeightsRef

COMMIT = "abcd" * 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_card_is_found_again(name: str) -> None:
    """By the address of its file at any commit, or by its digest wherever the file lies."""
    card = published(name)
    if card.address:
        assert card_of(WeightsRef(uri=card.address.replace("COMMIT", COMMIT))) == card
    if card.sha256:
        assert card_of(WeightsRef(uri="/somewhere/else.bin", sha256=card.sha256)) == card
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert card.to_dict()["address"] == card.address


def test_two_cards_never_answer_for_one_file() -> None:
    """Addresses and digests are each card's own."""
    for key in ("address", "sha256"):
        told = [getattr(card, key) for card in PUBLISHED.values() if getattr(card, key)]
        assert len(told) == len(set(told)), key


@pytest.mark.parametrize(
    "uri", ["weights.pth", "formula:vec2face", "s3://mirror/BooBooWu/Vec2Face", f"hf://some/body@{COMMIT}/weights.pth"]
)
def test_what_is_not_known_has_no_card(uri: str) -> None:
    """A path, a formula and somebody's copy say nothing of whose weights they are."""
    assert card_of(WeightsRef(uri=uri)) is None


def test_a_repository_without_a_known_file_answers_for_all_of_it() -> None:
    """Where the file's name was not seen, the repository's licence holds for whatever lies in it."""
    found = card_of(WeightsRef(uri=f"hf://h94/IP-Adapter-FaceID@{COMMIT}/any/file.bin"))
    assert found is not None
    assert (found.name, found.commercial) == ("ip-adapter-faceid", False)
    assert card_of(WeightsRef(uri=f"hf://FoivosPar/Arc2Face@{COMMIT}/README.md")) is None


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The message is what to choose from."""
    with pytest.raises(ModelError, match="nobody: no such model is known; known: vec2face, "):
        published("nobody")
