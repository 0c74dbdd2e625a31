"""Kill everywhere: SIGKILL around every store operation of `tiny`, resumed, and the dataset is the same."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import numpy as np
import pytest

from jobs import wiring
from jobs.examine import verify
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore, open_store
from pipeline.domain.ports import Store
from tests.end_to_end.killing import WRITES, Warmed, forget, survives
from tests.s3 import server

pytestmark = pytest.mark.slow
PARTS = 8
RECIPE = ["compute.executor=inline"]


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    """Return `tiny` with models that have been asked everything."""
    return Warmed(wiring.load_recipe("tiny", RECIPE), LocalStore(tmp_path_factory.mktemp("warm") / "tiny"))


def test_a_run_killed_around_any_operation_ends_in_the_same_dataset(warmed: Warmed, tmp_path: Path) -> None:
    """A seeded dozen of all points on local disk: writes and reads, before and after."""
    points = warmed.points()
    rng = np.random.default_rng(20261121)
    for n in rng.choice(len(points), 12, replace=False):
        out = tmp_path / f"point-{n}"
        assert survives(warmed, functools.partial(LocalStore, out), points[n]) == warmed.digest, points[n]
        assert not verify(LocalStore(out), Segments(), JpegCodec(), deep=True)["problems"]


def test_a_run_killed_while_it_streams_an_export_ends_in_the_same_dataset(warmed: Warmed, tmp_path: Path) -> None:
    """With half a shard on disk, and with a whole one that no manifest names yet; the half one is a leftover."""
    assert warmed.operations.count("writing") == 1
    for after in (False, True):
        out = tmp_path / f"after-{after}"
        assert survives(warmed, functools.partial(LocalStore, out), ("writing", after)) == warmed.digest
        assert not verify(LocalStore(out), Segments(), JpegCodec(), deep=True)["problems"]
        assert (len(LocalStore(out).leftovers(time.time() + 60)) == 1) != after


def on_s3(bucket: str, name: str) -> Store:
    """Return a store in a bucket; to be called in the child that uses it."""
    return open_store(f"s3://{bucket}/{name}")


def test_a_run_killed_on_s3_ends_in_the_same_dataset(warmed: Warmed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded few of all points on an S3 protocol server: a receipt, a segment, a manifest, whatever comes."""
    server.use(monkeypatch, server.running().url)
    bucket, points = server.running().bucket(), warmed.points()
    for n in np.random.default_rng(4).choice(len(points), 2, replace=False):
        assert survives(warmed, functools.partial(on_s3, bucket, f"set-{n}"), points[n]) == warmed.digest, points[n]


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_every_operation_of_tiny_on_s3(warmed: Warmed, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """The same on an S3 protocol server."""
    server.use(monkeypatch, server.running().url)
    bucket = server.running().bucket()
    points = [(n, after) for n, after in warmed.points() if not after or warmed.operations[n] in WRITES]
    assert len(points) >= 200
    for n, point in enumerate(points[part::PARTS]):
        assert survives(warmed, functools.partial(on_s3, bucket, f"set-{n}"), point) == warmed.digest, point


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_every_operation_of_tiny_on_local_disk(warmed: Warmed, tmp_path: Path, part: int) -> None:
    """Before and after every write, and before every read: at least 200 points, in parts that end in good time."""
    points = [(n, after) for n, after in warmed.points() if not after or warmed.operations[n] in WRITES]
    assert len(points) >= 200
    for n, point in enumerate(points[part::PARTS]):
        out = tmp_path / f"point-{n}"
        assert survives(warmed, functools.partial(LocalStore, out), point) == warmed.digest, point
        forget(out)
