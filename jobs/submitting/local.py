"""This machine as a ground: a process of its own that outlives the terminal it was started from."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

from jobs.submitting import folders
from jobs.submitting.ground import Outcome, Say, Standing, State
from jobs.submitting.job import Job

LOOK_S = 0.2
RUN, SHELL = "pid", "shell"
"""Files with the numbers of the two processes of a try."""
DRAIN_S = 60.0
"""After so long without an end a process that was asked to end is killed; nothing but units in hand is lost."""

_SCRIPT = """\
trap '' INT HUP
echo $$ > {shell}.new && mv {shell}.new {shell}
cd {here}
{command} > {log} 2>&1 < /dev/null &
pid=$!
echo $pid > {pid}.new && mv {pid}.new {pid}
wait $pid
status=$?
echo $status > {status}.new && mv {status}.new {status}
"""
"""The shell outlives the run in order to write down how it ended; signals go to the run itself."""


class LocalGround:
    """Implements `ground.Ground` by processes of this machine."""

    def __init__(self, folder: Path) -> None:
        """Keep where submissions are written down."""
        self._folder = folder

    def rendered(self, job: Job, number: int) -> str:
        """Return the script of a try."""
        return self._script(job, self._folder / job.attempt(number))

    def standing(self, job: Job) -> Standing | None:
        """Return the last try, by its folder and its process."""
        numbers = folders.tries(self._folder, job)
        return self._standing(job, numbers[-1]) if numbers else None

    def _standing(self, job: Job, number: int) -> Standing:
        place = self._folder / job.attempt(number)
        # looked at before the status file, which the shell writes last: it may end between the two
        lives = _lives(_number(place / SHELL), place)
        if over := folders.ended(place, number):
            return over
        if lives or time.time() - place.stat().st_mtime < 10:
            return Standing(place.name, number, State.RUNNING)
        return Standing(place.name, number, State.ENDED, Outcome(1, "its process is gone and wrote no status"))

    def submit(self, job: Job, number: int) -> bool:
        """Start the process."""
        place = folders.begin(self._folder, job, number)
        if place is None:
            return False
        # a shell that leaves the process behind: it is nobody's child, and ends with nobody
        words = ["/bin/sh", "-c", '/bin/sh -c "$0" &', self._script(job, place)]
        quiet = subprocess.DEVNULL
        subprocess.run(  # noqa: S603 - our own command, quoted
            words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, check=True
        )
        return True

    def follow(self, job: Job, standing: Standing, say: Say) -> Outcome:
        """Show the log until the process ends."""
        place = self._folder / standing.name
        tail = folders.Tail(place / folders.LOG)
        while True:
            now = self._standing(job, standing.number)
            tail.show(say)
            if now.outcome is not None:
                return now.outcome
            time.sleep(LOOK_S)

    def cancel(self, job: Job, standing: Standing) -> Outcome:
        """Send SIGTERM, which drains; kill what does not end."""
        place = self._folder / standing.name
        deadline_s, asked = time.monotonic() + DRAIN_S, False
        while (now := self._standing(job, standing.number)).outcome is None:
            # its process may not have begun yet, or be another's by now
            if _lives(pid := _number(place / RUN), place) and pid is not None:
                if not asked:
                    os.kill(pid, signal.SIGTERM)
                    asked = True
                elif time.monotonic() > deadline_s:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S)
        return now.outcome

    def _script(self, job: Job, place: Path) -> str:
        quoted = {name: shlex.quote(str(place / name)) for name in (folders.LOG, folders.STATUS, RUN, SHELL)}
        command = shlex.join(job.words(str(place / folders.RECIPE)))
        return _SCRIPT.format(command=command, here=shlex.quote(str(Path.cwd())), **quoted)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def _lives(pid: int | None, place: Path) -> bool:
    """Return whether that process runs, and is ours: numbers of processes are given out again."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
        return str(place / folders.RECIPE).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        # no such folder on this system: its word on the number is all there is
        return not Path("/proc").exists()
    except (ProcessLookupError, PermissionError):
        return False
