"""Charts of a version as SVG: the funnel by cell. Readable without colour: parts of a bar differ by hatching too."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

INK, PAPER, GRID = "#1d2433", "#ffffff", "#d9dde5"
KEPT = (("published", "#1f6f8b", ""), ("accepted, not published", "#99c1cf", "//"))
REFUSED = (
    ("#c8553d", ""), ("#e9a03b", "xx"), ("#8e6c8a", "//"), ("#5b5f97", ".."), ("#b8b08d", "\\\\"), ("#9d0208", "++"),
    ("#6b705c", "--"), ("#cdb4db", "oo"),
)  # fmt: skip
OTHERS = "other reasons"


def funnel_chart(name: str, funnel: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return an SVG with a bar per cell: the images made of its identities, divided into what became of them.

    Equal figures give equal bytes.

    Args:
        name: the dataset's, for the title.
        funnel: cell -> `candidates`, `reasons`, `accepted`, `published`.
    """
    return _drawn(name, json.dumps(funnel, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _drawn(name: str, told: str) -> bytes:
    """Return the chart; drawing takes a tenth of a second, and a run that resumes draws the same one again."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    funnel = json.loads(told)
    cells = list(funnel)
    parts = _parts(funnel)
    style: Any = {"svg.hashsalt": "facemint", "svg.fonttype": "path", "font.size": 10, "hatch.linewidth": 0.6}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.0, 1.9 + 0.42 * len(cells)), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot()
        left = [0.0] * len(cells)
        for label, colour, hatch, widths in parts:
            bars = axes.barh(
                cells, widths, left=left, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.8, label=label,
                height=0.72,
            )  # fmt: skip
            if label == "published":
                axes.bar_label(bars, label_type="center", color=PAPER, fontsize=9)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, cell in enumerate(cells):
            facts = funnel[cell]
            share = facts["accepted"] / facts["candidates"] if facts["candidates"] else 0.0
            axes.annotate(
                f" {facts['candidates']:,} made, {100 * share:.0f} % accepted", (left[place], place), va="center",
                fontsize=8.5, color=INK,
            )  # fmt: skip
        _dress(axes, name, max([1.0, *left]))
        if parts:
            figure.legend(loc="outside lower center", ncols=min(3, len(parts)), frameon=False, fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "facemint", "Title": f"{name}: funnel"})
    return out.getvalue()


def _dress(axes: Any, name: str, longest: float) -> None:
    axes.set_title(f"{name}: what became of every image made, by cell", loc="left", color=INK, fontsize=12)
    axes.set_xlabel("images", color=INK)
    axes.set_xlim(0, longest * 1.32)
    axes.invert_yaxis()
    axes.xaxis.grid(visible=True, color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _parts(funnel: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, Sequence[float]]]:
    """Return (label, colour, hatching, width per cell) of every part of the bars, the commonest reasons first."""
    total: dict[str, int] = {}
    for facts in funnel.values():
        for reason, number in facts["reasons"].items():
            total[reason] = total.get(reason, 0) + number
    ranked = sorted(total, key=lambda r: (-total[r], r))
    named, rest = ranked[: len(REFUSED)], ranked[len(REFUSED) :]
    (published, p_colour, p_hatch), (unused, u_colour, u_hatch) = KEPT
    rows: list[tuple[str, str, str, Sequence[float]]] = [
        (published, p_colour, p_hatch, [float(f["published"]) for f in funnel.values()]),
        (unused, u_colour, u_hatch, [float(f["accepted"] - f["published"]) for f in funnel.values()]),
    ]
    for reason, (colour, hatch) in zip(named, REFUSED, strict=False):
        rows.append((reason, colour, hatch, [float(f["reasons"].get(reason, 0)) for f in funnel.values()]))
    if rest:
        widths = [float(sum(f["reasons"].get(r, 0) for r in rest)) for f in funnel.values()]
        rows.append((OTHERS, GRID, "**", widths))
    return [row for row in rows if any(row[3])]
