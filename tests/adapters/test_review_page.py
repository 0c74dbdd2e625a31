"""The review page in a real browser: nothing is fetched, all is read on a laptop, a phone, by day and by night."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.adapters.review_page import review_page
from pipeline.domain.review import Line
from tests.adapters.test_report_browser import (  # noqa: F401
    CONTRAST,
    LAPTOP,
    PHONE,
    READABLE,
    browser,
    opened,
)

FACE = Line("face", "480.0", "", "ab" * 32, "crawl\nA_Person", "kept", 0.447, 0.4)
PAIR = Line("pair", "3.1", "14.0", "cd" * 32, "crawl\nOne and crawl\nOther", "apart", 0.66, 0.7)


@dataclass(frozen=True)
class Item:
    """A line with its pictures."""

    line: Line
    left: tuple[bytes, ...]
    right: tuple[bytes, ...]
    names: tuple[str, ...]


def jpeg(shade: int) -> bytes:
    """Return a grey picture."""
    out = io.BytesIO()
    Image.new("RGB", (112, 112), (shade, shade, shade)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a page with a line of each kind, and one in each state."""
    faces = [replace(FACE, now=now, id=f"{n}.0") for n, now in enumerate(("kept", "refused"))]
    faces.append(replace(FACE, id="9.0", decision="refuse", value=float("nan"), label="x" * 90))
    pairs = [replace(PAIR, now=now, id=f"{n}.1") for n, now in enumerate(("apart", "merged", "dropped"))]
    three = (jpeg(90), jpeg(150), jpeg(210))
    items = [Item(one, (jpeg(30),), three, ("A_Person",)) for one in faces]
    items += [Item(one, three, (), ("One", "O" * 90)) for one in pairs]
    path = tmp_path / "g0.html"
    path.write_bytes(review_page("people", items, "private/review/g0.csv"))
    return path


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_read_everywhere(opened: Callable[..., Any], page: Path, size: Any, scheme: str) -> None:  # noqa: F811
    """All text has contrast, nothing runs out of the page, and every picture is drawn."""
    seen = opened(page, viewport=size, color_scheme=scheme)
    contrasts = seen.evaluate(CONTRAST)
    assert {kind: ratio for kind, ratio in contrasts.items() if ratio < READABLE} == {}
    assert seen.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert seen.evaluate("[...document.images].every((i) => i.naturalWidth === 112)")


def test_the_face_in_question_stands_out(opened: Callable[..., Any], page: Path) -> None:  # noqa: F811
    """It alone is framed, it is larger than those beside it, and it says so."""
    seen = opened(page)
    for section in seen.query_selector_all("section")[:3]:
        widths = [one.bounding_box()["width"] for one in section.query_selector_all("img")]
        assert widths[0] > max(widths[1:])
        assert len(section.query_selector_all(".asked img")) == 1
        assert section.query_selector(".asked figcaption").inner_text() == "this face"
    assert seen.query_selector("section h2").inner_text() == "Is this A_Person?"
    assert not seen.query_selector_all("section[id^=pair] .asked")


def test_each_state_says_which_word_decides_otherwise(page: Path) -> None:
    """What is written where one disagrees stands beside each line, and what somebody decided instead of it."""
    text = page.read_text()
    for word in ("refuse", "keep", "same", "apart"):
        assert f"write <code>{word}</code>" in text
    assert "<code>apart</code> keeps both" in text
    assert "decided: <code>refuse</code>" in text
    assert "nan" not in text


def test_an_empty_queue_says_so() -> None:
    """Where nothing lies near a threshold nobody is asked for a table."""
    page = review_page("people", [], "private/review/g0.csv").decode()
    assert "there is nothing to decide" in page
    assert "--decisions" not in page
