"""Faces on their way to an identity, as columns: millions fit into memory, as embeddings stay in their files.

Legend: N faces of a generation, M provisional identities, P published ones.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.curation import Cleaning
from pipeline.domain.records import Cell
from pipeline.domain.review import Decisions
from pipeline.flow.curating.clean import GROUP, Limits
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.people import Between, Provisional, Standing
from pipeline.flow.curating.rows import cleaned_path
from pipeline.flow.parts import Parts

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier generations left: who is published, their pictures' hashes, next slots and the first free ordinal.

    Attributes:
        standing: who is published.
        images: ordinal -> how many published images.
        slots: ordinal -> first slot that was never given.
        hashes: ordinal -> (sha256, hash) of every face that it was ever given.
        cells: ordinal -> cell.
        first_ordinal: that nobody has.
        ranks: cell -> first free rank.
    """

    standing: Standing = field(default_factory=Standing)
    images: Mapping[int, int] = field(default_factory=dict)
    slots: Mapping[int, int] = field(default_factory=dict)
    hashes: Mapping[int, Sequence[tuple[str, int]]] = field(default_factory=dict)
    cells: Mapping[int, Cell] = field(default_factory=dict)
    first_ordinal: int = 0
    ranks: Mapping[Cell, int] = field(default_factory=dict)


@dataclass(slots=True)
class Faces:
    """Faces with an embedding, in the order of buckets and groups; the rest of what is known lies in their files."""

    row: Int64
    face: Int64
    bucket: Int64
    group: Int64
    part: Int64
    """Row of its provisional identity, -1 of a stray."""
    person: Int64
    """Row of its provisional identity's root, M + place of a published one, or -1."""
    own_cos: npt.NDArray[np.float64]
    reason: list[str]
    found: list[str]
    value: npt.NDArray[np.float64]
    threshold: npt.NDArray[np.float64]
    sha256: list[str]
    hash: npt.NDArray[np.uint64]
    mirrored: npt.NDArray[np.uint64]
    size_px: npt.NDArray[np.float64]
    owner: list[str]
    moved: npt.NDArray[np.bool_]

    def refuse(
        self, who: Int64, reason: str, value: float = np.nan, threshold: float = np.nan, found: str = ""
    ) -> None:
        """Take faces away from whomever they were given to."""
        for n in who.tolist():
            self.reason[n], self.found[n] = reason, found
        self.value[who], self.threshold[who] = value, threshold
        self.person[who] = -1


@dataclass(frozen=True)
class Case:
    """What a generation is decided on.

    Attributes:
        parts: the ports.
        kit: what curating needs beside them.
        clean: the recipe's section.
        limits: its thresholds.
        people: the provisional identities.
        found: who is whom between labels.
        before: what earlier generations left.
        units: names of the generation's clean units, by bucket.
        decisions: what people decided about single faces and pairs.
    """

    parts: Parts
    kit: Kit
    clean: Cleaning
    limits: Limits
    people: Provisional
    found: Between
    before: Before
    units: Sequence[str]
    decisions: Decisions = field(default_factory=Decisions)

    @property
    def new(self) -> int:
        """Return M, how many provisional identities there are: rows of persons from there on are published ones."""
        return len(self.people.owners)

    @functools.cached_property
    def names(self) -> Mapping[int, tuple[int, int]]:
        """Return row of a provisional identity -> its bucket and its number there."""
        return {row: place for place, row in self.people.place.items()}


def read_faces(case: Case) -> Faces:
    """Return the faces that clean units of a generation left, each given to the person that its cluster is now of."""
    people, found, before = case.people, case.found, case.before
    names = [
        "row",
        "owner",
        "face",
        "provisional",
        "own_cos",
        "reason",
        "found",
        "value",
        "threshold",
        "sha256",
        "hash",
        "mirrored",
    ]
    place = {ordinal: n for n, ordinal in enumerate(before.standing.ordinals)}
    count = case.new
    columns: dict[str, list[Any]] = defaultdict(list)
    for bucket, unit in enumerate(case.units):
        held = case.kit.grouped.read(case.parts.store, cleaned_path(unit), [*names, "measures"])
        for n in range(len(held["row"])):
            provisional = int(held["provisional"][n])
            columns["bucket"].append(bucket)
            columns["group"].append(provisional // GROUP if provisional >= 0 else -1)
            reason, person, one = held["reason"][n], -1, -1
            if provisional >= 0:
                one = people.place[bucket, provisional]
                reason = found.reason_M[one]
                joined = int(found.joins_M[one])
                person = -1 if reason else (count + place[joined] if joined >= 0 else int(found.root_M[one]))
                columns["value"].append(float(found.cos_M[one]) if reason else np.nan)
                columns["threshold"].append(np.nan)
            else:
                columns["value"].append(held["value"][n])
                columns["threshold"].append(held["threshold"][n])
            columns["part"].append(one)
            columns["person"].append(person)
            columns["reason"].append(reason)
            columns["size"].append(held["measures"][n].get("inter_eye_px", 0.0))
            for name in ("row", "face", "own_cos", "found", "sha256", "hash", "mirrored", "owner"):
                columns[name].append(held[name][n])
    return Faces(
        row=np.array(columns["row"], np.int64),
        face=np.array(columns["face"], np.int64),
        bucket=np.array(columns["bucket"], np.int64),
        group=np.array(columns["group"], np.int64),
        part=np.array(columns["part"], np.int64),
        person=np.array(columns["person"], np.int64),
        own_cos=np.array(columns["own_cos"], np.float64),
        reason=columns["reason"],
        found=columns["found"],
        value=np.array(columns["value"], np.float64),
        threshold=np.array(columns["threshold"], np.float64),
        sha256=columns["sha256"],
        hash=np.array(columns["hash"], np.int64).view(np.uint64),
        mirrored=np.array(columns["mirrored"], np.int64).view(np.uint64),
        size_px=np.array(columns["size"], np.float64),
        owner=columns["owner"],
        moved=np.zeros(len(columns["row"]), bool),
    )
