"""Whole runs on Ray: the bytes of inline with any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.execute.run import generate
from tests.worlds import Silent, bytes_of, mint, sketches

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
NOISY = {"generator": {"use": "sketch", "noise": 2.0}, "attempts": 3}


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_ray_workers_gives_the_bytes_of_inline(tmp_path: Path, workers: int) -> None:
    """Segments, index, documents and exports on Ray equal those of the inline executor byte for byte."""
    inline = MemoryStore()
    mint(sketches(**NOISY), inline)
    store = LocalStore(tmp_path / "out")
    recipe = sketches(**NOISY, compute={"executor": "ray", "workers": workers})
    generate(wiring.session_on(recipe, store, Silent()))
    assert bytes_of(store) == bytes_of(inline)
