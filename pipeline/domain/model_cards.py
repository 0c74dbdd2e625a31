"""What is known of published weights before they are here: whose they are, what they may be used for, what they expect.

A card states facts about a publication; `ports.ModelCard` states what a part that runs says of itself, and takes its
licence from here. A digest or size that nobody here has seen is None, and says so wherever cards are shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.domain.errors import ModelError
from pipeline.domain.known_models import ROWS
from pipeline.domain.weights import WeightsRef

Form = Literal["safetensors", "torch", "onnx", "tensorflow", "pack"]
_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@[^/]+)?/(.+)")


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A card.

    Attributes:
        name: what it is called here.
        what: what it is, in a few words.
        repository: `owner/name` on the hub; empty where it is published elsewhere.
        file: its path there; empty where that was not seen.
        source: where it is published, for people.
        licence: of the weights, and what weighs on them: whose photographs they were trained on.
        commercial: whether that allows commercial use; False where nobody here knows that it does.
        form: how its file is made; `torch` is a pickle and read only where it holds tensors alone.
        sha256: of the published file; None where it was not seen.
        size_bytes: of the published file; None where it was not seen.
        space: recogniser and norm of the vectors that it takes or gives; empty where it has to do with none.
        preprocessing: what it expects.
        settings: what its authors recommend.
    """

    name: str
    what: str
    source: str
    licence: str
    commercial: bool
    form: Form
    repository: str = ""
    file: str = ""
    sha256: str | None = None
    size_bytes: int | None = None
    space: str = ""
    preprocessing: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Return where to fetch it, with the place of the commit left open; empty where no file is known."""
        return f"hf://{self.repository}@COMMIT/{self.file}" if self.repository and self.file else ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {**asdict(self), "address": self.address}


PUBLISHED: Mapping[str, PublishedModel] = {row["name"]: PublishedModel(**row) for row in ROWS}
"""Name -> card, of everything that is known here."""


def published(name: str) -> PublishedModel:
    """Return a card by its name; raises ModelError where there is none."""
    if name not in PUBLISHED:
        raise ModelError(f"{name}: no such model is known; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def card_of(ref: WeightsRef) -> PublishedModel | None:
    """Return the card of what a reference names: by its digest, or by repository and file, whatever the commit."""
    if ref.sha256 is not None:
        for card in PUBLISHED.values():
            if card.sha256 == ref.sha256:
                return card
    found = _HUB.fullmatch(ref.uri)
    if found is None:
        return None
    here = [card for card in PUBLISHED.values() if card.repository == found[1]]
    return next((card for card in here if card.file == found[2]), next((card for card in here if not card.file), None))


__all__ = ["PUBLISHED", "Form", "PublishedModel", "card_of", "published"]
