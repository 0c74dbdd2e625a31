"""What a person sees while a run lasts, and reads at the end of a verb."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from jobs import live, show
from jobs.live import View, clock_time, duration, sentence, stage_label
from pipeline.domain.manifest import Counts, Receipt
from tests.recipes import sketch_recipe


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Start at some time."""
        self.time_s = 1e9

    def now_s(self) -> float:
        """Return the time set."""
        return self.time_s


def console_of(width: int = 80, **options: Any) -> Console:
    """Return a console that draws into memory as on a terminal."""
    return Console(file=io.StringIO(), width=width, force_terminal=True, **options)


def drawn(console: Console) -> str:
    """Return what a console drew."""
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def receipt(stage: str, candidates: int = 100, **refused: int) -> Receipt:
    """Return the receipt of a unit that took a minute."""
    counts = Counts(candidates, candidates - sum(refused.values()), sum(refused.values()), refused)
    return Receipt({"stage": stage}, "x", "f", "p", counts, (), {"start_s": 0.0, "end_s": 60.0})


def in_the_middle(view: View, clock: Clock) -> None:
    """Let a run come to the middle of its first round of making."""
    view.event("workers", number=2)
    view.event("stage", name="enrol", round=0, generation=0, total=12, done=3)
    for _ in range(9):
        clock.time_s += 20
        view.event("unit", receipt=receipt("enrol", probes_inconsistent=8))
    view.event("enrolled", have={"a": 9, "b": 4}, wanted={"a": 8, "b": 8}, refused={})
    view.event("stage", name="make", round=0, generation=0, total=120, done=0)
    for _ in range(37):
        clock.time_s += 4
        view.event("unit", receipt=receipt("make", own_template_too_far=6, yaw_missed=3))


def test_the_panel_shows_stages_outcome_reasons_and_time() -> None:
    """At 80 columns without colour everything that a person asks for is readable, and no line is longer."""
    clock, console = Clock(), console_of(color_system=None)
    view = View(console, clock=clock, title="demo -> out/demo")
    console.print(view.panel())
    assert "starting" in drawn(console)
    in_the_middle(view, clock)
    console.print(view.panel())
    text = drawn(console)
    for part in ("demo -> out/demo", "enrol round 1", "12/12", "took 3:00", "make round 1", "37/120", "42 min left",
                 "3,700 images", "3,367 accepted (91.0 %)", "333 refused", "25.0 images/s", "own_template_too_far",
                 "222", "67 % of refused", "2 workers, 5:28"):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text
    assert {len(line) for line in text.splitlines()} == {80}


def test_no_column_of_the_panel_moves_while_a_run_goes_on() -> None:
    """Bars begin and end at the same places from one refresh to the next."""
    clock, console = Clock(), console_of(color_system=None)
    view = View(console, clock=clock)
    in_the_middle(view, clock)
    edges = set()
    for _ in range(40):
        clock.time_s += 37
        view.event("unit", receipt=receipt("make", own_template_too_far=7))
        frame = io.StringIO()
        Console(file=frame, width=80, force_terminal=True, color_system=None).print(view.panel())
        row = next(line for line in frame.getvalue().splitlines() if "make round 1" in line)
        edges.add((re.search("[█░▏▎▍▌▋▊▉]", row).start(), row.rindex("/"), len(row)))  # type: ignore[union-attr]
    assert len(edges) == 1


def test_a_terminal_that_knows_only_ascii_gets_ascii() -> None:
    """Bars and frame fall back to plain characters."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console, clock = Console(file=file, width=80, force_terminal=True, color_system=None), Clock()
    view = View(console, clock=clock)
    in_the_middle(view, clock)
    console.print(view.panel())
    file.flush()
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "####" in text


def test_a_narrow_or_long_run_stays_in_its_frame() -> None:
    """Many rounds, long reasons and 60 columns: the newest stages are shown, and no line overflows."""
    clock, console = Clock(), console_of(60, color_system=None)
    view = View(console, clock=clock, title="x" * 200)
    for number in range(30):
        view.event("stage", name="make", round=number, generation=4, total=100_000, done=0)
        view.event("unit", receipt=receipt("make", **{"a_reason_that_never_ends_" * 3: 5}))
    console.print(view.panel())
    lines = drawn(console).splitlines()
    assert {len(line) for line in lines} == {60}
    assert "make g4 round 30" in drawn(console)
    assert len(lines) < 20


def lines_of(view: View) -> list[str]:
    """Return the lines that a view said, without their times."""
    said = drawn(view.console).splitlines()
    assert all(re.match(r"\d\d:\d\d ", line) for line in said)
    return [line[6:] for line in said]


def test_without_a_terminal_each_stage_is_a_line_and_each_minute_another() -> None:
    """A log tells how far, how fast, how long, and why images are refused."""
    clock = Clock()
    view = View(Console(file=io.StringIO(), width=80), clock=clock, lines=True)
    view.say()
    in_the_middle(view, clock)
    view.say()
    view.event("round", number=0, filled=36, failed={1: "unfilled"})
    view.event("stage", name="publish", total=1, done=0)
    refusals = "top refusals: own_template_too_far 222, yaw_missed 111"
    assert lines_of(view) == [
        "starting",
        "enrol round 1: 12 units (3 committed before)",
        "enrolled so far (cell have/wanted): a 9/8, b 4/8",
        "make round 1: 120 units",
        f"make round 1: 37/120 units, 3,700 images, 91 % accepted, 25.0 images/s, about 42 min left; {refusals}",
        "round 1 is over: 36 identities full, 1 given up",
        "publish",
    ]


def test_lines_come_by_themselves_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of five minutes does not leave a log silent."""
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.01)
    console = Console(file=io.StringIO(), width=80)
    with show.observer(quiet=False, console=console) as view:
        view.event("stage", name="audit", total=3, done=0)
        end = time.monotonic() + 60
        while drawn(console).count("audit: 0/3 units") < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    said = drawn(console)
    time.sleep(0.05)
    assert drawn(console) == said


def test_a_quiet_view_says_nothing_and_still_counts() -> None:
    """With --json nothing is drawn."""
    console = Console(file=io.StringIO())
    with show.observer(quiet=True, console=console) as view:
        in_the_middle(view, Clock())
    assert drawn(console) == ""
    assert view.progress.to_dict()["candidates"] == 3700


def test_the_last_frame_stays_and_an_empty_one_does_not() -> None:
    """After a run its stages remain above the tables; where nothing was worked there is nothing to leave."""
    console = console_of(color_system=None)
    with show.observer(quiet=False, console=console) as view:
        in_the_middle(view, Clock())
    assert re.search(r"make round 1 .* took", drawn(console).rpartition("enrol round 1")[2])
    empty = console_of(color_system=None)
    with show.observer(quiet=False, console=empty):
        pass
    assert "\x1b[2K" in drawn(empty)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor is treated as a log."""
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show.observer(quiet=False, console=console) as view:
        view.event("stage", name="audit", total=3, done=0)
    assert lines_of(view) == ["audit: 3 units"]


@pytest.mark.parametrize(
    ("seconds", "words", "digits"),
    [(0, "1 s", "0:00"), (42, "42 s", "0:42"), (89, "89 s", "1:29"), (720, "12 min", "12:00"),
     (7800, "2 h 10 min", "2:10:00"), (7200, "2 h", "2:00:00"), (400_000, "4 d 15 h", "111:06:40")],
)  # fmt: skip
def test_lengths_of_time_read_as_a_person_says_them(seconds: float, words: str, digits: str) -> None:
    """Rough where it is a guess, exact where it is measured."""
    assert (duration(seconds), clock_time(seconds)) == (words, digits)


def test_rounds_and_generations_are_counted_as_people_do() -> None:
    """The first round is 1; the first generation needs no mention."""
    assert stage_label({"name": "make", "round": 0, "generation": 0}) == "make round 1"
    assert stage_label({"name": "make", "round": 1, "generation": 3}) == "make g3 round 2"
    assert stage_label({"name": "export webdataset"}) == "export webdataset"


def test_a_heartbeat_reads_as_the_live_view_does() -> None:
    """`status` shows on another machine what the log of the run says."""
    clock = Clock()
    view = View(Console(file=io.StringIO()), clock=clock)
    in_the_middle(view, clock)
    assert sentence(view.progress.to_dict()).startswith("make round 1: 37/120 units, 3,700 images, 91 % accepted")


def test_a_run_in_a_real_terminal_draws_its_panel(tmp_path: Path) -> None:
    """In a pseudo-terminal of 80 columns the panel is drawn, the cursor comes back, and the tables follow."""
    recipe = tmp_path / "sketches.yaml"
    recipe.write_text(yaml.safe_dump(sketch_recipe()))
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "jobs.cli", "generate", str(recipe), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment) as run:
        os.close(follower)
        seen = bytearray()
        while True:
            try:
                block = os.read(leader, 65536)
            except OSError:
                break  # the terminal's other end is closed
            if not block:
                break
            seen += block
        assert run.wait(120) == 0
    os.close(leader)
    text = seen.decode()
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for part in ("make round 1", "accepted", "audit", "publish", "export webdataset", "What became of every candidate"):
        assert part in plain
