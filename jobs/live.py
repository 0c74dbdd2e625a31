"""The live view of a run: a panel on a terminal, elsewhere one line a minute; both from the facts of `Progress`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.domain.ports import Clock
from pipeline.flow.heartbeat import Progress

REFRESH_PER_S = 4
LINE_EVERY_S = 60.0
WIDTH = 96
"""The panel is no wider, so that a bar and its number stay close together."""
SHOWN_STAGES = 7
_EIGHTHS = " ▏▎▍▌▋▊▉"


class WallClock:
    """Implements `ports.Clock` for views: they show time, and decide nothing by it."""

    def now_s(self) -> float:
        """Return seconds since the epoch."""
        return time.time()


class View:
    """Implements `ports.Observer`: keeps a run's facts, and says in lines what happens where no panel is drawn."""

    def __init__(self, console: Console, *, clock: Clock | None = None, lines: bool = False, title: str = "") -> None:
        """Keep where to draw; with `lines`, every stage, and every minute by `say`, is a line of its own."""
        self.console = console
        self.clock = clock or WallClock()
        self.progress = Progress(self.clock)
        self._lines, self._title = lines, title

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event of a run."""
        self.progress.event(kind, **facts)
        if not self._lines:
            return
        if kind == "stage":
            before = f" ({facts['done']:,} committed before)" if facts["done"] else ""
            units = f": {facts['total']:,} units{before}" if facts["total"] > 1 or before else ""
            self._print(f"{stage_label(facts)}{units}")
        elif kind == "enrolled":
            cells = ", ".join(f"{c} {facts['have'].get(c, 0)}/{n}" for c, n in sorted(facts["wanted"].items()))
            self._print(f"enrolled so far (cell have/wanted): {cells}")
        elif kind == "round":
            full, given_up = facts["filled"], len(facts["failed"])
            self._print(f"round {facts['number'] + 1} is over: {full:,} identities full, {given_up:,} given up")

    def say(self) -> None:
        """Print one line on where the run is."""
        self._print(sentence(self.progress.to_dict()))

    def panel(self) -> Constrain:
        """Return the panel as of now."""
        return panel(self.progress.to_dict(), self.clock.now_s(), self._title)

    def _print(self, text: str) -> None:
        now = time.strftime("%H:%M", time.localtime(self.clock.now_s()))
        self.console.print(f"{now} {text}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def observer(*, quiet: bool, title: str = "", console: Console | None = None) -> Iterator[View]:
    """Show a run's progress while the block lasts; on standard error, so that output can be piped."""
    console = console or Console(stderr=True)
    if quiet:
        yield View(console)
    elif console.is_terminal and not console.is_dumb_terminal:
        view = View(console, title=title)
        with Live(get_renderable=view.panel, console=console, refresh_per_second=REFRESH_PER_S) as live:
            try:
                yield view
                view.progress.finish()
            finally:
                # nothing was worked: the tables that follow say so
                live.transient = not view.progress.to_dict()["stages"]
    else:
        view = View(console, lines=True)
        with _every(LINE_EVERY_S, view.say):
            yield view


@contextmanager
def _every(seconds: float, what: Any) -> Iterator[None]:
    """Call something regularly while the block lasts."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(seconds):
            what()

    thread = threading.Thread(target=loop, name="lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)


def stage_label(stage: Mapping[str, Any]) -> str:
    """Return a stage's name for people: `make round 2`, or `make g1 round 1` in a later generation."""
    words = [str(stage["name"])]
    if stage.get("generation"):
        words.append(f"g{stage['generation']}")
    if stage.get("round") is not None:
        words.append(f"round {stage['round'] + 1}")
    return " ".join(words)


def sentence(facts: Mapping[str, Any]) -> str:
    """Return one line on where a run is, from the facts of its `Progress`, fresh or out of a heartbeat."""
    if not facts.get("stages"):
        return "starting"
    stage = facts["stages"][-1]
    parts = [f"{stage['done']:,}/{stage['total']:,} units"]
    if facts["counted"] == stage["name"] and facts["candidates"]:
        what = "images" if facts["counted"] == "make" else "candidates"
        parts += [f"{facts['candidates']:,} {what}", f"{100 * facts['accepted'] / facts['candidates']:.0f} % accepted"]
    if facts["images_per_s"]:
        parts.append(f"{facts['images_per_s']:.1f} images/s")
    if facts["eta_s"]:
        parts.append(f"about {duration(facts['eta_s'])} left")
    text = f"{stage_label(stage)}: {', '.join(parts)}"
    if facts["counted"] == stage["name"] and facts["reasons"]:
        text += f"; top refusals: {', '.join(f'{reason} {n:,}' for reason, n in list(facts['reasons'].items())[:3])}"
    return text


def counted(number: int, word: str) -> str:
    """Return a number with its word: `1 worker`, `2,000 workers`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: `40 s`, `12 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def clock_time(seconds: float) -> str:
    """Return a length of time as digits that stand still while they count: `0:42`, `1:02:03`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def panel(facts: Mapping[str, Any], now_s: float, title: str = "") -> Constrain:
    """Return the view of a run: its stages as bars, what became of the candidates, and why they were refused."""
    rows: list[Any] = [_stages(facts, now_s) if facts["stages"] else Text("starting", style="dim")]
    if facts["candidates"]:
        rows += [Text(), _outcome(facts)]
    if facts["reasons"]:
        rows += [Text(), _reasons(facts)]
    crew = f"{counted(facts['workers'], 'worker')}, " if facts["workers"] else ""
    framed = Panel(
        Group(*rows),
        title=Text(title or "facemint", style="bold", overflow="ellipsis", no_wrap=True),
        title_align="left",
        subtitle=Text(f"{crew}{clock_time(now_s - facts['started_s'])}"),
        subtitle_align="right",
        border_style="dim",
        padding=(0, 1),
    )
    return Constrain(framed, WIDTH)


def _grid(facts: Mapping[str, Any]) -> Table:
    """Return the columns that stages and reasons share, so that their bars begin and end together."""
    labels = [*(stage_label(s) for s in facts["stages"][-SHOWN_STAGES:]), *facts["reasons"]]
    numbers = [*(_units(s) for s in facts["stages"][-SHOWN_STAGES:]), *(f"{n:,}" for n in facts["reasons"].values())]
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, width=min(30, max(14, *(len(text) for text in labels))))
    grid.add_column(ratio=1, min_width=8)
    grid.add_column(no_wrap=True, justify="right", width=max(7, *(len(text) for text in numbers)))
    # as wide as its longest text, so that no column moves while a run goes on
    grid.add_column(no_wrap=True, width=17)
    return grid


def _stages(facts: Mapping[str, Any], now_s: float) -> Table:
    grid = _grid(facts)
    for stage in facts["stages"][-SHOWN_STAGES:]:
        over = stage["ended_s"] is not None
        share = stage["done"] / stage["total"] if stage["total"] else 1.0
        if over:
            note = Text(f"took {clock_time(stage['ended_s'] - stage['started_s'])}", style="dim")
        elif facts["eta_s"]:
            note = Text(f"{duration(facts['eta_s'])} left")
        else:
            note = Text(f"for {clock_time(now_s - stage['started_s'])}", style="dim")
        label = Text(stage_label(stage), style="" if over else "bold", overflow="ellipsis")
        grid.add_row(label, Bar(share, "green" if over else "cyan"), _units(stage), note)
    return grid


def _units(stage: Mapping[str, Any]) -> str:
    return f"{stage['done']:,}/{stage['total']:,}"


def _outcome(facts: Mapping[str, Any]) -> Text:
    made, accepted = facts["candidates"], facts["accepted"]
    what = "images" if facts["counted"] == "make" else "candidates"
    text = Text(no_wrap=True, overflow="ellipsis").append(f"{made:,}", style="bold").append(f" {what}   ")
    text.append(f"{accepted:,}", style="bold green").append(f" accepted ({_percent(accepted, made)})   ")
    text.append(f"{facts['refused']:,}", style="bold yellow").append(" refused")
    if facts["images_per_s"]:
        text.append("   ").append(f"{facts['images_per_s']:.1f}", style="bold").append(" images/s")
    return text


def _reasons(facts: Mapping[str, Any]) -> Table:
    grid, refused = _grid(facts), facts["refused"]
    for reason, number in facts["reasons"].items():
        share = Text(f"{100 * number / refused:.0f} % of refused", style="dim")
        grid.add_row(Text(reason, overflow="ellipsis"), Bar(number / refused, "yellow"), f"{number:,}", share)
    return grid


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


class Bar:
    """A bar of text as wide as its place: readable without colour, and plain where the terminal knows only ASCII."""

    def __init__(self, share: float, style: str) -> None:
        """Keep how full it is, from 0 to 1, and in which colour."""
        self._share, self._style = min(1.0, max(0.0, share)), style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if options.ascii_only:
            full = int(self._share * width)
            yield Text("#" * full, self._style, end="").append("-" * (width - full), "dim")
            return
        full, eighth = divmod(int(self._share * width * 8), 8)
        filled = "█" * full + (_EIGHTHS[eighth] if eighth else "")
        yield Text(filled, self._style, end="").append("░" * (width - len(filled)), "dim")
