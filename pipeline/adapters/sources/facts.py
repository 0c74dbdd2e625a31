"""What a source says beside its images: labels and facts, as text that can always be written."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

LARGEST_NOTE_bytes = 1_000_000
"""A caption or JSON object that is larger is not read as such."""


def label_of(name: str) -> str:
    """Return a name as a label: composed (NFC), so that one person whose name is written in two ways stays one."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def columns_of(text: str) -> dict[str, str]:
    """Return what a JSON object says, as text by name; nothing where it is no object, or one too deep to be facts."""
    try:
        found = json.loads(text)
        return {_text(k): _text(v) for k, v in found.items() if v is not None} if isinstance(found, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _text(value: Any) -> str:
    """Return a value as text that can be written: JSON may name half a character (a lone surrogate)."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", "replace").decode("utf-8")
