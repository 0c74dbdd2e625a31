"""`facemint evaluate`: sources opened, overlap removed, a fixed recipe trained and verified, its figures recorded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.wiring.calibrating import described
from jobs.wiring.evaluation_parts import (
    EvaluationRequest,
    Reading,
    Say,
    open_test,
    reading_of,
    recipe_of,
    training_options,
)
from jobs.wiring.labelled import open_labelled
from pipeline.domain.errors import OutputError

if TYPE_CHECKING:
    from pipeline.adapters.trainers.training import TorchTrainer
    from pipeline.domain.face_tables import FaceTable
    from pipeline.flow.evaluating.evaluate import TestSet
    from pipeline.flow.evaluating.overlap import Embedded

__all__ = ["EvaluationRequest", "evaluate_dataset", "training_options"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    """What both datasets of a comparison share."""

    request: EvaluationRequest
    reading: Reading
    tests: tuple[TestSet, ...]
    tested: tuple[tuple[str, Embedded], ...]
    """Who is in each test set; empty where nobody looks for overlap."""
    trainer: TorchTrainer
    folder: Path
    say: Say


def evaluate_dataset(request: EvaluationRequest, say: Say = lambda *_: None) -> dict[str, Any]:
    """Return the record of an evaluation: `content`, equal for equal arguments on one device kind, and `run`.

    Raises:
        UserError: a source, recipe, recogniser or test set that cannot be used.
        OutputError: `work` cannot be written to.
        CalibrationError: the overlap rate is outside what the recogniser was calibrated for.
    """
    from pipeline.adapters.machine import single_thread

    single_thread()
    started_s = time.monotonic()
    reading = reading_of(request)
    with _folder(request.work) as folder:
        setting = _opened(request, reading, folder, say)
        mine = _evaluated(request.uri, setting)
        other = _evaluated(request.against, setting) if request.against else None
    content = _content(setting, mine, other)
    return {"content": content, "run": {"seconds": round(time.monotonic() - started_s, 1)}}


def _opened(request: EvaluationRequest, reading: Reading, folder: Path, say: Say) -> _Setting:
    from pipeline.adapters.trainers.training import TorchTrainer
    from pipeline.flow.evaluating.overlap import MOST_IMAGES, embedded

    kept = folder if request.work else None
    trainer = TorchTrainer(reading.options, device=request.device, loaders=request.loaders, checkpoints=kept)
    tests = tuple(open_test(name, reading, folder, request.pairs, say) for name in reading.tests)
    tested = []
    if reading.recogniser is not None:
        for test in tests:
            say(f"who is in {test.table.name}", 0, None, "")
            most = MOST_IMAGES if test.labelled else 1
            tested.append((test.table.name, embedded(test.table, reading.recogniser, reading.batch, most)))
    return _Setting(request, reading, tests, tuple(tested), trainer, folder, say)


def _content(setting: _Setting, mine: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    from importlib.metadata import version

    from pipeline.adapters.machine import device_kind
    from pipeline.flow.evaluating.figures import compared

    options = setting.reading.options
    return {
        "schema": SCHEMA,
        "facemint": version("facemint"),
        "device_kind": setting.trainer.device_kind() or device_kind(),
        "recipe": options.model_dump(mode="json"),
        "recipe_digest": options.digest,
        "seeds": list(setting.request.seeds),
        "cells": list(setting.reading.fields),
        **mine,
        "against": other,
        "gaps": compared(mine["tests"], other["tests"]) if other else None,
    }


def _evaluated(reference: str, setting: _Setting) -> dict[str, Any]:
    """Train on one dataset with every seed; return what is recorded of it."""
    from pipeline.adapters.trainers.spool import spool_faces
    from pipeline.flow.evaluating.evaluate import require_people, train_and_test
    from pipeline.flow.evaluating.figures import facts_of

    seeds, say, name = setting.request.seeds, setting.say, described(reference)
    source = open_labelled(reference, alignment=setting.reading.alignment)
    table = spool_faces(source, setting.folder, lambda count: say(f"reading {name}", count, None, ""))
    table = replace(table, name=name)
    require_people(table, frozenset())
    overlap, removed = _overlap(table, setting)
    results = []
    for number, seed in enumerate(seeds, start=1):
        doing = f"seed {number} of {len(seeds)}: training on {name}"

        def tell(done: int, total: int, loss: float, doing: str = doing) -> None:
            say(doing, done, total, f"loss {loss:.2f}")

        results.append(train_and_test(table, removed, setting.tests, setting.trainer, seed, tell))
    by_test = zip(setting.tests, zip(*results, strict=True), strict=True)
    tests = [facts_of(test, list(found)) for test, found in by_test]
    return {"dataset": _dataset_facts(reference, table), "overlap": overlap, "tests": tests}


def _overlap(table: FaceTable, setting: _Setting) -> tuple[dict[str, Any] | None, frozenset[int]]:
    """Return what is recorded of the overlap with the test sets, and who is left out of the training for it."""
    from pipeline.flow.evaluating.overlap import embedded, find_overlap

    recogniser, rule = setting.reading.recogniser, setting.request.overlap
    if recogniser is None or rule is None:
        return None, frozenset()
    setting.say(f"overlap of {table.name} with the test sets", 0, None, "")
    trained = embedded(table, recogniser, setting.reading.batch)
    found = find_overlap(trained, setting.tested, recogniser.calibration, rule)
    return found.facts, found.people if rule.remove else frozenset()


def _dataset_facts(reference: str, table: FaceTable) -> dict[str, Any]:
    """Return what is recorded of a training set; of a published one also version and digest."""
    facts: dict[str, Any] = {
        "name": table.name,
        "identities": len(table.label_names),
        "images": len(table),
        "faces_digest": table.digest,
    }
    if recipe_of(reference) is not None:
        from jobs.wiring.datasets import newest_manifest

        manifest = newest_manifest(reference)
        facts |= {"version": manifest.version, "digest": manifest.digest, "fingerprint": manifest.fingerprint}
    return facts


@contextmanager
def _folder(work: str | None) -> Iterator[Path]:
    """Give the folder for pictures and checkpoints: the one that was named, or one that goes away again."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="facemint-evaluate-") as made:
            yield Path(made)
        return
    folder = Path(work).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--work {work}: no folder can be made there ({error.strerror})") from None
    yield folder
