"""Filters that ask for what a recipe does not give are named when it is read, before any work."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.domain.errors import UserError
from tests.recipes import sketch_recipe
from tests.worlds import sketches

CELL: dict[str, Any] = {"use": "cell-agreement", "min": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"filters": [CELL], "balance": {"by": []}},
            r"filters.0: an identity's cell is what balance.by names, .*empty",
        ),
        ({"filters": [{**CELL, "field": "age"}]}, r"filters.0.field: 'age' is not balanced; balance.by: shape, shade"),
        ({"filters": [CELL, CELL]}, r"filters: cell-agreement stands twice"),
        ({"filters": [{"use": "exposure", "min_mean": 0.1}]}, r"filters.0: .*'exposure' reads .*'luminance_mean'"),
        ({"filters": [{"use": "range", "measure": "nearest_sibling_cos", "max": 0.9}]}, r"filters.0: .*does not have"),
        (
            {"filters": [{"use": "apparent-minor", "age_group": "shade"}]},
            r"filters.0: .*shade=\w+: no age is read from .*list the values that count as minors in `minors`",
        ),
        (
            {"filters": [{"use": "sibling-spread", "mean_cos": 0.5, "tolerance": 0.1, "stop_above": 1.5}]},
            r"filters.0.stop_above: got 1.5; .*less than 1",
        ),
        (
            {"filters": [{"use": "sibling-duplicate", "max_cos": 0.9, "mode": "observe", "stop_above": 0.5}]},
            r"filters.0.stop_above: with mode: observe nothing is refused; leave one of the two out",
        ),
    ],
)
def test_what_a_filter_cannot_have_is_refused_when_the_recipe_is_read(changes: dict[str, Any], message: str) -> None:
    """Cells that nobody has, fields that are not balanced, sibling numbers read by others: one line with the key."""
    with pytest.raises(UserError, match=message) as caught:
        sketches(**changes)
    assert "\n" not in str(caught.value)


def test_filters_on_siblings_and_cells_need_no_measure_of_the_recipe() -> None:
    """What the flow gives to those that ask for it is known when the recipe is checked, whether they observe or not."""
    own = [CELL, {**CELL, "field": "shade"}, {"use": "sibling-duplicate", "max_cos": 0.99}]
    for mode in ("refuse", "observe"):
        filters = [*sketch_recipe()["filters"], *({**node, "mode": mode} for node in own)]
        assert len(sketches(filters=filters).filters) == 6
