"""Who of a training set is too near to somebody of the test sets, so that a test would not be of strangers.

Overlap between training and test people inflates figures (Wu et al. 2024, *Goldilocks*, arXiv:2405.15965). Everybody
tested is held against the templates of everybody trained on, one against many, so the threshold is a 1:N one:
a false positive identification rate by the recogniser's calibration, never a pairwise threshold.

Legend: P people or pictures tested, M templates trained on, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.domain.calibration import Calibration, images_of
from pipeline.domain.cosines import NumpyProduct, exact_cosines
from pipeline.domain.errors import CalibrationError
from pipeline.domain.face_tables import FaceTable
from pipeline.domain.ports import Recogniser
from pipeline.domain.records import Float32, template_of
from pipeline.flow.parts import embed_each

MOST_IMAGES = 4
"""Pictures of an identity that its template pools here, at most."""
USUAL_FPIR = 0.01


@dataclass(frozen=True, slots=True)
class OverlapRule:
    """How near is too near.

    Attributes:
        fpir: share of searches for a stranger that may find somebody; turned into a cosine by the calibration. None
            takes `USUAL_FPIR`, or the lowest rate above it that the calibration holds.
        cos: a cosine that is taken instead; None where the rate decides.
        remove: whether those found are left out of the training; False only reports them.
    """

    fpir: float | None = None
    cos: float | None = None
    remove: bool = True


@dataclass(frozen=True, slots=True)
class Overlap:
    """What was found.

    Attributes:
        people: places in the training set's `label_names` of those who are too near to somebody tested.
        facts: the same for the record: counts, thresholds, what chance alone would find.
    """

    people: frozenset[int]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The first pictures of everybody in a table, as a recogniser embeds them.

    Attributes:
        emb_NE: float32 unit rows; all zeros where an embedding came out NaN, infinite or without length.
        rows: per person, by place in `label_names`, the rows that are sound; none for who has no sound embedding.
    """

    emb_NE: Float32
    rows: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        """Return how many pictures at least half of these people have here."""
        counts = sorted((len(mine) for mine in self.rows if mine), reverse=True)
        return counts[(len(counts) - 1) // 2] if counts else 0

    def templates(self, images: int) -> tuple[Float32, tuple[int, ...]]:
        """Return one unit row per person, pooled from at most so many pictures, and who each is."""
        found, owners = [], []
        for owner, mine in enumerate(self.rows):
            emb = self.emb_NE[list(mine[:images])]
            # opposite embeddings have no mean; nobody is so near to a stranger, either
            if mine and np.linalg.norm(emb.astype(np.float64).sum(axis=0)) > 1e-6:
                found.append(template_of(emb))
                owners.append(owner)
        rows_ME = np.stack(found) if found else np.zeros((0, self.emb_NE.shape[1]), np.float32)
        return rows_ME, tuple(owners)


def embedded(table: FaceTable, recogniser: Recogniser, batch: int, most: int = MOST_IMAGES) -> Embedded:
    """Return the embeddings of the first pictures, at most so many, of everybody in a table."""
    wanted = table.first_rows(most)
    rows = sorted(row for listed in wanted for row in listed)
    place = {row: at for at, row in enumerate(rows)}
    blocks = [embed_each(recogniser, faces, batch) for faces in table.faces_of(rows)]
    emb, sound = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Embedded(emb, tuple(tuple(place[r] for r in listed if sound[place[r]]) for listed in wanted))


def find_overlap(
    trained: Embedded, tested: Sequence[tuple[str, Embedded]], calibration: Calibration, rule: OverlapRule
) -> Overlap:
    """Return everybody trained on who is at or above the threshold with anybody tested.

    Args:
        trained: the training set.
        tested: per test set its name and its pictures (each a person of its own where nobody says who is on them).
        calibration: the recogniser's.
        rule: how near is too near.

    Raises:
        CalibrationError: the rate is outside what the calibration holds for so many images and people.
    """
    near: set[int] = set()
    sets = []
    for name, people in tested:
        level = _level(trained, people, calibration, rule)
        probes_PE, searched = people.templates(level.probe_images)
        templates_ME, owners = trained.templates(level.reference_images)
        probes, found = _at_least(probes_PE, templates_ME, level.cos)
        mine = {owners[row] for row in found.tolist()}
        near |= mine
        sets.append({
            "test": name,
            "searched": len(searched),
            "found": len(mine),
            "searches_that_found": len(set(probes.tolist())),
            "searches_by_chance": None if level.fpir is None else level.fpir * len(searched),
            "cos": level.cos,
            "fpir": level.fpir,
            "comparison": level.kind,
            "calibrated_n": level.calibrated_n,
        })  # fmt: skip
    facts = {
        "recogniser": calibration.space.name,
        "identities": len(trained.rows),
        "too_near": len(near),
        "removed": len(near) if rule.remove else 0,
        "tests": sets,
    }
    return Overlap(frozenset(near), facts)


class _Level(NamedTuple):
    """A threshold, images that probes and references pool, and by which calibrated comparison and N it is one."""

    cos: float
    fpir: float | None
    probe_images: int
    reference_images: int
    kind: str | None = None
    calibrated_n: int | None = None


def _level(trained: Embedded, tested: Embedded, calibration: Calibration, rule: OverlapRule) -> _Level:
    """Return the threshold of the comparison that holds the lowest rate, and of such the one of most images."""
    if rule.cos is not None:
        return _Level(rule.cos, None, MOST_IMAGES, MOST_IMAGES)
    people = len(trained.rows)
    fitting = []
    for kind, blocks in calibration.one_to_many.items():
        probe, reference = images_of(kind)
        if blocks and probe <= tested.images and reference <= trained.images:
            block = next((b for b in blocks if b.n >= people), blocks[-1])
            lowest = max(USUAL_FPIR, round(1 - block.quantile[-1], 6))
            fitting.append((rule.fpir or lowest, -probe * reference, kind))
    why = (
        f"{calibration.space.name!r} has no 1:N figures for {tested.images} against {trained.images} images; it has "
        f"{', '.join(sorted(calibration.one_to_many)) or 'none'}"
    )
    for fpir, _, kind in sorted(fitting):
        try:
            cos, calibrated = calibration.one_to_many_cos(fpir, people, kind)
        except CalibrationError as error:
            why = str(error)
            continue
        return _Level(cos, fpir, *images_of(kind), kind, calibrated)
    raise CalibrationError(f"overlap: {why}; choose another rate (--overlap-fpir), or give a cosine (--overlap-cos)")


def _at_least(probes_PE: Float32, templates_ME: Float32, cos: float) -> tuple[Any, Any]:
    """Return rows of probes and templates whose exact cosine reaches the threshold."""
    product = NumpyProduct()
    probes, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    step_p, step_m = product.block
    for at in range(0, len(probes_PE), step_p):
        for first in range(0, len(templates_ME), step_m):
            a, b = probes_PE[at : at + step_p], templates_ME[first : first + step_m]
            rows, columns = product.contenders(a, b, cos)
            passed = exact_cosines(a, rows, b, columns) >= cos
            probes.append(at + rows[passed])
            found.append(first + columns[passed])
    return np.concatenate(probes), np.concatenate(found)
