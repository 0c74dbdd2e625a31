"""A run that kills itself: one warmed process, forked once per point, SIGKILL before or after the n-th store operation.

The models are the real ones. They are pure functions, so the warmed process remembers what they gave, and a child that
asks the same gets the same at once: hundreds of runs then cost what one costs, and everything around the models is
the code that runs everywhere else.
"""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs import wiring
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe
from pipeline.domain.storage import Sink
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.run import generate
from pipeline.flow.parts import Parts
from pipeline.flow.quarantine import Quarantine
from pipeline.flow.worker import UnitWorker
from tests.worlds import Silent

VERBS = (
    "put_if_absent", "put", "put_file", "get", "get_range", "get_ranges", "get_many", "blocks", "size", "list",
    "entries", "delete",
)  # fmt: skip
WRITES = ("put_if_absent", "put", "put_file", "writing", "delete")


class Remembering:
    """A model whose answers are kept by what was asked."""

    def __init__(self, inner: Any) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self._answers: dict[bytes, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute; of the three that compute, one that remembers."""
        value = getattr(self._inner, name)
        if name not in ("generate", "embed", "measure"):
            return value

        def asked(*args: Any) -> Any:
            digest = hashlib.sha256()
            for arg in args:
                digest.update(arg.tobytes() if isinstance(arg, np.ndarray) else repr(arg).encode())
            key = digest.digest()
            if key not in self._answers:
                self._answers[key] = value(*args)
            return self._answers[key]

        return asked


class KillingStore:
    """A store that kills its process before or after its n-th operation, and counts the others.

    What the heartbeat does passes by uncounted: how often it beats is a matter of how fast the machine is, and the n-th
    operation shall be the same one everywhere.
    """

    def __init__(self, inner: Store, kill_at: int | str | None, *, after: bool = False) -> None:
        """Wrap `inner`; `kill_at` counts from 0, or is a verb, whose first operation it means; None counts only."""
        self._inner, self._kill_at, self._after = inner, kill_at, after
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Return the inner one's attribute, a verb with the counting around it."""
        value = getattr(self._inner, name)
        if name not in VERBS or threading.current_thread().name == "heartbeat":
            return value

        @functools.wraps(value)
        def counted(*args: Any, **more: Any) -> Any:
            mine = self._kill_at in (len(self.seen), name)
            self.seen.append(name)
            if mine and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return value(*args, **more)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    @contextmanager
    def writing(self, path: str, *, about_bytes: int = 0) -> Iterator[_DeadlySink]:
        """Stream into the inner store; killed before it is done, some bytes are on their way."""
        mine = self._kill_at in (len(self.seen), "writing")
        self.seen.append("writing")
        with self._inner.writing(path, about_bytes=about_bytes) as sink:
            yield _DeadlySink(sink, dies=mine and not self._after)
            if mine and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)


class _DeadlySink:
    """A sink that kills its process once it has taken something."""

    def __init__(self, inner: Sink, *, dies: bool) -> None:
        self._inner, self._dies = inner, dies

    def write(self, data: bytes) -> None:
        """Append all of `data`, and die of it."""
        self._inner.write(data)
        if self._dies:
            os.kill(os.getpid(), signal.SIGKILL)


class Warmed:
    """A recipe with models that remember, run once already."""

    def __init__(self, recipe: Recipe, store: Store) -> None:
        """Mint the recipe on `store`, so that every model has been asked everything."""
        self.recipe = recipe
        self._models: dict[str, Any] = {}
        counting = KillingStore(store, None)
        self.digest = self.run(counting)
        self.operations = counting.seen

    def run(self, store: Any) -> str:
        """Mint on a store in this process; return the dataset digest."""
        session = wiring.session_on(self.recipe, store, Silent())
        parts = self._warm(session.parts)
        executor = InlineExecutor(
            functools.partial(UnitWorker, parts), stop=session.stop, quarantine=Quarantine(store, parts.clock)
        )
        return generate(replace(session, parts=parts, executor=executor)).manifest.digest

    def points(self) -> list[tuple[int, bool]]:
        """Return every (operation, after it?) of the undisturbed run."""
        return [(n, after) for n in range(len(self.operations)) for after in (False, True)]

    def _warm(self, parts: Parts) -> Parts:
        if not self._models:
            self._models = {
                "generator": Remembering(parts.generator),
                "judge": Remembering(parts.judge),
                "auditor": Remembering(parts.auditor),
                "measurers": tuple(Remembering(m) for m in parts.measurers),
            }
        return replace(parts, **self._models)


def in_child(work: Callable[[], str]) -> tuple[int, str]:
    """Run `work` in a forked child, which a signal ends after some minutes; return its status and what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(240)
        try:
            os.write(writing, work().encode())
            status = 0
        except BaseException:  # noqa: BLE001 - a child must never return into the test runner
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return status, said


def survives(warmed: Warmed, open_store: Callable[[], Store], point: tuple[int | str, bool]) -> str:
    """Kill a run at a point, run it again, and return the digest that the dataset ends with.

    Raises:
        AssertionError: the child was not killed, or the run that resumed failed.
    """
    operation, after = point
    status, _ = in_child(lambda: warmed.run(KillingStore(open_store(), operation, after=after)))
    assert os.WIFSIGNALED(status), f"point {point}: not killed, status {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    status, digest = in_child(lambda: warmed.run(open_store()))
    assert status == 0, f"point {point}: the run that resumed ended with status {status}"
    return digest


def forget(path: Path) -> None:
    """Remove a local dataset."""
    for file in sorted(path.rglob("*"), reverse=True):
        with suppress(OSError):
            file.rmdir() if file.is_dir() else file.unlink()
