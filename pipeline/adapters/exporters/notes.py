"""What every export says of itself beside its images: the table of its labels, and lines of its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.hub import PARQUET
from pipeline.adapters.exporters.writing import Part
from pipeline.domain.manifest import FileEntry, IndexRow

LABELS = "labels.parquet"
LABELS_LINE = f"""`{LABELS}` says whose each label is: label, identity (its number at enrolment, which never changes),
version_label (the label in the version, which may have gaps where somebody was erased), cell, images."""


def labels_part(index: Sequence[IndexRow], about: Mapping[str, Any]) -> Part:
    """Return the part that is `labels.parquet`: a row for each label, from 0 up.

    Args:
        index: the rows of the export.
        about: where it has `labels`, each label's label in the version; otherwise they are the same.
    """

    def write(here: Path) -> list[FileEntry]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        whose = {row.label: (row.identity, row.cell) for row in index}
        counts, numbers = Counter(row.label for row in index), sorted(whose)
        version = about.get("labels")
        table = pa.table(
            {
                "label": pa.array(numbers, pa.int64()),
                "identity": pa.array([whose[n][0] for n in numbers], pa.int64()),
                "version_label": pa.array([version[n] if version else n for n in numbers], pa.int64()),
                "cell": pa.array([whose[n][1] for n in numbers], pa.string()),
                "images": pa.array([counts[n] for n in numbers], pa.int64()),
            }
        )
        with hashed(here / LABELS) as out:
            pq.write_table(table, out, row_group_size=4096, compression="zstd", **PARQUET)
        return [out.entry(LABELS)]

    return Part((LABELS,), write)


def people(head: Mapping[str, Any]) -> str:
    """Return what identities are, in the middle of a sentence."""
    return "real people" if head.get("real_people") else "synthetic identities"


def whose_labels(head: Mapping[str, Any]) -> str:
    """Return what a card says of whom labels stand for, in the middle of a sentence."""
    if head.get("real_people"):
        return "stand for real people: use their faces on no other ground, and for nothing else, than was agreed"
    return "name synthetic identities, which were made and are nobody"


def bytes_line(head: Mapping[str, Any]) -> str:
    """Return what a card says of an image's bytes."""
    if "image_px" not in head:
        return "bytes as published"
    side_px, quality = head["image_px"], head["image_quality"]
    if head.get("aligned"):
        return f"the aligned crop, {side_px} x {side_px} px, cut out of what is stored; JPEG quality {quality}"
    return (
        f"{side_px} x {side_px} px: bytes as published where that is the stored size, otherwise resized (Lanczos) and "
        f"encoded again at JPEG quality {quality}"
    )


def choice_lines(head: Mapping[str, Any]) -> str:
    """Return a paragraph on which images these are, with an empty line before it; nothing where all is as usual.

    Which were chosen, and whether the whole pictures that they were cut from are here, where the dataset has these.
    """
    said = []
    if "split" in head:
        said.append(
            f"This is part `{head['part']}` of the split `{head['split']}`, which divides identities: nobody is in two "
            "parts, and twins are where their images are."
        )
    if "max_per_identity" in head:
        said.append(f"At most {head['max_per_identity']:,} images of each identity, spread evenly over all it has.")
    if head.get("crop_margin"):
        said.append(_margin_said(head["crop_margin"]))
    if "whole_pictures" in head:
        said.append(_wholes_said(head["whole_pictures"], head["num_images"]))
    return "\n" + "\n".join(said) + "\n" if said else ""


def _margin_said(margin: float) -> str:
    return (
        f"Crops show more than recognisers read: the aligned crop, with {100 * margin:g} % of its side added on every "
        f"side. It is the middle {100 / (1 + 2 * margin):.4g} % of width and height: cut that out for a model that "
        "reads aligned crops."
    )


def _wholes_said(carried: int, images: int) -> str:
    if not carried:
        return "Crops alone: the whole pictures that they were cut from are in the dataset's segments, and not here."
    which = "Every image has" if carried == images else f"{carried:,} of the images have"
    return (
        f"{which} the whole picture that it was cut from, as the generator drew it: its alignment is none, and nothing "
        "outside the crop was measured or screened."
    )
