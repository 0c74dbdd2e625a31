"""Faces that are there already, as embeddings with labels: what calibrations, banks and galleries are made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.ports import LabelledFace, LabelledFaces, Recogniser
from pipeline.domain.records import Float32, unit_rows
from pipeline.flow.parts import embed_each


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEmbeddings:
    """Embeddings of labelled faces in one recogniser's space.

    Attributes:
        emb_NE: float32 unit rows.
        labels_N: int64, place of each row's label in `label_names`.
        label_names: labels in the order in which they first came.
        names: where each row comes from.
        unreadable: names of faces whose embedding came out NaN, infinite or without length; they have no row.
    """

    emb_NE: Float32
    labels_N: npt.NDArray[np.int64]
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    unreadable: tuple[str, ...]


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
    for faces in _batched(source, batch):
        emb, sound = _embedded(source, faces, recogniser, batch)
        for face, good in zip(faces, sound.tolist(), strict=True):
            if good:
                labels.append(numbers.setdefault(face.label, len(numbers)))
                names.append(face.name)
            else:
                unreadable.append(face.name)
        blocks.append(emb[sound])
    if not names:
        raise UserError(f"{source.name}: no face here that can be embedded; give a source with at least one")
    return LabelledEmbeddings(
        np.concatenate(blocks), np.array(labels, np.int64), tuple(numbers), tuple(names), tuple(unreadable)
    )


def _embedded(
    source: LabelledFaces, faces: list[LabelledFace], recogniser: Recogniser, batch: int
) -> tuple[Float32, npt.NDArray[np.bool_]]:
    images = [f.face_HWC for f in faces if f.face_HWC is not None]
    vectors = [f.vector_D for f in faces if f.vector_D is not None]
    if len(images) == len(faces):
        return embed_each(recogniser, np.stack(images), batch)
    if len(vectors) != len(faces):
        raise UserError(f"{source.name}: images and vectors are mixed, or a face has neither; give one kind")
    raw = np.stack(vectors).astype(np.float64)
    lengths = np.sqrt(np.einsum("ne,ne->n", raw, raw))
    sound = np.isfinite(lengths) & (lengths > 1e-12)
    emb = np.zeros(raw.shape, np.float32)
    if sound.any():
        emb[sound] = unit_rows(raw[sound], source.name)
    return emb, sound


def _batched(faces: Iterable[LabelledFace], size: int) -> Iterator[list[LabelledFace]]:
    block: list[LabelledFace] = []
    for face in faces:
        block.append(face)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
