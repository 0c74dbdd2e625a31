"""Planted leaks: people of a gallery are minted on purpose, and screening has to find them and nobody else.

Two forms. *Generated*: candidates' vectors are those of gallery people, as a generator that remembers them would be
fed. *Pictured*: other pictures of gallery people stand where minted ones would. Both go through the code of every run:
galleries and control are prepared, candidates are probed and refused by enrolment's own units.

Legend: N candidates, K images of one, E embedding dimensions, D conditioning dimensions.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from jobs import wiring
from jobs.wiring.labelled import open_labelled
from pipeline.adapters.phantom.recognisers import PhantomRecogniser, PhantomRecogniserOptions
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.leakage import JUDGE, REASON, measure_name
from pipeline.domain.recipe import Recipe, parse_recipe
from pipeline.domain.records import Cell, Float32, UInt8, template_of, unit_rows
from pipeline.domain.unit import Proposal, Stage, Unit
from pipeline.execute.galleries import prepare
from pipeline.execute.session import Session
from pipeline.flow.enrol import enrol_unit
from pipeline.flow.leakage import SIDES
from pipeline.flow.parts import embed_fixed
from tests.worlds import Silent, sketches

ABOUT = {"licence": "made up", "lawful_basis": "nobody of it is a person"}
FALSE_ALARMS = (0.001, 0.003, 0.01, 0.03, 0.1)


class Planting:
    """Implements `ports.IdentitySampler`: the first candidates are those planted, the others another sampler's."""

    def __init__(self, inner: Any, vectors_ND: Sequence[Float32]) -> None:
        """Keep whom to plant."""
        self._inner, self._vectors = inner, vectors_ND
        self.space, self.card, self.candidates = inner.space, inner.card, inner.candidates

    def draw(self, candidate: int, cell: Cell, rng: np.random.Generator) -> Float32:
        """Return a planted vector while there are any."""
        if candidate < len(self._vectors):
            return self._vectors[candidate]
        drawn: Float32 = self._inner.draw(candidate, cell, rng)
        return drawn


@dataclass(frozen=True)
class Found:
    """What screening said of candidates, the planted first."""

    flagged_N: np.ndarray
    score_N: np.ndarray
    """How far the comparison that comes furthest lies beyond its threshold, in cosine."""
    planted: int

    @property
    def rates(self) -> tuple[float, float]:
        """Return the shares of planted and of clean candidates that are flagged."""
        return float(self.flagged_N[: self.planted].mean()), float(self.flagged_N[self.planted :].mean())

    def roc(self) -> list[tuple[float, float]]:
        """Return (share of clean flagged, share of planted found) at each of FALSE_ALARMS."""
        planted, clean = self.score_N[: self.planted], self.score_N[self.planted :]
        return [(f, float((planted > np.quantile(clean, 1 - f)).mean())) for f in FALSE_ALARMS]


def opened(recipe: Recipe) -> Session:
    """Return a session with its galleries prepared."""
    session = wiring.session_on(recipe, MemoryStore(), Silent())
    prepare(session)
    return session


def generated(session: Session, vectors: Sequence[Float32], candidates: int, images: int) -> Found:
    """Enrol so many candidates, the first of them planted, and return what enrolment decided."""
    sampler = Planting(session.parts.sampler, vectors)
    parts = replace(session.parts, sampler=sampler)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, candidates, 50)):
        proposals = tuple(Proposal(n, "all") for n in range(start, min(start + 50, candidates)))
        unit = Unit(Stage.ENROL, 0, number, 0, proposals=proposals)
        enrol_unit(unit, parts)
        rows += parts.segments.read_rows(parts.store, unit.name)
    numbers = [r["measures"] for r in rows]
    return Found(np.array([REASON in r["reasons"] for r in rows]), _scores(session, numbers, images), len(vectors))


def pictured(session: Session, planted: Sequence[UInt8], clean: Sequence[UInt8], images: int) -> Found:
    """Screen templates of pictures (K, H, W, 3) of gallery people and of others."""
    parts, screen = session.parts, session.parts.screen
    assert screen is not None
    faces = [*planted, *clean]
    emb = embed_fixed(parts.judge, np.concatenate(faces), parts.judge_batch).reshape(len(faces), images, -1)
    numbers = screen.numbers({JUDGE: np.stack([template_of(e) for e in emb])})
    flagged = np.array([screen.leaks(n, images) for n in numbers])
    return Found(flagged, _scores(session, numbers, images), len(planted))


def _scores(session: Session, numbers: Sequence[dict[str, float]], images: int) -> np.ndarray:
    screen = session.parts.screen
    assert screen is not None
    limits = screen.limits(JUDGE, images)
    return np.array([max(n[measure_name(s, JUDGE)] - float(limits[s].cos or 0) for s in SIDES) for n in numbers])


def people(source: str, alignment: str) -> list[UInt8]:
    """Return the pictures (K, H, W, 3) of each person of a source."""
    faces = open_labelled(source, alignment=alignment)
    return [np.stack([f.face_HWC for f in mine]) for _, mine in groupby(faces, key=lambda f: f.label)]


def table(title: str, found: Found) -> str:
    """Return a ROC as lines of text."""
    hit, false = found.rates
    lines = [f"{title}: {100 * hit:.1f} % of planted found, {100 * false:.2f} % of clean flagged"]
    lines += [f"  clean flagged {100 * f:5.1f} %   planted found {100 * h:5.1f} %" for f, h in found.roc()]
    return "\n".join(lines) + "\n"


def read_back(faces_KHWC: UInt8) -> Float32:
    """Return the vector that a sketch spells: its patches, as the sketch generator shades them."""
    grey = faces_KHWC.astype(np.float64).mean(axis=(0, 3)).reshape(4, 8, 4, 8).mean(axis=(1, 3))
    return unit_rows((grey.reshape(1, -1) - 128.0) / 90.0, "sketch")[0]


def test_planted_sketches_are_found_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 30 gallery people among 150 candidates at least 95 % are found, with at most 3 % of the others flagged.

    The control supports 1 % a comparison; at 1 % by hindsight as many are found.
    """
    at = "sketch://faces?seed=5&"
    section = {
        "galleries": [{"name": "people", "source": f"{at}identities=60&images=6", **ABOUT}],
        "control": f"{at}first=100&identities=1000&images=3",
    }
    session = opened(sketches(leakage=section, balance={}))
    held = people(f"{at}identities=30&images=9", "sketch-32")
    found = {
        "generated": generated(session, [read_back(f[:6]) for f in held], 150, 3),
        "pictured": pictured(
            session, [f[6:9] for f in held], people(f"{at}first=5000&identities=120&images=3", "sketch-32"), 3
        ),
    }
    for form, what in found.items():
        with capsys.disabled():
            sys.stdout.write(table(f"\nsketches, {form}", what))
        hit, false = what.rates
        assert hit >= 0.95
        assert false <= 0.03
    session.lease.release()


GALLERY, CONTROL, CANDIDATES, PLANTED, STRANGERS = 1000, 3600, 1000, 100, 300


@pytest.mark.soak
@pytest.mark.parametrize(
    ("judge", "auditor", "images", "least_pictured", "least_generated"),
    [("phantom-judge", "phantom-auditor", 4, 0.95, 0.2), ("phantom-auditor", "phantom-judge", 4, 0.95, 0.2)],
)
def test_a_hundred_phantoms_of_a_gallery_of_a_thousand(
    capsys: pytest.CaptureFixture[str],
    judge: str,
    auditor: str,
    images: int,
    least_pictured: float,
    least_generated: float,
) -> None:
    """Of 100 people pictured at least 95 are found with at most 1 % of others flagged, as shipped and roles swapped.

    Of people generated the share found by hindsight, at 1 % of clean candidates, is what the generator keeps of them.
    """
    # rendering a gallery takes minutes: more than a test may take before it is taken for hung
    faulthandler.dump_traceback_later(3600, exit=True, file=sys.__stderr__)
    at = "phantom://renders?seed=41&"
    section = {
        "galleries": [{"name": "people", "source": f"{at}identities={GALLERY}&images=8", **ABOUT}],
        "control": f"{at}first={GALLERY}&identities={CONTROL}&images={images}",
    }
    raw = wiring.load_recipe("tiny").model_dump(mode="json")
    raw |= {"leakage": section, "balance": {}, "enrol": {**raw["enrol"], "probes": images}}
    raw |= {"judge": {"use": judge, "batch": 8}, "auditor": {"use": auditor, "batch": 8}}
    raw |= {"compute": {"executor": "inline"}}
    session = opened(parse_recipe(wiring.full_model(), raw, "tiny"))
    held = people(f"{at}identities={PLANTED}&images={8 + images}", "phantom-112")
    teller = PhantomRecogniser(PhantomRecogniserOptions(use="phantom-conditioning"))
    vectors = [template_of(embed_fixed(teller, f[:8], 8)) for f in held]
    clean = people(f"{at}first=9000&identities={STRANGERS}&images={images}", "phantom-112")
    shown = pictured(session, [f[8:] for f in held], clean, images)
    minted = generated(session, vectors, CANDIDATES, images)
    session.lease.release()
    with capsys.disabled():
        for form, found in (("pictured", shown), ("generated", minted)):
            sys.stdout.write(table(f"\n{judge}, {images} images, {form}", found))
    assert shown.rates[0] >= least_pictured
    assert shown.rates[1] <= 0.01
    assert minted.rates[1] <= 0.01
    assert dict(minted.roc())[0.01] >= least_generated
