"""The report in a real browser: nothing fails, nothing is fetched, everything is seen, on a laptop and on a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters.report import render
from tests.adapters.test_report_page import HOSTILE, SECTIONS, hostile
from tests.report_facts import CELLS, REASONS, report_facts

LAPTOP, PHONE, PAPER = {"width": 1366, "height": 900}, {"width": 390, "height": 844}, {"width": 690, "height": 970}
"""In CSS pixels; the last is A4 within margins of 14 mm."""
READABLE = 4.5
"""Least contrast of text to what is behind it (WCAG 2.2, 1.4.3)."""
CONTRAST = """
() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const seen = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("title, desc, script")) continue;
    const style = getComputedStyle(element);
    const ink = light(rgb(element instanceof SVGElement ? style.fill : style.color));
    const paper = light(behind(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const kind = element.tagName + "." + (element.getAttribute("class") || "");
    seen.set(kind, Math.min(ratio, seen.get(kind) ?? Infinity));
  }
  return Object.fromEntries(seen);
}
"""
WIDE = """
() => ({
  page: document.documentElement.scrollWidth - innerWidth,
  out: [...document.querySelectorAll("main *")]
    .filter((e) => e.checkVisibility() && !e.closest(".scroll, svg, .vh"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.tagName + "." + e.className).slice(0, 5),
})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the installed Chromium once."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium); the page is not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, which is what a container's user is
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page on disk with a figure and pictures in every place."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(render(report_facts()))
    return path


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages; at the end fail on whatever the browser complained of, or tried to fetch."""
    contexts, trouble = [], []

    def open_(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": LAPTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        trouble.extend(f"fetched: {url[:100]}" for url in asked if url != path.as_uri() and not url.startswith("data:"))
        page.on("request", lambda request: trouble.append(f"fetched later: {request.url[:100]}"))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert trouble == []


def test_everything_is_there_and_decoded(opened: Callable[..., Any], report: Path) -> None:
    """Every section has a height, every picture is decoded and has an alternative text, every drawing has a size."""
    page = opened(report)
    heights = page.evaluate(
        "ids => ids.map((id) => document.getElementById(id).getBoundingClientRect().height)", list(SECTIONS)
    )
    pictures = page.evaluate("() => [...document.images].map((i) => [i.naturalWidth, i.alt.length, i.width])")
    drawings = page.evaluate(
        "() => [...document.querySelectorAll('main svg[role=img]')].filter((s) => s.checkVisibility())"
        ".map((s) => [s.getBoundingClientRect().width, s.getBoundingClientRect().height, s.ariaLabel.length])"
    )

    assert all(height > 100 for height in heights), dict(zip(SECTIONS, heights, strict=True))
    assert len(pictures) == 48
    assert all(natural > 0 and alt > 0 and width > 50 for natural, alt, width in pictures)
    assert len(drawings) > 20
    assert all(min(drawing) > 0 for drawing in drawings)


def test_filters_show_what_they_say(opened: Callable[..., Any], report: Path) -> None:
    """A button shows the pictures of its value alone, two filters those of both, `all` shows everything again."""
    gallery = opened(report).locator("#gallery-refused")
    visible = gallery.locator(".picture:visible")
    cell, reason = gallery.locator("[data-tag=cell]"), gallery.locator("[data-tag=reason]")
    assert visible.count() == 12
    assert cell.locator("button").all_inner_texts() == ["all", *CELLS]

    cell.get_by_role("button", name=CELLS[1], exact=True).click()
    assert visible.evaluate_all("all => all.map((p) => JSON.parse(p.dataset.tags).cell)") == [CELLS[1]] * 3
    assert gallery.get_by_role("status").inner_text() == "3 of 12 pictures"
    assert cell.locator("[aria-pressed=true]").all_inner_texts() == [CELLS[1]]

    reason.get_by_role("button", name=REASONS[0], exact=True).click()
    assert visible.count() == 0
    reason.get_by_role("button", name=REASONS[1], exact=True).click()
    assert visible.count() == 3
    for filter_ in (cell, reason):
        filter_.get_by_role("button", name="all", exact=True).click()
    assert visible.count() == 12


def test_a_pair_is_filtered_as_a_whole_from_the_keyboard(opened: Callable[..., Any], report: Path) -> None:
    """Of two people who look alike both stay, though only one is of the cell asked for; keys do what a click does."""
    page = opened(report)
    gallery = page.locator("#gallery-most-similar")
    gallery.get_by_role("button", name=CELLS[1], exact=True).focus()
    page.keyboard.press("Enter")

    shown = gallery.locator(".picture:visible").evaluate_all("all => all.map((p) => JSON.parse(p.dataset.tags).cell)")
    assert shown == [CELLS[0], CELLS[1]] * 3
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_many_values_are_a_list(opened: Callable[..., Any], tmp_path: Path) -> None:
    """With more cells than fit on buttons one is chosen from a list."""
    path = tmp_path / "report.html"
    path.write_bytes(render(report_facts([f"cell {n}" for n in range(24)], pictures=48, picture_px=8)))
    gallery = opened(path).locator("#gallery-worst-accepted")
    gallery.get_by_role("combobox").select_option("cell 7")

    assert gallery.locator(".picture:visible").count() == 2


def test_without_scripts_everything_is_shown(opened: Callable[..., Any], report: Path) -> None:
    """Where scripts are off all pictures are there, and no button promises what it cannot do."""
    page = opened(report, java_script_enabled=False)

    assert page.locator(".picture:visible").count() == 48
    assert page.locator("button:visible, select:visible").count() == 0


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_nothing_runs_out_of_the_page(opened: Callable[..., Any], report: Path, tmp_path: Path, size: Any) -> None:
    """No page scrolls sideways, with names of a hundred letters neither: wide tables scroll in their own box."""
    long = tmp_path / "long.html"
    long.write_bytes(render(hostile(HOSTILE + "a-very-long-name/" * 4 + "x" * 120)))

    for path in (report, long):
        page = opened(path, viewport=size)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate(WIDE) == {"page": 0, "out": []}, path.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(opened: Callable[..., Any], report: Path, scheme: str) -> None:
    """All text has a contrast of at least 4.5 to what is behind it, and the dark scheme is dark."""
    page = opened(report, color_scheme=scheme)
    page.locator("#gallery-random button").last.click()
    found = page.evaluate(CONTRAST)
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    assert len(found) > 30
    assert {kind: ratio for kind, ratio in found.items() if ratio < READABLE} == {}
    assert (max(map(int, paper.removeprefix("rgb(").rstrip(")").split(","))) < 60) is (scheme == "dark")


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_only_what_scrolls_is_a_stop_of_the_tab_key(opened: Callable[..., Any], report: Path, size: Any) -> None:
    """A box that can be scrolled is reached with the keyboard; one that cannot be does not stop anybody."""
    page = opened(report, viewport=size)
    page.evaluate("document.querySelectorAll('main details').forEach((d) => { d.open = true; })")
    boxes = (
        "[...document.querySelectorAll('.scroll')]"
        ".map((s) => [s.tabIndex === 0, s.scrollWidth > s.clientWidth + 1 || s.scrollHeight > s.clientHeight + 1])"
    )
    # the page hears of what was unfolded a moment later; if it never does, this ends in a time-out
    page.wait_for_function(f"{boxes}.every(([stop, scrolls]) => stop === scrolls)")
    told = page.evaluate(boxes)

    assert any(scrolls for _, scrolls in told) or size == LAPTOP


def test_contents_stay_in_sight_and_fold_on_a_phone(opened: Callable[..., Any], report: Path) -> None:
    """On a laptop the contents stay while the page scrolls and mark where one is; on a phone they unfold and close."""
    page = opened(report)
    side = page.get_by_role("navigation", name="Contents", exact=True)
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    side.get_by_role("link", name="Balance").click()
    page.wait_for_selector(".side [aria-current=true] >> text=Balance")
    assert side.bounding_box()["y"] == 0

    phone = opened(report, viewport=PHONE)
    phone.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    menu = phone.locator(".menu")
    assert not phone.locator(".side").is_visible()
    assert not menu.get_by_role("link", name="Balance").is_visible()
    menu.locator("summary").click()
    menu.get_by_role("link", name="Balance").click()
    assert not menu.get_by_role("link", name="Balance").is_visible()
    top = phone.evaluate("document.getElementById('h-balance').getBoundingClientRect().top")
    assert menu.bounding_box()["height"] <= top < PHONE["height"] / 2


def test_paper_has_everything(opened: Callable[..., Any], report: Path) -> None:
    """In print there are no buttons and no contents, what is folded away is unfolded, and no table is cut off."""
    page = opened(report, viewport=PAPER)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")

    assert page.locator("main button:visible, nav:visible").count() == 0
    assert page.locator("main details:not([open])").count() == 0
    cut = "[...document.querySelectorAll('.scroll')].filter((s) => s.scrollWidth > s.clientWidth + 1)"
    assert page.evaluate(f"{cut}.map((s) => s.ariaLabel)") == []
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


def test_hostile_text_does_nothing(opened: Callable[..., Any], tmp_path: Path) -> None:
    """A name that is a script is read as a name: no dialog, no request, no element of its own."""
    path = tmp_path / "report.html"
    path.write_bytes(render(hostile(HOSTILE)))
    page = opened(path)

    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("[...document.images].filter((i) => !i.src.startsWith('data:image/jpeg')).length") == 0
    assert HOSTILE in page.locator("h1").inner_text()
