"""One page from a report's facts: everything inline, nothing fetched, equal facts give equal bytes."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.adapters.report import sections
from pipeline.adapters.report.funnel import funnel_view
from pipeline.adapters.report.galleries import MOST_BUTTONS, Panel, PICTURES_bytes, panels
from pipeline.adapters.report.inputs import inputs_view
from pipeline.adapters.report.words import FILTERS
from pipeline.domain.report import ReportFacts

CONTENTS = (
    ("pictures", "Pictures"), ("inputs", "Inputs"), ("funnel", "Made and refused"), ("similarity", "Same or different"),
    ("errors", "Errors"), ("distinctness", "Distinct people"), ("variation", "Variation"),
    ("measures", "Quality and pose"), ("balance", "Balance"), ("leakage", "Real people"),
    ("galleries", "Galleries"), ("throughput", "Speed"), ("provenance", "Provenance"),
    ("limits", "Limits"), ("words", "Words"),
)  # fmt: skip
"""(anchor, title in the navigation) of every section, in the order of the page."""
FIRST_GALLERY = "random"
LATER_GALLERIES = ("worst-accepted", "refused", "most-similar")
"""In this order; galleries that are not named here follow as they come."""


def render(facts: ReportFacts) -> bytes:
    """Return the report as one HTML page, UTF-8.

    The page names no other file and forbids its own program every connection. It weighs at most PICTURES_bytes of
    pictures, one third more as base64, and a few hundred kilobytes of tables.

    Args:
        facts: what is known. Mappings are shown in sorted order, but for the recipe, which keeps its own.

    Raises:
        jinja2.UndefinedError: a figure is missing that its section needs; a page with holes is not written.
    """
    galleries = panels(facts.galleries)
    pictures = galleries.pop(FIRST_GALLERY, None)
    inputs = inputs_view(facts.manifest["counts"])
    shown = {
        "inputs": inputs,
        "facts": facts,
        "head": sections.headline(facts),
        "contents": [entry for entry in CONTENTS if entry[0] != "inputs" or inputs is not None],
        "pictures": pictures,
        "funnel": funnel_view(facts.funnel),
        "similarity": sections.similarity(facts),
        "errors": sections.errors(facts),
        "distinctness": sections.distinctness(facts),
        "variation": sections.variation(facts),
        "measures": sections.measures(facts),
        "balance": sections.balance(facts),
        "leakage": sections.leakage(facts),
        "galleries": _ordered(galleries),
        "thresholds": sections.thresholds(facts),
        "recipe": _yaml(facts.recipe),
        "pictures_mb": PICTURES_bytes / 1e6,
    }
    page: str = _environment().get_template("page.html.j2").render(shown)
    return page.encode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.adapters.report"),
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals["most_buttons"] = MOST_BUTTONS
    for name, file in (("css", "page.css"), ("script", "page.js")):
        text = _text(file)
        environment.globals |= {name: Markup(text), f"{name}_hash": _hash(text)}  # noqa: S704
    return environment


def _ordered(galleries: Mapping[str, Panel]) -> list[Panel]:
    known = [galleries[name] for name in LATER_GALLERIES if name in galleries]
    return known + [panel for name, panel in galleries.items() if name not in LATER_GALLERIES]


def _text(file: str) -> str:
    return (files("pipeline.adapters.report") / "templates" / file).read_text("utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy knows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _yaml(recipe: Any) -> str:
    import yaml

    return str(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
