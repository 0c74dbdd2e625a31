"""The recipe `tiny` on the phantom world: real diffusion, recognition and filters, and one digest however it is run."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import LocalStore
from pipeline.execute.run import generate
from pipeline.flow.versions import read_manifest
from tests.end_to_end.commands import PATIENCE_s, end, receipts_in, start, wait_for
from tests.worlds import Silent, bytes_of

pytestmark = pytest.mark.slow


def command(out: Path, *more: str) -> list[str]:
    """Return the command line that mints `tiny` inline."""
    return [sys.executable, "-m", "jobs.cli", "generate", "tiny", "--out", str(out), "--executor", "inline", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Return a store with `tiny`, minted inline in this process."""
    store = LocalStore(tmp_path_factory.mktemp("tiny") / "inline")
    generate(wiring.session_on(wiring.load_recipe("tiny", ["compute.executor=inline"]), store, Silent()))
    return store


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ray_with_any_number_of_workers_gives_the_same_dataset(
    finished: LocalStore, tmp_path: Path, workers: int
) -> None:
    """One, two and three Ray workers leave the bytes that the inline run left."""
    store = LocalStore(tmp_path / "ray")
    generate(wiring.session_on(wiring.load_recipe("tiny", [f"compute.workers={workers}"]), store, Silent()))
    assert bytes_of(store) == bytes_of(finished)


def test_a_run_killed_by_sigkill_resumes_to_the_same_dataset(finished: LocalStore, tmp_path: Path) -> None:
    """A process killed while it makes images, and the command run again, leave the bytes of an undisturbed run."""
    out = tmp_path / "killed"
    process = start(command(out))
    wait_for(lambda: receipts_in(out, "make-") >= 1, process)
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    committed = {p.name: p.stat().st_mtime_ns for p in out.glob("receipts/*.json")}
    assert not list(out.glob("versions/*/manifest.json"))
    again = subprocess.run(command(out, "--json"), capture_output=True, text=True, timeout=PATIENCE_s, check=False)
    assert again.returncode == 0, again.stderr
    assert bytes_of(LocalStore(out)) == bytes_of(finished)
    assert json.loads(again.stdout)["digest"] == read_manifest(finished, "v000001").digest
    for name, written in committed.items():
        assert (out / "receipts" / name).stat().st_mtime_ns == written, "a committed unit was worked again"


def test_an_interrupt_ends_with_130_and_lets_the_dataset_go(tmp_path: Path) -> None:
    """Ctrl-C ends in one line and status 130, and the lease is released at once."""
    out = tmp_path / "interrupted"
    process = start(command(out))
    wait_for(lambda: receipts_in(out) >= 1, process)
    process.send_signal(signal.SIGINT)
    status, errors = end(process)
    assert status == 130
    assert "Traceback" not in errors
    assert "stopped by SIGINT; run the same command again to resume" in errors
    lease = json.loads(max(out.glob("runs/lease-*.json")).read_text())
    assert lease["expires_s"] == 0


def test_candidates_are_conserved_and_images_belong_to_their_labels(finished: LocalStore) -> None:
    """From the parquet files alone: accepted plus refused by reason is everything; indexed images decode and match."""
    manifest = read_manifest(finished, "v000001")
    index = next(f.path for f in manifest.files if "/index-" in f.path)
    rows = {}
    for path in finished.list("segments/make"):
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(finished.get(path))).to_pylist()
            refused = Counter(r["reasons"][0] for r in table if not r["accepted"])
            assert sum(r["accepted"] for r in table) + sum(refused.values()) == len(table)
            rows |= {r["key"]: r for r in table}
    assert len(rows) == manifest.counts["make"]["candidates"]
    listed = Segments().read_index(finished, index)
    assert Counter(r.label for r in listed) == Counter(dict.fromkeys(range(12), 4))
    for entry in listed:
        data = finished.get_range(f"segments/{entry.segment}.tar", entry.offset, entry.length)
        assert JpegCodec().decode(data).shape == (112, 112, 3)
        assert rows[entry.key]["accepted"]
        assert rows[entry.key]["identity"] == entry.identity


def test_balance_is_exact_and_errors_are_adjusted_for(finished: LocalStore) -> None:
    """Two of each of the six cells, and a share adjusted for the reader's confusion beside each raw one."""
    balance = read_manifest(finished, "v000001").figures["balance"]
    assert [c["reached"] for c in balance["cells"]] == [2] * 6
    assert balance["exact"]
    assert sum(c["adjusted_share"] for c in balance["cells"]) == pytest.approx(1)
