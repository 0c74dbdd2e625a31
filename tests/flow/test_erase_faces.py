"""Whom a face comes near to, where the judge has no rates to tell how near that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import show_erase, wiring
from jobs.wiring.parts import build_parts
from pipeline.adapters.segments import Segments
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.calibration import Calibration
from pipeline.flow.erase.faces import match_face
from pipeline.flow.versions import image_rows, read_manifest
from tests.crawls import crawl, crawled, gather, picture


class Uncalibrated:
    """A recogniser of which nobody has measured how often two people look alike to it."""

    def __init__(self, recogniser: Any) -> None:
        """Read faces as another one does."""
        self._recogniser = recogniser
        self.calibration = Calibration(recogniser.space, "run `facemint calibrate`", {}, {})

    def __getattr__(self, name: str) -> Any:
        """Return what the other one has."""
        return getattr(self._recogniser, name)


def test_without_a_calibration_the_nearest_are_told_and_nobody_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cosines rank people all the same; rates and thresholds are none, and it is said how to go on."""
    store = MemoryStore()
    gather(crawled(crawl(tmp_path / "crawl", {f"p{n:02d}": range(2) for n in range(4)})), store)
    parts = build_parts(wiring.dataset_recipe(store), store, None, "erase")
    rows = image_rows(Segments(), store, read_manifest(store, "v000001"))
    face = picture(2, 7)
    known = match_face(parts, rows, face)
    found = match_face(replace(parts, judge=Uncalibrated(parts.judge)), rows, face)
    assert [(one.identity, one.cos) for one in found.nearest] == [(one.identity, one.cos) for one in known.nearest]
    assert known.confirmed
    assert found.confirmed == frozenset()
    assert {one.fmr for one in found.nearest} == {None}
    assert (found.threshold_cos, found.fpir, found.fmr_range, found.of) == (None, None, None, 4)
    facts = {"unfinished": None, "already": 0, "tombstones": [], "face": wiring.erasing._face_facts(found)}
    assert json.loads(json.dumps(facts))
    show_erase.print_dry(facts)
    said = " ".join(capsys.readouterr().out.split())
    assert "The judge is not calibrated: no face confirms anybody." in said
    assert "name who is meant with --identity" in said
