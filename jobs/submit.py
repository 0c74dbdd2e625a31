"""Submitting: the same submission is handed over once, followed by whoever asks again, and ended with a drain."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.submitting.ground import Ground, Outcome, Say, Standing, State
from jobs.submitting.job import Job


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission."""

    name: str
    """Its id with the number of the try."""
    joined: bool
    """Whether it was there already."""
    outcome: Outcome | None
    """How it ended; None where nobody waited for that."""


def submit(ground: Ground, job: Job, say: Say, *, wait: bool) -> Submitted:
    """Hand a job over unless it is at work already, and follow it to its end where asked to.

    A try that ended is followed by the next: running it again resumes, and makes nothing that is there.
    """
    standing = ground.standing(job)
    joined = standing is not None and standing.state is not State.ENDED
    if not joined:
        number = standing.number + 1 if standing else 1
        joined = not ground.submit(job, number)
        standing = Standing(job.attempt(number), number, State.WAITING)
    assert standing is not None
    say(f"{standing.name}: {'submitted before, and at work' if joined else 'submitted'}")
    return Submitted(standing.name, joined, ground.follow(job, standing, say) if wait else None)


def cancel(ground: Ground, job: Job, say: Say) -> Submitted | None:
    """End a submission with a drain; None where none is at work."""
    standing = ground.standing(job)
    if standing is None or standing.state is State.ENDED:
        return None
    say(f"{standing.name}: asked to end; what is in hand is finished first")
    return Submitted(standing.name, True, ground.cancel(job, standing))
