"""What is printed fits the terminal: lines wrap between words, tables cut no name, paths stay in one piece."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs import show, show_bank, show_calibration, show_refilter
from jobs.live import View
from jobs.show_balance import print_balance
from jobs.show_leakage import print_leakage
from jobs.show_lines import LABEL, fact, say, share, table_of
from jobs.wiring.refiltering import changed_recipe, refilter_on
from pipeline.adapters import sketch
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.balance import targets_of
from pipeline.flow.balance_report import People, balance_figures
from tests.worlds import Silent, mint, sketches

LONG = {"perceived_gender_presentation": ("feminine", "masculine"), "est_skin_tone_group": ("light", "medium", "dark")}
GALLERY = {"name": "staff", "source": "sketch://faces?identities=12&images=2&seed=5"}
SCREENED = {
    "leakage": {
        "galleries": [{**GALLERY, "licence": "internal", "lawful_basis": "consent"}],
        "control": "sketch://faces?identities=100&images=1&seed=6",
    }
}


def console_of(width: int) -> Console:
    """Return a console of some width that prints into memory."""
    return Console(file=io.StringIO(), width=width)


def text_of(console: Console) -> str:
    """Return what was printed."""
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@given(
    words=st.lists(st.text("abc-/.=", min_size=1, max_size=60), min_size=1, max_size=30),
    width=st.integers(30, 140),
    indent=st.integers(0, 8),
)
def test_every_word_is_printed_whole_and_lines_fit_unless_a_word_does_not(
    words: list[str], width: int, indent: int
) -> None:
    """Wrapping changes nothing but the gaps, and only a word that fills a line by itself goes beyond the width."""
    console = console_of(width)

    say(console, " ".join(words), indent)

    lines = text_of(console).splitlines()
    assert " ".join(lines).split() == words
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


def test_a_fact_goes_on_below_its_text() -> None:
    """The second line of a fact begins where its text does."""
    console = console_of(40)

    fact(console, "Note", "one two three four five six seven eight nine")

    first, second = text_of(console).splitlines()
    assert first.startswith("Note" + " " * (LABEL - 4) + "one")
    assert second.startswith(" " * LABEL + "s")


@pytest.mark.parametrize("width", [80, 120])
def test_balance_by_long_names_is_cut_nowhere(width: int) -> None:
    """Names of 29 letters stand whole in the table of values at 80 columns, and no line is longer than the terminal."""
    targets = targets_of(list(LONG), LONG, None, None)
    quota = dict.fromkeys(targets.cells, 2)
    people = [c for c, n in quota.items() for _ in range(n)]
    console = console_of(width)

    print_balance(console, balance_figures(People(people), quota, targets, {}))

    shown = text_of(console)
    assert "…" not in shown
    assert "│ perceived_gender_presentation │" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_the_end_of_a_screened_run_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside paths and digest no line is longer than 80, and screening says from which cosine on, and how many."""
    monkeypatch.setenv("COLUMNS", "80")
    done = mint(sketches(**SCREENED), MemoryStore())

    show.print_published(done, "out", View(Console(file=io.StringIO())))

    shown = capsys.readouterr().out
    assert all(len(line) <= 80 or "/" in line or line.startswith("Digest") for line in shown.splitlines())
    assert "…" not in shown
    assert "│ judge      │ images - faces" in shown
    assert "against staff (24 faces of 12 people); thresholds from a control of 100 faces" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("filters", "mode", "in_the_card", "printed"),
    [
        ([{"use": "leakage"}], "refuse", "recogniser flagged was refused;", None),
        ([], "refuse", "was refused, images were not: no filter `leakage` does;", "no image was refused"),
        ([{"use": "leakage", "mode": "observe"}], "refuse", "was refused, images were not", "no image was refused"),
        ([{"use": "leakage"}], "observe", "people were not, by `leakage.mode`;", "no person was refused"),
        ([], "observe", "Nothing was refused: the recognisers observed;", "no person was refused"),
    ],
)
def test_who_was_refused_for_coming_near_is_said_as_it_was(
    filters: list[dict[str, Any]], mode: str, in_the_card: str, printed: str | None
) -> None:
    """Without the filter, or with one that observes, neither card nor terminal claims that images were refused."""
    leakage = {**SCREENED["leakage"], "mode": mode}
    store = MemoryStore()
    done = mint(sketches(leakage=leakage, filters=[{"use": "own-template", "fmr": 1e-2}, *filters]), store)
    console = console_of(120)

    print_leakage(console, done.manifest.figures["leakage"])

    assert in_the_card in store.get("versions/v000001/README.md").decode()
    assert (printed or "Screened") in text_of(console)
    assert printed is not None or "was refused" not in text_of(console)


def test_a_run_that_screens_nobody_says_nothing_of_screening() -> None:
    """Without galleries the manifest holds a sentence where the figures would be, and nothing is printed."""
    done = mint(sketches(), MemoryStore())
    console = console_of(80)

    print_leakage(console, done.manifest.figures.get("leakage"))

    assert text_of(console) == ""


def test_a_gallery_of_embeddings_is_read_by_the_judge_alone(tmp_path: Path) -> None:
    """A recogniser that cannot read the gallery stands in the table as one that compared nothing."""
    path = tmp_path / "g.npz"
    space = sketch.SketchRecogniser(sketch.SketchRecogniserOptions(use="sketch-judge")).space
    vectors = np.random.default_rng(1).normal(size=(6, space.dimensions)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez(path, vectors=unit, labels=np.arange(6), space=json.dumps(space.to_dict()))
    gallery = {"name": "staff", "source": str(path), "licence": "internal", "lawful_basis": "consent"}
    done = mint(sketches(leakage={"galleries": [gallery], "cos": 0.99}), MemoryStore())
    console = console_of(80)

    print_leakage(console, done.manifest.figures["leakage"])

    rows = {line.split("│")[1].strip(): line for line in text_of(console).splitlines() if line.startswith("│")}
    assert "images - faces" in rows["judge"]
    assert "not compared" in rows["auditor"]


def test_filling_up_prints_the_newest_version_once(capsys: pytest.CaptureFixture[str]) -> None:
    """With --make-missing the outcome of judging again is followed by one report, that of the version filled up."""
    store, recipe = MemoryStore(), sketches()
    mint(recipe, store)
    stricter = changed_recipe(store, ["filters.condition.tolerance=0.3"], None)
    done = refilter_on(store, stricter, Silent(), None, True, True)
    assert len(done) == 2

    show_refilter.print_published(done, "out", View(Console(file=io.StringIO())))

    shown = capsys.readouterr().out
    assert shown.count("What became of every candidate") == 1
    assert "what version v000002 lacked is in v000003" in shown
    assert "--make-missing makes" not in shown


def test_twins_that_were_asked_for_are_counted_even_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    """A share too small for anybody to get a twin is seen as a zero, not as silence."""
    done = mint(sketches(twins=[{"use": "compression", "share": 0.001}]), MemoryStore())

    show.print_published(done, "out", View(Console(file=io.StringIO())))

    assert any("hard-condition twins" in line and " 0 " in line for line in capsys.readouterr().out.splitlines())


def test_a_recogniser_that_tells_nobody_apart_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """An equal error rate near a coin toss is followed by a warning; a good one is not."""
    pair: dict[str, Any] = {
        "n_genuine": 60, "n_impostor": 3000, "genuine_mean_cos": 0.0, "impostor_mean_cos": 0.0, "fmr": [0.1],
        "cos": [0.4], "fnmr": [0.9], "fmr_low": [0.09], "fmr_high": [0.11], "fnmr_low": [0.8], "fnmr_high": [0.95],
        "insufficient": [], "genuine_quantile": [0.01], "genuine_cos": [-0.3],
    }  # fmt: skip
    content = {
        "recogniser": {"name": "r"}, "source": "s", "one_to_many": {},
        "space": {"alignment": "a-32", "weights_sha256": "0" * 64},
        "measured": {"images": 9, "digest": "0" * 64, "unreadable": 0, "not_measured": {}},
    }  # fmt: skip
    for eer, warned in ((0.49, True), (0.02, False)):
        show_calibration.print_calibration({**content, "pairs": {"sample/sample": {**pair, "eer": eer}}}, "c.json")
        assert ("hardly tells these people apart" in " ".join(capsys.readouterr().out.split())) is warned


def test_identities_without_a_cell_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A bank by cells says how many people no cell was given to."""
    from jobs import wiring

    table = tmp_path / "cells.csv"
    table.write_text("label,cell\n" + "".join(f"s{n:06d},a\n" for n in range(30)))
    facts = wiring.fit_bank(
        "sketch://faces?identities=40&images=2", "sketch-conditioning", str(tmp_path / "b.safetensors"),
        licence="MIT", lawful_basis="nobody", cells=str(table),
    )  # fmt: skip

    show_bank.print_bank(facts)

    shown = capsys.readouterr().out
    assert "Without cell 10 of 40 identities" in shown
    assert "80 images (2 each)" in shown


def test_columns_of_numbers_stand_at_the_right() -> None:
    """A column whose name follows `>` is one of numbers; what is whole is never cut, and other words fold if asked."""
    table = table_of("People", "name", ">images", "why", whole="name", fold=True)
    assert [(c.header, c.justify, c.no_wrap, c.overflow) for c in table.columns] == [
        ("name", "left", True, "fold"), ("images", "right", False, "fold"), ("why", "left", False, "fold"),
    ]  # fmt: skip
    table.add_row("anna", "12", "")
    console = console_of(60)
    console.print(table)
    assert text_of(console).splitlines()[0].rstrip() == "People"
    assert "│ anna │     12 │" in text_of(console)


def test_a_share_of_nothing_is_not_said() -> None:
    """Parts are told in percent with one decimal, and not where there is no whole."""
    assert (share(1, 3), share(0, 5), share(0, 0)) == ("33.3 %", "0.0 %", "")
