"""What a run says of its variation plan, at the end and in the card."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from jobs.show_variation import MOST_CELLS, print_variation
from pipeline.adapters.card import dataset_card
from pipeline.domain.conditions import Uniform
from pipeline.domain.variation import Tally, bins_of
from tests.adapters.test_card import facts  # noqa: F401 - a fixture


def tallied(measured: dict[str, list[float]], measure: str = "yaw_deg") -> dict[str, Any]:
    """Return figures of images that were asked for -9, -3, 3 and 9 degrees in turn, per cell."""
    tally = Tally("yaw_deg", measure, bins_of(Uniform(use="uniform", low=-12, high=12), 4))
    for cell, read in measured.items():
        asked = np.resize([-9.0, -3.0, 3.0, 9.0], len(read))
        tally.add(asked, np.array(read), np.abs(asked - read) > 5, [cell] * len(read), [0] * len(read))
    return tally.facts()


MET = [-9.0, -3.0, 3.0, 9.0] * 4
FRONTAL = [-3.0, -3.0, 3.0, 3.0] * 4


def printed(*variation: dict[str, Any]) -> str:
    """Return what is printed on a wide terminal."""
    out = io.StringIO()
    print_variation(Console(file=out, width=120), variation)
    return out.getvalue()


def test_a_plan_that_was_met_is_one_line() -> None:
    """Distance, correlation and deficit in a table, and no word of anything short."""
    said = printed(tallied({"dark": MET, "light": MET}, "head_yaw_deg"))
    assert "yaw_deg, read by head_yaw_deg" in said
    assert "Short of the plan" not in said
    assert not printed()


def test_what_is_short_is_said_bin_by_bin_and_cell_by_cell() -> None:
    """Of two cells one never turned: 12.5 points are missing of the whole and 25 of that cell, which is named."""
    said = printed(tallied({"dark": MET, "light": FRONTAL})).splitlines()
    assert "Short of the plan by more than 5 points, which are hundredths of the images:" in said
    for name in ("-12 to -6", "6 to 12"):
        line = f"  yaw_deg {name}: short by 12.5; planned 25.0 %, asked 25.0 %, delivered 12.5 %, 4 off target"
        assert line in said
    assert said[-1] == "  yaw_deg by cell: light: -12 to -6 by 25.0; light: 6 to 12 by 25.0"


def test_many_cells_are_cut_to_the_worst() -> None:
    """A hundred cells that are short make one line, which says how many more there are."""
    cells = {f"c{n:03d}": FRONTAL for n in range(100)}
    assert f"and {200 - MOST_CELLS} more in the manifest" in printed(tallied(cells)).splitlines()[-1]


def test_the_card_has_the_plan_bin_by_bin(facts: dict[str, Any]) -> None:  # noqa: F811
    """Planned, asked, delivered, deficit and marked images of every bin, and the worst cell."""
    facts["figures"]["variation"] = [tallied({"dark": MET, "light": FRONTAL})]
    card = dataset_card(facts)
    assert "| yaw_deg | yaw_deg | 6 to 12 | 25.0 % | 25.0 % | 12.5 % | 12.5 | 4 |" in card
    assert "| yaw_deg | 32 | 1.5 |" in card
    assert "| light: 25.0 |" in card
    assert "variation." not in card, "said in tables, not once more as a list"


def test_the_card_says_what_twins_are(facts: dict[str, Any]) -> None:  # noqa: F811
    """Their number, how to know them, and that no figure counts them; without twins not a word."""
    assert "twin" not in dataset_card(facts)
    facts["counts"]["twins"] = 4321
    card = dataset_card(facts)
    assert "Hard-condition twins: 4,321 more images" in card
    assert "num_examples: 66021" in card
