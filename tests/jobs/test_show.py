"""The progress view: what a person sees while a run lasts."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from jobs.show import View


def view_on(*, terminal: bool) -> tuple[View, Progress, io.StringIO]:
    """Return a view that draws into memory."""
    out = io.StringIO()
    progress = Progress(console=Console(file=out, force_terminal=terminal, width=120), auto_refresh=False)
    return View(progress.console, progress), progress, out


def test_a_stage_that_is_over_has_a_full_bar() -> None:
    """Publishing has no units, so its bar is filled when the next stage begins, and the last one at the end."""
    view, progress, _ = view_on(terminal=True)
    view.event("stage", name="publish", total=1, done=0)
    assert not progress.finished
    view.event("stage", name="export webdataset", total=1, done=0)
    assert [task.finished for task in progress.tasks] == [True, False]
    view.finish()
    assert progress.finished


def test_without_a_terminal_each_stage_is_one_line() -> None:
    """A log holds a line per stage, which says what was committed before."""
    view, _, out = view_on(terminal=False)
    view.event("stage", name="make", round=1, total=10, done=4)
    assert out.getvalue() == "Making images, round 2: 10 units (4 of 10 units were committed before)\n"
