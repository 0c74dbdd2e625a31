"""Folders of submissions on a file system: a folder per try holds the recipe, the log, and how it ended."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.submitting.ground import Say, Standing, State, outcome_of
from jobs.submitting.job import Job
from pipeline.domain.errors import OutputError

RECIPE, LOG, STATUS = "recipe.yaml", "log", "status"


def jobs_folder() -> Path:
    """Return where submissions are kept: `$FACEMINT_JOBS`, or `.facemint/jobs` in the home folder."""
    told = os.environ.get("FACEMINT_JOBS")
    return Path(told).absolute() if told else Path.home() / ".facemint" / "jobs"


def tries(folder: Path, job: Job) -> list[int]:
    """Return the numbers of the tries that have a folder, ascending."""
    found = (p.name.removeprefix(f"{job.name}-") for p in folder.glob(f"{job.name}-*"))
    return sorted(int(number) for number in found if number.isdecimal())


def begin(folder: Path, job: Job, number: int) -> Path | None:
    """Make the folder of a try with its recipe; None where it is there already.

    Raises:
        OutputError: it cannot be made.
    """
    place = folder / job.attempt(number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.mkdir()
    except FileExistsError:
        return None
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be made ({error.strerror}); set FACEMINT_JOBS to a folder that every node sees"
        ) from None
    (place / RECIPE).write_text(job.recipe_yaml(), encoding="utf-8")
    return place


def ended(place: Path, number: int) -> Standing | None:
    """Return how a try ended by the status that it wrote last; None where it wrote none."""
    try:
        text = (place / STATUS).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    outcome = outcome_of(int(text)) if text.lstrip("-").isdecimal() else outcome_of(None, f"{place / STATUS}: {text!r}")
    return Standing(place.name, number, State.ENDED, outcome)


class Tail:
    """What a log has gained since it was last looked at."""

    def __init__(self, path: Path) -> None:
        """Begin at the file's start."""
        self._path, self._at = path, 0

    def show(self, say: Say) -> None:
        """Say the whole lines that are new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        if whole:
            say(whole.decode("utf-8", errors="replace").rstrip("\n"))
