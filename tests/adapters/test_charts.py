"""Charts: every cell has its bar, every reason its part, and equal figures give equal bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pipeline.adapters.charts import OTHERS, REFUSED, _parts, funnel_chart

FUNNEL = {
    "feminine/dark": {"candidates": 30, "accepted": 20, "published": 18, "reasons": {"too_blurred": 9, "too_dark": 1}},
    "masculine/light": {"candidates": 10, "accepted": 10, "published": 10, "reasons": {}},
}


def test_the_chart_is_an_svg_whose_bytes_repeat() -> None:
    """Equal figures give equal bytes, and they are one well-formed drawing without outside references."""
    one, again = funnel_chart("demo", FUNNEL), funnel_chart("demo", FUNNEL)

    assert one == again
    assert ET.fromstring(one).tag.endswith("svg")  # noqa: S314 - our own bytes
    assert b"<image" not in one


def test_the_parts_of_a_bar_add_up_to_its_candidates() -> None:
    """Published, accepted and refused together are what was made, cell by cell."""
    parts = _parts(FUNNEL)

    for place, facts in enumerate(FUNNEL.values()):
        assert sum(widths[place] for *_, widths in parts) == facts["candidates"]


def test_many_reasons_are_gathered_into_one() -> None:
    """Beyond the colours that can be told apart, the rarest reasons share a part, and nothing is lost."""
    reasons = {f"reason_{n}": n + 1 for n in range(len(REFUSED) + 3)}
    funnel = {"all": {"candidates": sum(reasons.values()), "accepted": 0, "published": 0, "reasons": reasons}}
    parts = {label: widths for label, _, _, widths in _parts(funnel)}

    assert parts[OTHERS] == [1 + 2 + 3]
    assert sum(w[0] for w in parts.values()) == funnel["all"]["candidates"]


def test_a_funnel_of_nothing_is_drawn() -> None:
    """A dataset without a single image still has its chart."""
    assert funnel_chart("empty", {}).startswith(b"<?xml")
