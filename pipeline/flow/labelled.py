"""Faces that are there already, as embeddings with labels: what calibrations, banks and galleries are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import exact_cos
from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFace, LabelledFaces, Measurer, Recogniser
from pipeline.domain.records import Float32, UInt8, each_row
from pipeline.flow.parts import embed_each, measure_fixed


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEmbeddings:
    """Embeddings of labelled faces in one recogniser's space.

    Attributes:
        emb_NE: float32 unit rows; as they came in a space whose vectors keep their lengths.
        labels_N: int64, place of each row's label in `label_names`.
        label_names: labels in the order in which they first came.
        names: where each row comes from.
        unreadable: names of faces whose embedding came out NaN, infinite or without length; they have no row.
        digest: SHA-256 over label, name and pixels (or vector) of every face of the source, in its order.
    """

    emb_NE: Float32
    labels_N: npt.NDArray[np.int64]
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    unreadable: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class PairCosines:
    """What a recogniser says of pairs of pictures.

    Attributes:
        genuine_cos_N: float64 cosines of pairs that show one person.
        impostor_cos_N: float64 cosines of pairs that do not.
        unreadable: pairs left out because an embedding came out NaN, infinite or without length.
        digest: SHA-256 over pixels and truth of every pair, in order.
    """

    genuine_cos_N: npt.NDArray[np.float64]
    impostor_cos_N: npt.NDArray[np.float64]
    unreadable: int
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScores:
    """What a measure says of labelled faces.

    Attributes:
        scores: score -> float64 of shape (N,), every one finite, in the order of the source.
        count: N.
        left_out: faces with a score that is no finite number.
        digest: SHA-256 over label, name and pixels of every face of the source, in its order.
    """

    scores: Mapping[str, npt.NDArray[np.float64]]
    count: int
    left_out: int
    digest: str


class LabelledPairs(Protocol):
    """Pairs of aligned pictures, and of each pair whether both show one person; who that is stays unsaid."""

    name: str

    def __iter__(self) -> Iterator[tuple[UInt8, UInt8, bool]]:
        """Yield two faces, uint8 RGB, and the truth, in an order that never changes."""
        ...


def embed_pairs(source: LabelledPairs, recogniser: Recogniser, batch: int) -> PairCosines:
    """Return the cosines of every pair of a source.

    Raises:
        UserError: the source is empty.
    """
    digest = hashlib.sha256()
    found: dict[bool, list[float]] = {True: [], False: []}
    unreadable, pairs = 0, iter(source)
    while block := list(islice(pairs, batch)):
        for first, second, same in block:
            for part in (first.tobytes(), second.tobytes(), bytes([same])):
                digest.update(part)
        faces = np.stack([face for first, second, _ in block for face in (first, second)])
        emb, sound = embed_each(recogniser, faces, batch)
        for number, (_, _, same) in enumerate(block):
            a, b = 2 * number, 2 * number + 1
            if sound[a] and sound[b]:
                found[same].append(exact_cos(emb[a], emb[b]))
            else:
                unreadable += 1
    if not found[True] and not found[False]:
        raise UserError(f"{source.name}: no pair here that can be embedded; give a source with at least one")
    return PairCosines(np.array(found[True]), np.array(found[False]), unreadable, digest.hexdigest())


def embed_labelled(source: LabelledFaces, recogniser: Recogniser, batch: int) -> LabelledEmbeddings:
    """Return the embeddings of every face of a source; a source of vectors gives its own, scaled to unit length.

    Raises:
        SpaceMismatchError: the source's vectors live in another space.
        UserError: the source is empty, or mixes images and vectors.
    """
    if source.space is not None:
        recogniser.space.require_same(source.space, source.name)
    blocks: list[Float32] = []
    labels, names, unreadable = [], [], []
    numbers: dict[str, int] = {}
    digest = hashlib.sha256()
    for faces in _batched(source, batch):
        emb, sound = _embedded(source, faces, recogniser, batch)
        for face, good in zip(faces, sound.tolist(), strict=True):
            _add(digest, face)
            if good:
                labels.append(numbers.setdefault(face.label, len(numbers)))
                names.append(face.name)
            else:
                unreadable.append(face.name)
        blocks.append(emb[sound])
    if not names:
        raise UserError(f"{source.name}: no face here that can be embedded; give a source with at least one")
    return LabelledEmbeddings(
        np.concatenate(blocks),
        np.array(labels, np.int64),
        tuple(numbers),
        tuple(names),
        tuple(unreadable),
        digest.hexdigest(),
    )


def measure_labelled(source: LabelledFaces, measurer: Measurer, batch: int, scores: Sequence[str]) -> LabelledScores:
    """Return some numbers of a measure for every face of a source of images.

    Args:
        source: the faces.
        measurer: gives the numbers.
        batch: faces that it sees at once.
        scores: which of its numbers; a face of which one is not finite is left out.
    """
    digest = hashlib.sha256()
    blocks: list[npt.NDArray[np.float64]] = []
    left_out = 0
    for faces in _batched(source, batch):
        for face in faces:
            _add(digest, face)
        found = measure_fixed((measurer,), np.stack([f.face_HWC for f in faces if f.face_HWC is not None]), batch)
        block_SN = np.stack([found[name] for name in scores])
        sound_N = np.isfinite(block_SN).all(axis=0)
        left_out += int((~sound_N).sum())
        blocks.append(block_SN[:, sound_N])
    whole_SN = np.concatenate([np.empty((len(scores), 0)), *blocks], axis=1)
    return LabelledScores(dict(zip(scores, whole_SN, strict=True)), whole_SN.shape[1], left_out, digest.hexdigest())


def _add(digest: hashlib._Hash, face: LabelledFace) -> None:
    """Add a face to a digest, each part with its length before it, so that no two sources read alike."""
    held = face.face_HWC if face.face_HWC is not None else face.vector_D
    parts = [face.label.encode(errors="surrogateescape"), face.name.encode(errors="surrogateescape")]
    if held is not None:
        parts.append(np.ascontiguousarray(held).tobytes())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def _embedded(
    source: LabelledFaces, faces: list[LabelledFace], recogniser: Recogniser, batch: int
) -> tuple[Float32, npt.NDArray[np.bool_]]:
    images = [f.face_HWC for f in faces if f.face_HWC is not None]
    vectors = [f.vector_D for f in faces if f.vector_D is not None]
    if len(images) == len(faces):
        return embed_each(recogniser, np.stack(images), batch)
    if len(vectors) != len(faces):
        raise UserError(f"{source.name}: images and vectors are mixed, or a face has neither; give one kind")
    return each_row(np.stack(vectors), source.name, unit=recogniser.space.norm == "unit")


def _batched(faces: Iterable[LabelledFace], size: int) -> Iterator[list[LabelledFace]]:
    block: list[LabelledFace] = []
    for face in faces:
        block.append(face)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
