"""Plots as values: where lines, ticks and labels lie, so that one template draws every one of them as SVG.

A plot has no width of its own. Ticks, labels and rules lie at per cent of the plotting area and keep their size in
pixels; lines are paths in a square of 1000 x 1000 that is stretched to the area. So the same plot is read on a phone,
on a screen and on paper, and in either colour scheme: colours, dashes and hatching are the style sheet's.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.adapters.report.words import share, short
from pipeline.domain.report import Curves, MeasureFacts, Threshold

SIDE = 1000
"""Side of the square that paths are drawn in."""
ROW_px, APART_percent = 19.0, 6.5
"""Height of a row of markers, and how far apart two of one row are at least."""
HEIGHT_px, SMALL_px = 300, 120
LEAST_RATE = 1e-6
"""The smallest rate that the error plot reaches down to."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in per cent of the area (from left, or from the top), and what stands there."""

    at: float
    text: str
    spare: bool = False
    """Whether it is left out where there is little room."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A path in the stretched square; `style` is a class of the style sheet."""

    path: str
    style: str


@dataclass(frozen=True, slots=True)
class Label:
    """A word beside a line; `anchor` is `start`, `middle` or `end`."""

    x: float
    y: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Rule:
    """An upright line with a letter at its head; `head_px` is how far below the top the letter stands."""

    x: float
    mark: str
    head_px: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A point that is meant to be seen."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """What the template draws. `title` and `about` are read out to who does not see it."""

    title: str
    about: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    labels: tuple[Label, ...] = ()
    rules: tuple[Rule, ...] = ()
    dots: tuple[Dot, ...] = ()
    height_px: int = HEIGHT_px


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values laid over 0 to 100 per cent."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return where a value lies, held inside the area."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)


@dataclass(frozen=True, slots=True)
class Decades:
    """Rates from a power of ten to 1, laid over 0 to 100 per cent."""

    lowest: int

    def __call__(self, rate: float) -> float:
        """Return where a rate lies, held inside the area."""
        return Scale(self.lowest, 0.0)(math.log10(max(rate, self.least)))

    @property
    def least(self) -> float:
        """Return the smallest rate that there is room for."""
        return float(10.0**self.lowest)

    def powers(self) -> list[float]:
        """Return every power of ten of the range."""
        return [float(10.0**power) for power in range(self.lowest, 1)]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round values from `low` to `high`, about so many; 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / max(1, about)))

    def reach(step: float) -> tuple[int, int]:
        return math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)

    steps = [factor * power for factor in (1, 2, 5, 10)]
    counts = {s: reach(s)[1] - reach(s)[0] + 1 for s in steps}
    # one alone gives no scale
    step = min(steps, key=lambda s: (counts[s] < 2, abs(counts[s] - about)))
    first, last = reach(step)
    return [round(n * step, 12) for n in range(first, last + 1)]


def tick_text(value: float, all_of_them: Sequence[float]) -> str:
    """Return a tick's number with the decimals that tell it from its neighbours."""
    step = min((b - a for a, b in itertools.pairwise(all_of_them)), default=abs(value) or 1.0)
    if max(map(abs, all_of_them)) >= 1e6 or step < 1e-6:
        return f"{value:.1e}".replace("-", "−")
    return f"{value:,.{max(0, math.ceil(-math.log10(step) - 1e-9))}f}".replace("-", "−")


def marks(places: Sequence[float]) -> list[Rule]:
    """Return upright lines at these places, lettered from left to right, their heads in rows that do not touch."""
    ends: list[float] = []
    out = []
    for n, place in enumerate(places):
        row = next((r for r, end in enumerate(ends) if place - end >= APART_percent), len(ends))
        ends[row:row + 1] = [place]  # fmt: skip
        out.append(Rule(place, letter(n), row * ROW_px + ROW_px / 2))
    return out


def letter(n: int) -> str:
    """Return A, B, ... Z, A2, B2 and so on."""
    turn, place = divmod(n, 26)
    return string.ascii_uppercase[place] + (str(turn + 1) if turn else "")


def ruled(thresholds: Iterable[Threshold]) -> list[tuple[str, Threshold]]:
    """Return thresholds by rising cosine, each with its letter."""
    rising = sorted(thresholds, key=lambda t: (t.cos, t.name))
    return [(letter(n), t) for n, t in enumerate(rising)]


def curves_plot(curves: Curves) -> Plot:
    """Return the histograms of genuine and impostor comparisons, with every threshold drawn in."""
    rising = [t for _, t in ruled(curves.thresholds)]
    first, last = _filled(curves.genuine, curves.impostor)
    edges = curves.edges_cos[first : last + 2]
    across = Scale(min([edges[0], *(t.cos for t in rising)]), max([edges[-1], *(t.cos for t in rising)]))
    shares = {
        "impostor": _smooth(curves.impostor[first : last + 1], curves.n_impostor),
        "genuine": _smooth(curves.genuine[first : last + 1], curves.n_genuine),
    }
    rules = marks([across(t.cos) for t in rising])
    headroom_px = max((r.head_px for r in rules), default=0.0) + ROW_px + 14
    top = max(itertools.chain(*shares.values()), default=0.0) or 1.0
    up = Scale(0.0, top / (1 - min(0.6, headroom_px / HEIGHT_px)))
    said = {"impostor": "different people", "genuine": "same person"}
    labels = []
    for kind, values in shares.items():
        peak = max(range(len(values)), key=values.__getitem__, default=0)
        if values and values[peak] > 0:
            x = across((edges[peak] + edges[peak + 1]) / 2)
            labels.append(Label(x, 100 - up(values[peak]), said[kind], _anchor(x)))
    x_at, y_at = ticks(across.low, across.high, 6), ticks(0.0, top, 3)
    about = (
        f"Two humps over the cosine from {short(across.low)} to {short(across.high)}. Different people lie around "
        f"{short(curves.impostor_mean_cos)}, pictures of one person around {short(curves.genuine_mean_cos)}. "
        f"Equal error rate {share(curves.eer) if curves.eer is not None else 'not measured'}."
    )
    return Plot(
        f"How alike pictures are under the {curves.role}",
        about,
        "cosine: how alike two pictures are",
        f"share of comparisons per {edges[1] - edges[0]:.2g} of cosine",
        tuple(Tick(across(v), tick_text(v, x_at)) for v in x_at),
        tuple(Tick(100 - up(v), str(share(v))) for v in y_at),
        tuple(Shape(_steps(edges, values, across, up), kind) for kind, values in shares.items()),
        tuple(labels),
        tuple(rules),
    )


def error_plot(every: Sequence[Curves]) -> Plot | None:
    """Return false non-matches against false matches (DET), one line per recogniser; None where none was measured."""
    lines = {c.role: [(a, b) for a, b in c.roc if a > 0 and b > 0] for c in every}
    lines = {role: points for role, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    across, up = (_decades(min(pair[n] for points in lines.values() for pair in points)) for n in (0, 1))

    ranked = sorted(lines, key=lambda role: -_near(lines[role], 0.01))
    labels = []
    for n, role in enumerate(ranked):
        x, y = lines[role][len(lines[role]) // 2]
        over = n == 0
        place = (across(x) + (1.5 if over else -1.5), 100 - up(y) + (0 if over else 9))
        labels.append(Label(*place, role, "start" if over else "end"))
    eers = [(c.role, c.eer) for c in every if c.role in lines and c.eer]
    about = "Both rates on scales of powers of ten; lower and further left is better. " + " ".join(
        f"Under the {role} both are equal at {share(eer)}." for role, eer in eers
    )
    equal = [(10 * across(rate), 10 * (100 - up(rate))) for rate in (max(across.least, up.least), 1.0)]
    shapes = [Shape(_line(equal), "equal")]
    for role, points in lines.items():
        shapes.append(Shape(_line((10 * across(a), 10 * (100 - up(b))) for a, b in points), role))
    return Plot(
        "False non-matches against false matches",
        about,
        "false match rate: different people taken for one",
        "false non-match rate",
        tuple(Tick(across(p), str(share(p)), bool(n % 2)) for n, p in enumerate(reversed(across.powers()))),
        tuple(Tick(100 - up(p), str(share(p))) for p in up.powers()),
        tuple(shapes),
        tuple(labels),
        dots=tuple(Dot(across(eer), 100 - up(eer)) for _, eer in eers),
    )


def measure_plot(facts: MeasureFacts) -> Plot:
    """Return how one measure is distributed over accepted and over refused images, each as shares of their own."""
    shares = {
        "accepted": _smooth(facts.accepted, sum(facts.accepted)),
        "refused": _smooth(facts.refused, sum(facts.refused)),
    }
    limits = sorted(value for _, value in facts.bounds)
    low, high = facts.edges[0], facts.edges[-1]
    across = Scale(low, high if high > low else low + 1)
    rules = marks([across(v) for v in limits])
    headroom_px = max((r.head_px + ROW_px / 2 for r in rules), default=2.0) + 4
    top = max(itertools.chain(*shares.values()), default=0.0) or 1.0
    up = Scale(0.0, top / (1 - min(0.6, headroom_px / SMALL_px)))
    x_at = ticks(across.low, across.high, 4)
    accepted, refused = sum(facts.accepted), sum(facts.refused)
    about = f"From {short(low)} to {short(high)}: {accepted:,} accepted images as a filled area"
    about += f", {refused:,} refused ones as a broken line." if refused else "; none was refused."
    return Plot(
        f"How {facts.name} is distributed",
        about,
        "",
        "",
        tuple(Tick(across(v), tick_text(v, x_at)) for v in x_at),
        (),
        tuple(Shape(_steps(facts.edges, v, across, up), kind) for kind, v in shares.items() if any(v)),
        rules=tuple(rules),
        height_px=SMALL_px,
    )


def _steps(edges: Sequence[float], values: Sequence[float], across: Scale, up: Callable[[float], float]) -> str:
    """Return the outline of a histogram, closed along the ground, in the stretched square."""
    if not values:
        return "M0 1000"
    points = [(10 * across(edges[0]), float(SIDE))]
    for (left, right), value in zip(itertools.pairwise(edges), values, strict=True):
        y = SIDE - 10 * up(value)
        points += [(10 * across(left), y), (10 * across(right), y)]
    points.append((10 * across(edges[-1]), float(SIDE)))
    return _line(points)


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Return a path through points, without those that a straight stretch does not need."""
    told = [(round(x, 1), round(y, 1)) for x, y in points]
    kept = [
        point
        for n, point in enumerate(told)
        if n in (0, len(told) - 1) or not told[n - 1][1] == point[1] == told[n + 1][1]
    ]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in kept)


def _filled(*histograms: Sequence[int]) -> tuple[int, int]:
    """Return the first and the last bin that any of them has something in, and one more on either side."""
    there = [n for n, counts in enumerate(zip(*histograms, strict=True)) if any(counts)]
    if not there:
        return 0, len(histograms[0]) - 1
    return max(0, there[0] - 1), min(len(histograms[0]) - 1, there[-1] + 1)


def _smooth(counts: Sequence[int], everything: int) -> list[float]:
    """Return each bin's share of everything, neighbouring bins pooled where few values would draw a comb.

    Over the range that holds anything as many bins remain as Rice's rule gives, 2 n^(1/3); pooled bins share what they
    hold, so areas stay comparable.
    """
    first, last = _filled(counts)
    pool = max(1, round((last - first + 1) / max(5.0, 2 * everything ** (1 / 3)))) if everything else 1
    out: list[float] = []
    for start in range(0, len(counts), pool):
        pooled = counts[start : start + pool]
        out += [sum(pooled) / (everything * len(pooled)) if everything else 0.0] * len(pooled)
    return out


def _decades(least: float) -> Decades:
    return Decades(min(-1, max(round(math.log10(LEAST_RATE)), math.floor(math.log10(least) + 1e-9))))


def _near(points: Sequence[tuple[float, float]], rate: float) -> float:
    return min(points, key=lambda p: abs(math.log10(p[0]) - math.log10(rate)))[1]


def _anchor(x: float) -> str:
    return "start" if x < 20 else "end" if x > 80 else "middle"
