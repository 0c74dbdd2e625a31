"""What ingest writes down of each face, and of each input in which there is none: the tables between the stages.

Everything here lies under `private/`: embeddings, landmarks, attributes and where an image came from are real people's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pipeline.domain.privacy import CLEANED, FEATURES
from pipeline.domain.unit import Stage, Unit

TOO_FEW = "too_few_images"
"""Why faces are refused of whom there are fewer images than asked for."""
WHERE = ("read", "decode", "detect", "align", "measure")
"""The stages of ingest, in the order in which an input passes them."""
UNREADABLE = ("read", "decode")
"""The stages whose refusals mean that there were no pixels."""
NO_LABEL = -1
"""Bucket group of inputs without a face: nobody cleans them."""

FACE_COLUMNS: Mapping[str, str] = {
    "reason": "string",
    "found": "string",
    "value": "double?",
    "threshold": "double?",
    "sha256": "string",
    "hash": "int64",
    "mirrored": "int64",
    "points": "vector?",
    "embedding": "vector?",
    "measures": "map",
}
"""What ingest says of a face, and cleaning says on: why it is refused, its crop, and what was read from it."""
FEATURE_COLUMNS: Mapping[str, str] = {
    "row": "int64",
    "face": "int32",
    "owner": "string",
    "stage": "string",
    **FACE_COLUMNS,
    "notes": "strings",
    "marks": "strings",
}
"""One row per face that was looked at, and one for each input without any (`face` -1).

`owner`: whose it is said to be, empty where nobody says; `stage` and `reason` empty where the face is sound; `hash` and
`mirrored`: perceptual hashes of the crop and its mirror image, uint64 as two's complement; `points`: the five points in
the picture, NaN where images are crops already.
"""


def features_path(unit: Unit) -> str:
    """Return where an ingest unit's rows lie."""
    return f"{FEATURES}{unit.name}.parquet"


def cleaned_path(unit: str) -> str:
    """Return where a clean unit's faces lie."""
    return f"{CLEANED}{unit}.parquet"


def provisional_path(unit: str) -> str:
    """Return where a clean unit's provisional identities lie."""
    return f"{CLEANED}{unit}-identities.parquet"


def clean_name(generation: int, bucket: int) -> str:
    """Return the name of the unit that cleans a bucket."""
    return Unit(Stage.CLEAN, generation, bucket, 0).name


def owner_of(source: str, label: str | None, *, shared: bool) -> str:
    """Return whose an image is said to be, unique over all sources; empty where nobody says."""
    if label is None:
        return ""
    return label if shared else f"{source}\n{label}"


def bucket_of(owner: str, row: int, buckets: int) -> int:
    """Return the bucket in which a face is cleaned: that of its owner, or, where it has none, of its neighbourhood."""
    key = f"owner {owner}" if owner else f"rows {row // 4096}"
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") % buckets


def signed(hash_: int) -> int:
    """Return an unsigned number of 64 bits as a signed one, as tables hold it."""
    return hash_ - (1 << 64) if hash_ >= 1 << 63 else hash_
