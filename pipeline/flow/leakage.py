"""Screening: how near a face of ours comes to the galleries, read once per process from what a run prepared.

Galleries and control are prepared before enrolment (`pipeline.execute.galleries`) and lie under `private/`: blocks of
embeddings per recogniser, blocks of names and hashes, a note per gallery with the digest of every file, and the
thresholds that follow from them. Nothing of it enters an index, an export or the dataset digest.

Legend: N rows, K probes of a candidate, E embedding dimensions, H W C image axes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import StoreError
from pipeline.domain.hashes import UInt64, hamming, perceptual_hash
from pipeline.domain.leakage import (
    CENTROIDS,
    COPY_BITS,
    JUDGE,
    SAMPLES,
    SCREENING,
    Limit,
    Reference,
    flagged,
    measure_name,
)
from pipeline.domain.manifest import FileEntry, canonical_json, sha256_hex
from pipeline.domain.ports import LabelledFace, Recogniser, Store
from pipeline.domain.recipe import Leakage
from pipeline.domain.records import Float32, UInt8
from pipeline.flow.parts import embed_each

PREFIX = "private/galleries/"
LIMITS = f"{PREFIX}limits-"
PAIRS = "private/leakage/"
CONTROL = "control"
SIDES = (SAMPLES, CENTROIDS)
EPOCH = 1
"""Raised by hand when what is measured against galleries changes under equal weights."""


class FacesDigest:
    """SHA-256 over labels, names and pixels (or vectors) of faces in their order."""

    def __init__(self) -> None:
        """Begin with no face."""
        self._sha256 = hashlib.sha256()

    def add(self, face: LabelledFace) -> None:
        """Take in one face."""
        held = face.face_HWC if face.face_HWC is not None else face.vector_D
        if held is None:
            return
        array = np.ascontiguousarray(held)
        self._sha256.update(canonical_json([face.label, face.name, list(array.shape), array.dtype.str]))
        self._sha256.update(array.tobytes())

    @property
    def hex(self) -> str:
        """Return the digest so far."""
        return self._sha256.hexdigest()


def faces_digest(faces: Iterable[LabelledFace]) -> str:
    """Return the digest of everything that a source holds."""
    digest = FacesDigest()
    for face in faces:
        digest.add(face)
    return digest.hex


@dataclass(frozen=True, slots=True)
class Reader:
    """A recogniser in its role, with the batch that it sees."""

    role: str
    recogniser: Recogniser
    batch: int

    @property
    def key(self) -> str:
        """Return what files of its embeddings are named by."""
        card = self.recogniser.card
        return f"{self.recogniser.space.name}-{card.sha256[:12]}-e{card.epoch}"


def gallery_root(name: str, digest: str) -> str:
    """Return the folder of a prepared gallery, without a slash at its end; its note is this with `.json`."""
    return f"{PREFIX}{name}-{digest[:16]}"


def read_note(store: Store, root: str) -> dict[str, Any] | None:
    """Return what is known of a prepared gallery; None where it is not prepared.

    Raises:
        StoreError: the note is damaged.
    """
    try:
        data = store.get(f"{root}.json")
    except FileNotFoundError:
        return None
    try:
        note: dict[str, Any] = json.loads(data)
        note["readers"], note["facts"], note["digest"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{root}.json: not the note of a gallery; delete it and run again") from None
    return note


def note_files(note: Mapping[str, Any]) -> list[FileEntry]:
    """Return every file that a gallery's note names."""
    listed = [*note["facts"], *(f for r in note["readers"].values() for f in r["files"])]
    return [FileEntry(f["path"], f["sha256"], f["bytes"]) for f in listed]


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return an .npz of arrays whose bytes follow from them alone: no times, nothing compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            held = io.BytesIO()
            np.lib.format.write_array(held, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), held.getvalue())
    return out.getvalue()


def unpack(data: bytes, path: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that `pack` wrote; raises StoreError, naming the file, on others."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: not readable ({type(error).__name__}); delete it and its gallery's note") from None


def words(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return strings as an array of bytes, for `pack`."""
    return np.frombuffer(canonical_json(list(texts)), np.uint8)


def unworded(held: npt.NDArray[np.uint8]) -> list[str]:
    """Return the strings of `words`."""
    texts: list[str] = json.loads(held.tobytes())
    return texts


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The faces of one prepared gallery under one recogniser, those without an embedding left out."""

    emb_NE: Float32
    labels: tuple[str, ...]
    names: tuple[str, ...]


class Screen:
    """What faces are held against: the prepared galleries and their thresholds. Reads nothing before it is asked."""

    def __init__(self, store: Store, settings: Leakage, readers: Sequence[Reader], sizes: Sequence[int]) -> None:
        """Take the store that galleries are prepared in, the recipe's section with every digest, and the recognisers.

        `sizes` are the numbers of images of the templates that will be asked about.
        """
        self.settings, self.store = settings, store
        self.readers = {r.role: r for r in readers}
        self.sizes = tuple(sorted({1, *sizes}))
        self._references: dict[str, Reference | None] = {}
        self._limits: dict[str, dict[str, dict[str, Limit]]] | None = None
        self._hashes: UInt64 | None = None

    @property
    def refuses(self) -> bool:
        """Return whether a leak refuses an identity."""
        return self.settings.mode == "refuse"

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that screen: never the auditor."""
        return tuple(role for role in (JUDGE, SCREENING) if role in self.readers)

    @property
    def measures(self) -> tuple[str, ...]:
        """Return every number that a sample gets."""
        names = [measure_name(side, role) for role in self.roles for side in SIDES]
        return (*names, COPY_BITS) if self.settings.copies else tuple(names)

    def root(self, name: str) -> str:
        """Return the folder of a gallery or of the control."""
        digests = {g.name: g.digest for g in self.settings.galleries} | {CONTROL: self.settings.control_digest}
        digest = digests[name]
        if digest is None:
            raise StoreError(f"gallery {name!r}: its digest is not known; open the dataset through a run")
        return gallery_root(name, digest)

    @property
    def limits_path(self) -> str:
        """Return where the thresholds lie: named by everything that they follow from."""
        settings = self.settings
        basis = {
            "galleries": sorted(self.root(g.name) for g in settings.galleries),
            "control": self.root(CONTROL) if settings.control else None,
            "readers": {role: reader.key for role, reader in self.readers.items()},
            "rule": [settings.quantile, settings.fpir, settings.cos, EPOCH],
            "sizes": self.sizes,
        }
        return f"{LIMITS}{sha256_hex(canonical_json(basis))[:16]}.json"

    def faces(self, name: str, role: str) -> Faces | None:
        """Return a gallery's faces under one recogniser; None where it holds vectors of another space."""
        root = self.root(name)
        note = read_note(self.store, root)
        if note is None:
            raise StoreError(f"{root}.json: this gallery is not prepared; run the generate command, which prepares it")
        files = note["readers"].get(self.readers[role].key)
        if files is None:
            return None
        emb: list[Float32] = []
        labels: list[str] = []
        names: list[str] = []
        for facts, held in zip(note["facts"], files["files"], strict=True):
            told = self._arrays(facts)
            vectors = self._arrays(held)
            sound = vectors["sound"]
            emb.append(vectors["embedding"][sound])
            for texts, key in ((labels, "labels"), (names, "names")):
                texts += [t for t, good in zip(unworded(told[key]), sound.tolist(), strict=True) if good]
        return Faces(np.concatenate(emb), tuple(labels), tuple(names))

    def reference(self, role: str) -> Reference | None:
        """Return all galleries together under one recogniser; None where none can be compared under it."""
        if role not in self._references:
            held = [(g.name, self.faces(g.name, role)) for g in self.settings.galleries]
            there = [(name, faces) for name, faces in held if faces is not None and len(faces.emb_NE)]
            self._references[role] = _joined(there) if there else None
        return self._references[role]

    def limits(self, role: str, images: int) -> Mapping[str, Limit]:
        """Return the threshold per side for probes of so many images.

        Raises:
            StoreError: the thresholds are not there.
        """
        if self._limits is None:
            try:
                raw = json.loads(self.store.get(self.limits_path))
            except (FileNotFoundError, ValueError):
                raise StoreError(
                    f"{self.limits_path}: missing or damaged; run the generate command, which writes it anew"
                ) from None
            self._limits = {
                r: {k: {side: Limit(**limit) for side, limit in sides.items()} for k, sides in sizes.items()}
                for r, sizes in raw.items()
            }
        return self._limits.get(role, {}).get(str(images), {})

    def filter_limits(self) -> dict[str, float]:
        """Return measure -> the value at which a sample counts as a leak."""
        found = {
            measure_name(side, role): limit.cos
            for role in self.roles
            for side, limit in self.limits(role, 1).items()
            if limit.cos is not None
        }
        copies = self.settings.copies
        return {**found, COPY_BITS: float(copies.bits)} if copies else found

    def embedded(self, faces_NHWC: UInt8, judge_NE: Float32) -> tuple[dict[str, Float32], npt.NDArray[np.bool_]]:
        """Return faces under every screening role, and which of them have sound embeddings under the others."""
        out, sound = {JUDGE: judge_NE}, np.ones(len(faces_NHWC), bool)
        if reader := self.readers.get(SCREENING):
            out[SCREENING], sound = embed_each(reader.recogniser, faces_NHWC, reader.batch)
        return out, sound

    def numbers(self, emb: Mapping[str, Float32]) -> list[dict[str, float]]:
        """Return, row by row, how near each comes to the galleries, by measure; every row is of unit length."""
        count = len(next(iter(emb.values())))
        out: list[dict[str, float]] = [{} for _ in range(count)]
        for role, rows_NE in emb.items():
            reference = self.reference(role)
            if reference is None or not count:
                continue
            for side in SIDES:
                best, _ = reference.nearest(side, rows_NE)
                for row, cos in zip(out, best.tolist(), strict=True):
                    row[measure_name(side, role)] = cos
        return out

    def of_samples(
        self, faces_NHWC: UInt8, judge_NE: Float32, sound_N: npt.NDArray[np.bool_]
    ) -> tuple[dict[str, npt.NDArray[np.float64]], npt.NDArray[np.bool_]]:
        """Return every screening number of samples, NaN where there is none, and which samples are sound under all."""
        emb, seen = self.embedded(faces_NHWC, judge_NE)
        sound = sound_N & seen
        rows = np.flatnonzero(sound)
        out = {name: np.full(len(faces_NHWC), np.nan) for name in self.measures}
        for place, numbers in zip(rows, self.numbers({r: e[rows] for r, e in emb.items()}), strict=True):
            for name, value in numbers.items():
                out[name][place] = value
        if self.settings.copies and len(rows):
            out[COPY_BITS][rows] = self.copy_bits(faces_NHWC[rows])
        return out, sound

    def copy_bits(self, faces_NHWC: UInt8) -> npt.NDArray[np.float64]:
        """Return in how many bits each face's hash differs from the nearest of the galleries'."""
        held = self.hashes()
        return np.array([hamming(held, one).min() for one in perceptual_hash(faces_NHWC)], np.float64)

    def hashes(self) -> UInt64:
        """Return the perceptual hashes of every gallery image."""
        if self._hashes is None:
            notes = [read_note(self.store, self.root(g.name)) or {"facts": []} for g in self.settings.galleries]
            self._hashes = np.concatenate([self._arrays(f)["hash"] for note in notes for f in note["facts"]])
        return self._hashes

    def leaks(self, numbers: Mapping[str, float], images: int) -> bool:
        """Return whether any comparison flags a template of so many images."""
        return any(
            bool(flagged(np.array([numbers[name]]), limit)[0])
            for role in self.roles
            for side, limit in self.limits(role, images).items()
            if (name := measure_name(side, role)) in numbers
        )

    def _arrays(self, entry: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        data = self.store.get(entry["path"])
        if sha256_hex(data) != entry["sha256"]:
            raise StoreError(f"{entry['path']}: its bytes are not those of its gallery's note; delete both, run again")
        return unpack(data, entry["path"])


def _joined(galleries: Sequence[tuple[str, Faces]]) -> Reference:
    """Return galleries as one reference; people of one label in two galleries are two people."""
    people: dict[str, int] = {}
    owners = [people.setdefault(f"{name}/{label}", len(people)) for name, faces in galleries for label in faces.labels]
    names = [f"{name}/{face}" for name, faces in galleries for face in faces.names]
    emb = np.concatenate([faces.emb_NE for _, faces in galleries])
    return Reference.of(emb, np.array(owners, np.int64), tuple(people), names)
