"""The report's page: equal facts give equal bytes, text stays text, nothing is fetched, and it stays light."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters.report import plots, render, words
from pipeline.adapters.report.funnel import funnel_view
from pipeline.adapters.report.galleries import panels
from pipeline.domain.report import Funnel, Gallery, Picture, ReportFacts
from tests.report_facts import CELLS, report_facts

SECTIONS = (
    "pictures", "funnel", "similarity", "errors", "distinctness", "variation", "measures", "balance", "leakage",
    "galleries", "throughput", "provenance", "limits", "words",
)  # fmt: skip
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}&lt;"
LIGHT_bytes = 8_000_000


class Outline(HTMLParser):
    """What a browser would make of a page: its elements with the names of their attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        """Parse a page."""
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.inline: dict[str, str] = {}
        self.text = ""
        self._within = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self._within = tag
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if self._within in ("style", "script") and data.strip():
            self.inline.setdefault(self._within, data)
        else:
            self.text += data

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the elements, without the places where names may be broken."""
        return [element for element in self.elements if element[0] != "wbr"]


def hostile(text: str, **changes: Any) -> ReportFacts:
    """Return facts with the same text in every place that a stranger's text may reach."""
    cells, reasons = ([f"{what} {n}{text}" for n in range(2)] for what in ("cell", "reason"))
    facts = report_facts(cells, reasons, pictures=2, picture_px=8)
    manifest = json.loads(json.dumps(facts.manifest))
    manifest["use"]["purpose"] = f"purpose {text}"
    manifest["figures"]["variation"][0]["condition"] = f"condition {text}"
    manifest["figures"]["thresholds"] = {f"filter {text}": {f"field {text}": f"value {text}"}}
    return replace(
        facts,
        name=f"name {text}",
        manifest=manifest,
        models={f"role {text}": {key: f"{key} {text}" for key in ("name", "licence", "source", "space")}},
        provenance=((f"what {text}", f"value {text}"),),
        not_measured=((f"what {text}", f"why {text}"),),
        recipe={f"key {text}": f"value {text}"},
        **changes,
    )


@functools.cache
def plain_shape() -> list[tuple[str, tuple[str, ...]]]:
    """Return the elements of a page of harmless text."""
    return Outline(render(hostile("plain"))).shape


@pytest.fixture(scope="module")
def page() -> bytes:
    """Return a page with a figure in every place."""
    return render(report_facts())


def test_equal_facts_give_equal_bytes(page: bytes) -> None:
    """A page depends on its facts alone, and not on the order in which a mapping was filled."""
    facts = report_facts()
    backwards = json.loads(json.dumps(dict(facts.manifest)), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    turned = replace(
        facts,
        manifest=backwards,
        models=dict(reversed(facts.models.items())),
        funnel=replace(facts.funnel, by_cell=dict(reversed(facts.funnel.by_cell.items()))),
    )

    assert render(facts) == page
    assert render(turned) == page


def test_a_page_has_every_section_and_the_way_to_it(page: bytes) -> None:
    """Every section is there, and the contents lead to each of them."""
    outline = Outline(page)
    anchors = {value for _, name, value in outline.values if name == "id"}
    links = {value for tag, name, value in outline.values if tag == "a" and name == "href"}

    assert set(SECTIONS) <= anchors
    assert {f"#{section}" for section in SECTIONS} <= links
    assert {link[1:] for link in links} <= anchors


def test_a_page_names_nothing_outside_itself(page: bytes) -> None:
    """No attribute, style or script leads elsewhere, and the policy allows only what stands in the page."""
    outline = Outline(page)
    leading = [v for _, name, v in outline.values if name in ("src", "href", "srcset", "action", "data", "xlink:href")]
    policy = next(v for tag, name, v in outline.values if tag == "meta" and v.startswith("default-src"))
    allowed = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(outline.inline[kind].encode()).digest()).decode()
        for kind in ("style", "script")
    }

    assert all(v.startswith(("#", "data:")) for v in leading), [v[:80] for v in leading]
    assert re.findall(rb"https?://|@import|url\((?!#)", page) == []
    assert not [name for _, names in outline.elements for name in names if name == "style" or name.startswith("on")]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{allowed['style']}'; script-src '{allowed['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_every_picture_and_drawing_says_what_it_shows(page: bytes) -> None:
    """Pictures have alternative texts; drawings that mean something have a role, a label and a title."""
    outline = Outline(page)
    alts = [value for tag, name, value in outline.values if tag == "img" and name == "alt"]
    drawings = [names for tag, names in outline.elements if tag == "svg"]
    loose = [n for n in drawings if not ({"role", "aria-label"} <= set(n) or "aria-hidden" in n or "viewbox" in n)]

    assert len(alts) == 48
    assert all(alts)
    assert loose == []
    assert sum(tag == "title" for tag, _ in outline.elements) > 30
    assert sum(tag == "desc" for tag, _ in outline.elements) == 2 + 1 + 4


@settings(max_examples=15)
@given(text=st.one_of(st.just(HOSTILE), st.text(min_size=1, max_size=30)).filter(lambda t: "`" not in t))
def test_text_stays_text(text: str) -> None:
    """Whatever a name, cell, reason, tag or recipe holds, the page's elements and attributes stay the same."""
    assert Outline(render(hostile(text))).shape == plain_shape()


def test_hostile_text_is_shown_as_it_is() -> None:
    """Markup in a name is read, not run."""
    outline = Outline(render(hostile(HOSTILE)))

    assert outline.text.count(HOSTILE) > 20
    assert sum(tag == "script" for tag, _ in outline.elements) == 1


def test_nothing_measured_is_said_and_not_zero() -> None:
    """Facts without figures give a page that says so in every section, without a hole in it."""
    facts = report_facts(reasons=(), pictures=0, roles=())
    manifest = {**facts.manifest, "figures": {"leakage": "not screened: no gallery was given"}}
    nobody = replace(
        facts, manifest=manifest, measures=(), throughput={}, not_measured=(), models={}, provenance=(),
        funnel=replace(facts.funnel, enrolment={}, by_cell={}),
    )  # fmt: skip
    text = Outline(render(nobody)).text

    assert text.count("Not measured.") == 9
    assert "No image was refused." in text
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", text)


def test_figures_that_are_missing_leave_a_dash() -> None:
    """A rate that could not be measured is a dash that is read out as such, wherever it stands."""
    facts = report_facts()
    bare: dict[str, Any] = dict.fromkeys(("eer", "fmr100", "fmr1000", "auc", "fdr"))
    curves = tuple(replace(c, **bare, roc=(), thresholds=(), calibration=()) for c in facts.curves)
    spread = tuple(replace(s, vendi=None) for s in facts.spread)
    text = Outline(render(replace(facts, curves=curves, spread=spread))).text

    assert text.count("not measured") > 10
    assert "too few pairs were compared to draw a curve" in text
    assert not re.search(r"\b(None|nan)\b", text)


def test_many_cells_and_a_million_images_stay_light() -> None:
    """126 cells, 60 measures and galleries of 40 MB give a page below 8 MB that says where it shows a part."""
    cells = [f"{a}/{b}/{c}" for a in ("feminine", "masculine") for b in range(7) for c in range(9)]
    facts = report_facts(cells, pictures=0)
    heavy = [Picture(bytes([n % 256]) * 50_000, f"face {n}", "", {"cell": cells[n % 126]}) for n in range(800)]
    light = [Picture(b"x" * 5_000, f"face {n}", "", {}) for n in range(12)]
    galleries = (Gallery("random", "r", "r.", tuple(heavy)), Gallery("refused", "f", "f.", tuple(light)))
    measures = tuple(replace(facts.measures[n % 2], name=f"{n}_measure", bounds=()) for n in range(60))
    page = render(replace(facts, galleries=galleries, measures=measures))
    shown = panels(galleries)

    assert len(page) < LIGHT_bytes
    assert len(cells) == 126
    assert (shown["random"].shown, shown["random"].held) == (78, 800)
    assert shown["refused"].shown == 12
    assert b"Shown are 78 of 800" in page
    assert page.count(b"Its table by cell is left out") == 60 - 3_000 // 126


@given(sizes=st.lists(st.lists(st.integers(0, 900), max_size=30), min_size=1, max_size=5), most=st.integers(0, 9_000))
def test_galleries_are_bounded_and_groups_stay_whole(sizes: list[list[int]], most: int) -> None:
    """However large galleries are, together they keep the bound, and a pair is shown whole or not at all."""
    galleries = [
        Gallery(f"g{n}", "", "", tuple(Picture(b"x" * s, "a", "", {}, f"p{k // 2}") for k, s in enumerate(row)))
        for n, row in enumerate(sizes)
    ]
    shown = panels(galleries, most)
    by_name = {g.name: g for g in galleries}

    assert sum(len(p.source) for g in shown.values() for _, ps in g.groups for p in ps) <= most * 4 / 3 + 40 * 150
    for name, panel in shown.items():
        whole = {g: sum(p.group == g for p in by_name[name].pictures) for g, _ in panel.groups}
        assert {group: len(pictures) for group, pictures in panel.groups} == whole


@given(
    counts=st.lists(st.integers(0, 1_000), min_size=1, max_size=80).filter(any),
)
def test_pooled_bins_keep_their_area(counts: list[int]) -> None:
    """Pooling neighbouring bins neither makes nor loses a comparison, and leaves the number of bins."""
    told = plots._smooth(counts, sum(counts))

    assert len(told) == len(counts)
    assert sum(told) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 100), max_size=12).map(sorted))
def test_markers_never_touch(places: list[float]) -> None:
    """Every threshold has a line of its own letter, and two letters of one row are apart."""
    rules = plots.marks(places)
    rows: dict[float, list[float]] = {}
    for rule in rules:
        rows.setdefault(rule.head_px, []).append(rule.x)

    assert [r.x for r in rules] == places
    assert len({r.mark for r in rules}) == len(places)
    assert all(b - a >= plots.APART_percent for row in rows.values() for a, b in itertools.pairwise(row))


@example(low=1.0, width=799.0, about=2)
@example(low=501.0, width=998.0, about=2)
@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3), about=st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, width: float, about: int) -> None:
    """Ticks rise evenly inside their range, and their texts differ."""
    found = plots.ticks(low, low + width, about)
    texts = [plots.tick_text(value, found) for value in found]

    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in found)
    assert 2 <= len(found) <= max(5, 2 * about)
    assert len(set(texts)) == len(texts)


def test_the_funnel_adds_up_and_says_where_it_does_not() -> None:
    """Bars are as long as what they stand for; a count that was lost is named."""
    funnel = report_facts().funnel
    view = funnel_view(funnel)
    longest = max(row["candidates"] for row in funnel.by_cell.values())
    lost = replace(funnel, candidates=funnel.candidates + 1)

    assert [right for _, right in view["sums"]] == [True, True, True]
    assert [right for _, right in funnel_view(lost)["sums"]] == [False, True, False]
    for cell, row, parts in view["cells"]:
        assert sum(p.width for p in parts) == pytest.approx(100 * row["candidates"] / longest, abs=0.1), cell
    assert b"does not add up" in render(replace(report_facts(), funnel=lost))


def test_a_version_that_was_judged_again_says_so() -> None:
    """What filters of a later day refused stands beside what was refused when the images were made."""
    again = {
        "candidates": 100, "accepted": 60, "refused": 40, "reasons": {"too_blurred": 40}, "images_left_out": 7,
        "left_out_by_reason": {"too_blurred": 7},
    }  # fmt: skip
    text = Outline(render(report_facts(funnel=replace(report_facts().funnel, judged_again=again)))).text

    assert "Judged again" in text
    assert "60 of 100 pictures made are good enough for the filters of this version" in text
    assert "the picture is blurred" in text


def test_a_merged_version_claims_no_yield() -> None:
    """What was copied was not made: no share of good pictures is stated, and the recipe remakes nothing."""
    facts = report_facts()
    manifest = {**facts.manifest, "counts": {**facts.manifest["counts"], "merged": [{"name": "others"}]}}
    text = Outline(render(replace(facts, manifest=manifest, throughput={}))).text

    assert "Nothing was made: images were copied" in text
    assert "were good enough" in Outline(render(facts)).text
    assert "were good enough" not in text
    assert "merged out of others" in text
    assert "the same models, the same dataset can be made again" not in text


def test_an_empty_funnel_is_drawn() -> None:
    """A version of which nothing was made gives a page, not an error."""
    empty = Funnel(0, 0, 0, 0, 0, 0, (), {}, {})

    assert b"No image was refused." in render(report_facts(funnel=empty, galleries=(), measures=(), curves=()))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (words.share(0.0311), "3.11 %"),
        (words.share(0.6), "60 %"),
        (words.share(0.0), "0 %"),
        (words.share(1.0), "100 %"),
        (words.share(1e-6), "0.0001 %"),
        (words.share(1e-9), "1e−07 %"),
        (words.odds(1e-3), "1 in 1,000"),
        (words.odds(0.03), "1 in 33"),
        (words.odds(0.0), ""),
        (words.number(-0.25, 2), "−0.25"),
        (words.number(-0.00001, 2), "0.00"),
        (words.short(1234.6), "1,235"),
        (words.short(0.0), "0"),
        (words.short(-30.0), "−30.0"),
        (words.span(7_325), "2 h 2 min"),
        (words.span(100), "1 min 40 s"),
        (words.span(59.96), "60.0 s"),
        (words.span(119.6), "2 min 0 s"),
        (words.span(3_599.7), "1 h 0 min"),
        (words.share(0.9997), "99.97 %"),
        (words.share(0.99999), "99.999 %"),
        (words.share(0.995), "99.5 %"),
        (words.reason_said("passes_but_not_stored")[:13], "it passes now"),
        (words.moment("2026-11-21T19:23:30+00:00"), "2026-11-21 19:23:30 UTC"),
        (words.coded("run `facemint` <now>"), "run <code>facemint</code> &lt;now&gt;"),
        (words.breaks("a/<b>"), "a/<wbr>&lt;b&gt;"),
        (words.reason_said("off_target_yaw_deg"), "the picture shows another yaw_deg than was asked for"),
        (words.reason_said("exposure_too_low"), "the measure exposure is too low"),
        (words.reason_said("somebody_elses"), ""),
    ],
)
def test_figures_read_well(said: str, text: str) -> None:
    """Numbers have the digits that count, true minus signs, and units."""
    assert said == text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_not_measured(value: float | None) -> None:
    """None and not-a-number never become a figure."""
    assert {words.share(value), words.number(value), words.short(value), words.span(value)} == {words.NOTHING}
    assert words.odds(value) == ""


def test_known_reasons_have_a_sentence() -> None:
    """Every reason that a filter of ours can give is explained in words."""
    import importlib
    import inspect
    import pkgutil

    import filters

    constants = []
    for module in pkgutil.iter_modules(filters.__path__):
        loaded = importlib.import_module(f"filters.{module.name}")
        constants += [v for k, v in inspect.getmembers(loaded) if k.isupper() and isinstance(v, str) and "REASON" in k]

    assert len(constants) > 8
    assert [reason for reason in constants if not words.reason_said(reason)] == []
    assert len(CELLS) == 4


def test_measures_that_filters_read_come_first() -> None:
    """What no filter reads, and is neither quality nor pose, is folded away; estimates of attributes come last."""
    page = render(report_facts()).decode().partition('<section id="measures"')[2]
    places = [page.index(f"<h3><code>{name}</code>") for name in ("sharpness", "yaw_deg", "zeta", "tone=dark")]
    folded = page.index("1 further measure, which no filter reads")

    assert sorted(places) == places
    assert places[1] < folded < places[2]
