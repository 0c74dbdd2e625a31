"""A Ray cluster that stands, as a ground: through Ray's Jobs SDK. With `on_ray.py` the only file that imports Ray.

The cluster has to run Ray's dashboard (`pip install 'facemint[cluster]'` there); this side needs Ray alone. A token is
sent where Ray's own settings have one: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from jobs.submitting.ground import Outcome, Say, Standing, State, outcome_of
from jobs.submitting.job import Job
from jobs.submitting.manifests import DRAIN_S
from pipeline.domain.errors import StoreError, UserError

LOOK_S = 0.5
RECIPE = "recipe.yaml"
STATES = {"PENDING": State.WAITING, "RUNNING": State.RUNNING}


class RayJobsGround:
    """Implements `ground.Ground` by jobs of a Ray cluster.

    Args:
        address: of its dashboard, as `http://head:8265`; None for the one that Ray's own settings name.
    """

    def __init__(self, address: str | None) -> None:
        """Keep where to; the connection is made when it is first needed."""
        self._address = address
        self._client: Any = None

    def rendered(self, job: Job, number: int) -> str:
        """Return the submission as the SDK is told it."""
        asked = {**_submission(job, number), "working_dir_holds": {RECIPE: dict(job.recipe)}}
        return yaml.safe_dump({"address": self._address, **asked}, sort_keys=False, width=120)

    def standing(self, job: Job) -> Standing | None:
        """Return the last try, by the cluster's jobs of this name."""
        known: list[tuple[int, Any]] = []
        for found in self._asked(lambda: self._connected().list_jobs()):
            front, _, number = (found.submission_id or "").rpartition("-")
            if front == job.name and number.isdecimal():
                known.append((int(number), found))
        return _standing(*max(known, key=lambda pair: pair[0])) if known else None

    def submit(self, job: Job, number: int) -> bool:
        """Send the recipe and the entrypoint; Ray refuses an id that it has already."""
        asked = _submission(job, number)
        with tempfile.TemporaryDirectory(prefix="facemint-") as folder:
            Path(folder, RECIPE).write_text(job.recipe_yaml(), encoding="utf-8")
            asked["runtime_env"]["working_dir"] = folder
            try:
                self._connected().submit_job(**asked)
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise UserError(f"Ray refused the job: {_gist(error)}") from None
            except ConnectionError as error:
                raise self._lost(error) from None
        return True

    def follow(self, job: Job, standing: Standing, say: Say) -> Outcome:
        """Show the driver's log until the job ends."""
        lines = _Lines(say)
        while (now := self._look(standing)).outcome is None:
            if now.state is State.RUNNING:
                # the stream ends with the job, or with the connection: then what is shown is not shown again
                with contextlib.suppress(Exception):
                    asyncio.run(self._tail(standing.name, lines))
            time.sleep(LOOK_S)
        with contextlib.suppress(RuntimeError, ConnectionError):
            lines.whole(self._connected().get_job_logs(standing.name))
        assert now.outcome is not None
        return now.outcome

    def cancel(self, job: Job, standing: Standing) -> Outcome:
        """Have Ray send SIGTERM to the driver, which drains; return when it has ended."""
        self._asked(lambda: self._connected().stop_job(standing.name))
        while (now := self._look(standing)).outcome is None:
            time.sleep(LOOK_S)
        return now.outcome

    async def _tail(self, name: str, lines: _Lines) -> None:
        lines.again()
        async for text in self._connected().tail_job_logs(name):
            lines.take(text)

    def _look(self, standing: Standing) -> Standing:
        return _standing(standing.number, self._asked(lambda: self._connected().get_job_info(standing.name)))

    def _connected(self) -> Any:
        if self._client is None:
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            for talkative in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
                logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)
            try:
                self._client = JobSubmissionClient(self._address)
            except AuthenticationError as error:
                raise UserError(
                    f"--address {self._address or '(none)'}: the Ray cluster refused the token ({_gist(error)}); set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its own"
                ) from None
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"--address {self._address or '(none)'}: no Ray cluster with a dashboard answers there "
                    f"({_gist(error)}); give http://HEAD:8265, and start its head with ray[default] installed"
                ) from None
        return self._client

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (ConnectionError, RuntimeError) as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._address or 'the Ray cluster'}: does not answer any more ({_gist(error)}); the job goes on if its "
            "cluster does: run the command again to follow it"
        )


class _Lines:
    """What of a log has been said: a stream that is begun again begins at the log's start."""

    def __init__(self, say: Say) -> None:
        self._say, self._said, self._text = say, 0, ""

    def again(self) -> None:
        self._text = ""

    def take(self, text: str) -> None:
        self._text += text
        self._show(self._text.rfind("\n") + 1)

    def whole(self, text: str) -> None:
        self._text = text
        self._show(len(text))

    def _show(self, end: int) -> None:
        if end > self._said:
            self._say(self._text[self._said : end].rstrip("\n"))
            self._said = end


def _submission(job: Job, number: int) -> dict[str, Any]:
    models = {"FACEMINT_MODELS": job.compute.model_cache} if job.compute.model_cache else {}
    return {
        "submission_id": job.attempt(number),
        "entrypoint": job.entrypoint(RECIPE, address="auto"),
        # Ray kills three seconds after it asked; a drain takes longer
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_S), **models}},
        "metadata": {"facemint_out": job.out, "facemint_submission": job.name},
    }


def _standing(number: int, found: Any) -> Standing:
    """Return how far a job is by what Ray says of it."""
    status = str(getattr(found.status, "value", found.status))
    if status in STATES:
        return Standing(found.submission_id, number, STATES[status])
    code, message = found.driver_exit_code, (found.message or "").strip()
    if status == "STOPPED":
        outcome = outcome_of(143, "stopped in Ray")
    elif status == "SUCCEEDED":
        outcome = outcome_of(0)
    else:
        outcome = outcome_of(code, message.splitlines()[-1][:300] if message else "")
    return Standing(found.submission_id, number, State.ENDED, outcome)


def _gist(error: Exception) -> str:
    """Return the first line of an error that says something, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
