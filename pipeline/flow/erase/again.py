"""Images again: a lost tar is made from the rows beside it, which say which candidates were accepted.

Where somebody was erased a unit cannot be worked as it was: their template was part of what the others were measured
against. The rows hold those numbers, so only pixels are needed, and these follow from vectors and keys. What comes out
counts only where every byte of the tar is the one that its receipt names.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.domain.conditions import slot_conditions
from pipeline.domain.manifest import FileEntry, Receipt, segment_path, sha256_hex
from pipeline.domain.ports import Store
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.records import Candidate, Identity
from pipeline.domain.rng import Key, Stream
from pipeline.domain.twins import is_twin, number_of, parent_of
from pipeline.flow.aligning import aligned
from pipeline.flow.commit import stored_sha256
from pipeline.flow.cones import slot_vectors
from pipeline.flow.erase.rewrite import candidate_of
from pipeline.flow.judge import Templates
from pipeline.flow.make import generate_fixed
from pipeline.flow.parts import Parts
from pipeline.flow.twins import TwinMaker


def images_again(parts: Parts, receipt: Receipt, enrolled: Mapping[int, Identity]) -> Receipt | None:
    """Write what a make unit lacks of its tar; return its receipt, without previews that are lost.

    Args:
        parts: the ports, under the recipe that the unit was made under.
        receipt: of the unit.
        enrolled: everybody enrolled up to its generation, by ordinal.

    Returns:
        None where its rows are lost too, or other bytes come out: then nothing is written.
    """
    files = {f.path: f for f in receipt.files}
    if not _stands(parts, files[segment_path(receipt.name, "parquet")]):
        return None
    tar = files[segment_path(receipt.name, "tar")]
    if not _stands(parts, tar):
        rows = parts.segments.read_rows(parts.store, receipt.name)
        held = _Held()
        wholes = bool(receipt.counts.wholes)
        made = _candidates(parts, rows, enrolled, wholes=wholes)
        parts.segments.write_images(cast(Store, held), receipt.name, made, wholes=wholes)
        if sha256_hex(held.files[tar.path]) != tar.sha256:
            return None
        parts.guard()
        parts.store.put(tar.path, held.files[tar.path])
    shown = tuple(f for f in receipt.files if not f.path.startswith(PREVIEWS) or _stands(parts, f))
    return replace(receipt, files=shown)


class _Held:
    """Takes what a writer writes, so that nothing lands in the dataset before it is known to be right."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put_file(self, path: str, source: Path) -> None:
        self.files[path] = source.read_bytes()


def _stands(parts: Parts, entry: FileEntry) -> bool:
    return parts.store.size(entry.path) == entry.bytes and stored_sha256(parts.store, entry) == entry.sha256


def _candidates(
    parts: Parts, rows: Sequence[Mapping[str, Any]], enrolled: Mapping[int, Identity], *, wholes: bool
) -> list[Candidate]:
    """Return a unit's candidates, the accepted ones with their bytes, and with their whole pictures if wanted."""
    plain = [row for row in rows if row["accepted"] and not is_twin(row["key"])]
    images: dict[str, tuple[bytes, bytes | None]] = {}
    for start in range(0, len(plain), parts.generator_batch):
        block = plain[start : start + parts.generator_batch]
        images |= dict(zip([row["key"] for row in block], _made(parts, block, enrolled, wholes=wholes), strict=True))
    of = {row["key"]: candidate_of(row, *images.get(row["key"], (None, None))) for row in rows}
    maker = TwinMaker(parts, Templates([]))
    for key, twin in of.items():
        parent = parent_of(key)
        if parent is not None and twin.accepted:
            face, _ = maker.drawn(of[parent], number_of(key))
            of[key] = replace(twin, jpeg=parts.codec.encode(face))
    return list(of.values())


def _made(
    parts: Parts, rows: Sequence[Mapping[str, Any]], enrolled: Mapping[int, Identity], *, wholes: bool
) -> list[tuple[bytes, bytes | None]]:
    recipe = parts.recipe
    places = [(int(row["identity"]), int(row["slot"])) for row in rows]
    conditions = [
        slot_conditions(recipe.conditions, recipe.seed, Stream.SAMPLE_CONDITION, identity, slot)
        for identity, slot in places
    ]
    own = [enrolled[identity].vector_D for identity, _ in places]
    vectors = slot_vectors(own, conditions, recipe.seed, places)
    noise = [
        Key(recipe.seed, Stream.SAMPLE_NOISE, identity, slot, int(row["attempt"]))
        for (identity, slot), row in zip(places, rows, strict=True)
    ]
    pictures = generate_fixed(parts, np.asarray(vectors), conditions, noise)
    faces, _ = aligned(parts, pictures)
    encode = parts.codec.encode
    return [(encode(f), encode(p) if wholes else None) for f, p in zip(faces, pictures, strict=True)]
