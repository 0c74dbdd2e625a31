"""Submissions: what decides the id of one, and which ground takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.submitting.job import Job, submission_name
from jobs.wiring.parts import prints_of
from pipeline.domain.errors import FacemintError

if TYPE_CHECKING:
    from pipeline.domain.recipe import Recipe


def job_of(
    recipe: Recipe, out: str, arguments: Sequence[str], program: Sequence[str], *, if_busy: str, schedule: bool
) -> Job:
    """Return a run of a recipe as a job.

    Its id follows from dataset, fingerprint, plan digest, newest version and arguments; that of a schedule from dataset
    and recipe name alone, so that a changed recipe changes the schedule that is there.
    """
    if schedule:
        identity: dict[str, Any] = {"out": out, "schedule": recipe.name}
    else:
        prints = prints_of(recipe)
        identity = {
            "out": out,
            "fingerprint": prints.fingerprint,
            "plan": prints.plan_digest,
            "version": newest_version(out),
            "arguments": list(arguments),
        }
    return Job(
        name=submission_name(recipe.name, **identity),
        recipe=recipe.model_dump(mode="json"),
        out=out,
        compute=recipe.compute,
        arguments=tuple(arguments),
        if_busy=if_busy,
        program=tuple(program),
    )


def newest_version(out: str) -> str | None:
    """Return the newest published version; None where there is none, or this machine may not read the dataset."""
    from pipeline.adapters.stores import open_store
    from pipeline.flow.versions import versions

    try:
        there = versions(open_store(out, writable=False))
    except FacemintError:
        return None
    return there[-1] if there else None
