"""One picture stands once: copies under several labels, within people put together from several, and of published ones.

Copies within one label are out already; here only hashes are compared, as embeddings stay in their files.
"""

from __future__ import annotations

import numpy as np

from pipeline.domain.curation import Duplicates
from pipeline.domain.hashes import hamming
from pipeline.flow.curating.clean import COPY, NEAR_COPY
from pipeline.flow.curating.faces import Before, Faces

ELSEWHERE = "same_picture_elsewhere"


def no_picture_twice(faces: Faces, asked: Duplicates, before: Before, new: int) -> None:
    """Let one picture stand once: of copies under several labels the one that is nearest to its template.

    `new` is how many provisional identities there are: persons from there on are published ones.
    """
    held = {(sha, hash_) for of in before.hashes.values() for sha, hash_ in of}
    shas, hashes = {s for s, _ in held}, {h for _, h in held}
    by_hash = asked.bits is not None
    best: dict[object, int] = {}
    order = np.lexsort((faces.face, faces.row, -np.nan_to_num(faces.own_cos, nan=-1.0)))
    for n in order[faces.person[order] >= 0].tolist():
        bytes_key, hash_key = (faces.sha256[n], int(faces.face[n])), int(faces.hash[n])
        if faces.sha256[n] in shas or (by_hash and hash_key in hashes):
            faces.refuse(np.array([n]), COPY if faces.sha256[n] in shas else NEAR_COPY, found="of a published image")
            continue
        twin = best.get(bytes_key, best.get(hash_key) if by_hash else None)
        if twin is None:
            best[bytes_key] = best[hash_key] = n
            continue
        reason = COPY if faces.person[twin] == faces.person[n] else ELSEWHERE
        faces.refuse(
            np.array([n]), reason, float(faces.own_cos[n]), float(faces.own_cos[twin]), f"row {faces.row[twin]}"
        )
    if by_hash and asked.bits is not None:
        _near_copies_of_published(faces, asked.bits, before, new)
        _near_copies_of_joined(faces, asked.bits)


def _near_copies_of_published(faces: Faces, bits: int, before: Before, new: int) -> None:
    """Refuse near copies of what a published person has: another quality of it, another size, or mirrored."""
    hashes = {p: np.array([h for _, h in before.hashes.get(p, ())], np.uint64) for p in before.standing.ordinals}
    for n in np.flatnonzero(faces.person >= new).tolist():
        held = hashes[before.standing.ordinals[int(faces.person[n]) - new]]
        near = np.minimum(hamming(faces.hash[n], held), hamming(faces.mirrored[n], held))
        if near.size and near.min() <= bits:
            faces.refuse(np.array([n]), NEAR_COPY, float(near.min()), float(bits), "of a published image")


def _near_copies_of_joined(faces: Faces, bits: int) -> None:
    """Compare the hashes of identities whose faces come from several labels: within a label that is done."""
    order = np.lexsort((faces.row, -faces.size_px, faces.person))
    order = order[faces.person[order] >= 0]
    starts = np.flatnonzero(np.diff(faces.person[order], prepend=-2))
    for mine in np.split(order, starts[1:]):
        if len(mine) < 2 or len(set(faces.part[mine].tolist())) < 2:
            continue
        for place, n in enumerate(mine.tolist()):
            earlier = mine[:place][faces.person[mine[:place]] >= 0]
            if not earlier.size:
                continue
            near = np.minimum(
                hamming(faces.hash[n], faces.hash[earlier]), hamming(faces.mirrored[n], faces.hash[earlier])
            )
            if near.min() <= bits:
                twin = int(earlier[int(near.argmin())])
                faces.refuse(np.array([n]), NEAR_COPY, float(near.min()), float(bits), f"row {faces.row[twin]}")
