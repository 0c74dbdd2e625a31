"""Every shipped recipe of a published generator, rehearsed: weights by formula, and a dataset that verify passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import recipe_file, wiring
from pipeline.adapters.codec import JpegCodec
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.manifest import Manifest
from pipeline.flow.verify import verify
from tests.worlds import bytes_of, mint

GENERATORS = ("vec2face_10k", "arc2face_10k", "ip_adapter_faceid_1k")
"""A recipe of each published generator."""
SMALLEST = ("identities.count=2", "identities.images_per_identity=2", "enrol.probes=1")


def published() -> list[str]:
    """Return the shipped recipes whose generator takes weights."""
    names = [name.removesuffix(".yaml") for name in recipe_file.shipped_recipes()]
    raws = {name: recipe_file.read_recipe(recipe_file.find(name)) for name in names}
    return [name for name, raw in raws.items() if '"uri"' in json.dumps(raw.get("generator"), default=str)]


def rehearse(name: str, *overrides: str) -> tuple[MemoryStore, Manifest]:
    """Return the dataset that a recipe's rehearsal leaves."""
    store = MemoryStore()
    return store, mint(wiring.load_recipe(name, overrides, rehearse=True), store).manifest


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_a_rehearsal_ends_in_a_dataset_that_stands_verification(name: str) -> None:
    """From sampling to report every part of a published generator's recipe runs, without its weights."""
    store, manifest = rehearse(name, *SMALLEST)
    assert (manifest.counts["identities"], manifest.counts["images"]) == (2, 4)
    assert manifest.figures["rehearsal"] is True
    assert manifest.models["judge"]["sha256"] != manifest.models["auditor"]["sha256"]
    assert store.size("versions/v000001/report.html")
    checked = verify(store, Segments(), JpegCodec(), deep=True, decode=True)
    assert checked.problems == ()
    place = next(p for p in store.list("segments/make-") if p.endswith(".tar"))
    assert store.get(place).count(b"\xff\xd8\xff") == 4


def test_every_published_generator_is_rehearsed() -> None:
    """A recipe that is shipped for a published generator is among those that the tests rehearse."""
    left = set(published()) - set(GENERATORS)
    assert left == {"hsface_like_300k"}  # the generator of vec2face_10k, and rehearsed by the soak run


@pytest.mark.soak
@pytest.mark.parametrize("name", [*GENERATORS, "hsface_like_300k"])
def test_whole_rehearsals_leave_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    """Twelve identities of four images, through the command line, twice: equal datasets that `verify` passes."""
    first, _ = rehearse(name)
    out = tmp_path / "again"
    command = [sys.executable, "-m", "jobs.cli"]
    made = subprocess.run(
        [*command, "generate", name, "--rehearse", "--out", str(out), "--json"], capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr.decode()
    assert json.loads(made.stdout)["counts"]["images"] == 48
    for path, data in bytes_of(first).items():
        assert (out / path).read_bytes() == data, path
    assert subprocess.run([*command, "verify", "--deep", str(out)], capture_output=True, check=False).returncode == 0
