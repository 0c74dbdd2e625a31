"""`facemint submit`: a run is handed to other machines, or to this one, and followed."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.arguments import (
    AddressOption,
    JsonOption,
    OutOption,
    RecipeArgument,
    SetOption,
    WorkersOption,
    compute_overrides,
    print_json,
)
from jobs.busy import IfBusy
from pipeline.domain.errors import UserError

if TYPE_CHECKING:
    from jobs.submit import Submitted
    from jobs.submitting.ground import Ground
    from jobs.submitting.job import Job


class On(StrEnum):
    """Whose machines."""

    RAY = "ray"
    KUBERAY = "kuberay"
    SLURM = "slurm"
    LOCAL = "local"


class Through(StrEnum):
    """Which kind of schedule Kubernetes keeps."""

    RAYCRONJOB = "raycronjob"
    CRONJOB = "cronjob"


def submit(
    recipe: RecipeArgument,
    out: OutOption,
    on: Annotated[On, typer.Option("--on", help="Where it runs.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- WORDS]", help="Further words of facemint generate, after two dashes."),
    ] = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be handed over, and end.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the submission: what is in hand is finished first.")
    ] = False,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="CRON", help="With kuberay: run it at these times, as '0 2 * * *'."),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", metavar="NAME", help="Of the schedule, as Europe/Zurich.")
    ] = None,
    through: Annotated[
        Through,
        typer.Option(
            "--through", help="A plain CronJob, which never runs twice at once, or KubeRay's alpha RayCronJob."
        ),
    ] = Through.CRONJOB,
    program: Annotated[
        str | None, typer.Option("--program", metavar="WORDS", help="What runs facemint there; default: facemint.")
    ] = None,
    if_busy: Annotated[
        IfBusy | None,
        typer.Option("--if-busy", help="As of facemint generate; default: wait, and ok where there is a --schedule."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Hand a run to a Ray cluster, Kubernetes, Slurm or this machine, and follow it to its end.

    The recipe's `compute` says on how much. The same command again follows the submission that is at work, and resumes
    one that ended. The exit status is that of the run.
    """
    from jobs import submit as submitting
    from jobs import wiring

    # an address is where to submit to, and no part of what is submitted
    steps = wiring.grown(set_ or [], out)
    loaded = wiring.load_recipe(recipe, [*steps, *compute_overrides(None, workers, None)], unfetched=True)
    runs = shlex.split(program) if program else [sys.executable, "-m", "jobs.cli"] if on is On.LOCAL else ["facemint"]
    place = out if "://" in out else str(Path(out).absolute())
    busy = if_busy or (IfBusy.OK if schedule is not None else IfBusy.WAIT)
    job = wiring.job_of(loaded, place, arguments or (), runs, if_busy=busy.value, schedule=schedule is not None)
    if schedule is not None:
        _schedule(on, job, schedule, time_zone, through.value, dry_run=dry_run, gone=cancel)
        return
    ground = _ground(on, address or (loaded.compute.address if on is On.RAY else None))
    if dry_run:
        standing = ground.standing(job) if on in (On.SLURM, On.LOCAL) else None
        typer.echo(ground.rendered(job, standing.number + 1 if standing else 1), nl=False)
        return

    def say(text: str) -> None:
        typer.echo(text, err=True)

    if cancel:
        ended = submitting.cancel(ground, job, say)
        _show_cancelled(job, ended, json_=json_)
        return
    done = submitting.submit(ground, job, say, wait=not detach)
    _show(done, json_=json_)
    if done.outcome is not None and done.outcome.status:
        raise typer.Exit(done.outcome.status)


def _ground(on: On, address: str | None) -> Ground:
    if on is On.RAY:
        from jobs.submitting.ray_jobs import RayJobsGround

        return RayJobsGround(address)
    if address is not None:
        raise UserError(f"--address: got {address} with --on {on.value}, which makes its own cluster; leave it out")
    if on is On.KUBERAY:
        from jobs.submitting.kuberay import KuberayGround

        return KuberayGround()
    from jobs.submitting.folders import jobs_folder

    if on is On.SLURM:
        from jobs.submitting.slurm import SlurmGround

        return SlurmGround(jobs_folder())
    from jobs.submitting.local import LocalGround

    return LocalGround(jobs_folder())


def _schedule(on: On, job: Job, when: str, time_zone: str | None, through: str, *, dry_run: bool, gone: bool) -> None:
    from jobs.submitting import kuberay

    if on is not On.KUBERAY:
        raise UserError(
            f"--schedule: got it with --on {on.value}; Kubernetes keeps schedules, elsewhere cron or Slurm's scrontab "
            f"does: let it run this command with --if-busy ok"
        )
    if gone:
        typer.echo(kuberay.unschedule(job))
        return
    rendered = kuberay.schedule(job, when, time_zone, through)
    typer.echo(rendered if dry_run else kuberay.apply(job, rendered), nl=not dry_run)


def _show(done: Submitted, *, json_: bool) -> None:
    outcome = done.outcome
    if json_:
        ended = {"status": outcome.status, "told": outcome.told} if outcome else None
        print_json({"submission": done.name, "joined": done.joined, "outcome": ended})
    else:
        typer.echo(f"{done.name}: {outcome or 'not waited for'}")


def _show_cancelled(job: Job, ended: Submitted | None, *, json_: bool) -> None:
    if json_:
        status = ended.outcome.status if ended and ended.outcome else None
        print_json({"submission": ended.name if ended else job.name, "cancelled": ended is not None, "status": status})
    elif ended is None:
        typer.echo(f"{job.name}: nothing is at work under this name")
    else:
        typer.echo(f"{ended.name}: {ended.outcome}")
