"""Erasing from a bucket: nothing of it is left there, and what a bucket with versioning keeps is named."""

from __future__ import annotations

import pytest

from jobs import wiring
from pipeline.adapters.stores import MemoryStore
from pipeline.flow.erase.plan import Wanted
from pipeline.flow.versions import read_manifest
from tests.flow.erasing import found, rows_of, traces
from tests.flow.test_growth import asked
from tests.s3 import server
from tests.s3.stores import store_at
from tests.worlds import Silent, copy_of, filled, mint, problems

VERSIONED = (
    b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status>'
    b"</VersioningConfiguration>"
)


@pytest.mark.slow
def test_a_bucket_is_left_without_it_and_kept_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old bytes are deleted as anywhere; with versioning every deleted object's version is named, and nothing else."""
    server.use(monkeypatch, server.running().url)
    bucket, whole = server.running().bucket(), MemoryStore()
    mint(asked(2, 2, exports=[]), whole)
    store = store_at(f"s3://{bucket}/set")
    assert server.running().ask("PUT", f"/{bucket}?versioning", VERSIONED)[0] == 200
    filled(store, whole)
    who = rows_of(whole)[0].identity
    sought = traces(whole, [who])
    assert store.deleted_versions() == []

    done = wiring.erase_on(store, wiring.dataset_recipe(store), Wanted(identities=(who,)), Silent())

    here = copy_of(store)
    assert found(here, sought) == []
    assert problems(here) == []
    assert read_manifest(here, "v000002").tombstones.identities == (who,)
    gone = {p for p in whole.list("") if here.size(p) is None}
    assert {line.partition(" (version ")[0] for line in done.versions_kept} == gone
    assert any(p.startswith("segments/make-") for p in gone)
