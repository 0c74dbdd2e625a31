"""Banks and files of vectors: labelled faces are embedded, pooled by identity, fitted, and written as one file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.wiring.calibrating import described, recogniser_node
from jobs.wiring.labelled import open_labelled
from jobs.wiring.local_files import local_file, write_whole
from jobs.wiring.parts import build
from pipeline.domain.errors import OutputError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from pipeline.domain.banking import Fitted
    from pipeline.domain.ports import LabelledFaces, Recogniser, Store
    from pipeline.flow.labelled import LabelledEmbeddings

VARIANCES = (0.9, 0.95, 0.99)
"""Shares of the variance for which a bank states how many principal axes hold them."""


def fit_bank(
    reference: str,
    recogniser: str,
    out: str,
    *,
    licence: str,
    lawful_basis: str,
    cells: str | None = None,
    at_most: int | None = None,
    least: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit a bank to labelled faces, write it, and return what it says of itself, with `path`, `sha256` and `bytes`.

    Args:
        reference: what `open_labelled` takes.
        recogniser: a recogniser by name; its space is the bank's.
        out: a local path ending in .safetensors.
        licence: of the faces.
        lawful_basis: on what ground they may be used.
        cells: a CSV of label,cell; None: those of the index where the source is a dataset of ours.
        at_most: images of an identity that count; all where None.
        least: identities that a cell needs to have a Gaussian of its own.
        skip_unreadable: of a folder per identity, leave out images that cannot be read, and count them.
        overrides: the recogniser's options, each `option=value`.

    Raises:
        UserError: the source, the CSV or the place to write is no good, or there are too few identities.
    """
    from pipeline.adapters.banks import bank_bytes
    from pipeline.adapters.machine import single_thread
    from pipeline.domain.banking import LEAST_IDENTITIES, allows_commercial_use, fit

    require_said(licence, lawful_basis)
    node = recogniser_node(recogniser, overrides)
    path, reader, source = _opened(reference, node, out, skip_unreadable)
    single_thread()
    named = _cells(reference, cells, source)
    faces, means_PD, images_P = _means(source, reader, node, at_most)
    cell_P = None if named is None else [named.get(label, "") for label in faces.label_names]
    if cells is not None and cell_P is not None and not any(cell_P):
        raise UserError(
            f"--cells {cells}: gives a cell to nobody in {reference}, whose labels are such as "
            f"{faces.label_names[0]!r}; write labels as the source has them"
        )
    wanted = LEAST_IDENTITIES if least is None else least
    fitted = fit(means_PD, cell_P, wanted)
    facts = {
        **_about(path, reader, source, faces, images_P, at_most),
        "source": _described(reference, source),
        "licence": licence,
        "lawful_basis": lawful_basis,
        "commercial_use": allows_commercial_use(licence) and reader.card.commercial_use,
        "cells": {name: _cell_facts(fitted, name) for name in sorted(fitted.gaussians)},
        "too_few": dict(sorted(fitted.too_few.items())),
        "without_cell": sum(1 for c in cell_P if not c) if cell_P is not None else len(means_PD),
        "least_identities": wanted,
        "axes": _axes(fitted),
        "notes": notes_of(fitted, reader.space.dimensions),
    }
    return written(path, bank_bytes(fitted.gaussians, facts), facts)


def fit_vectors(
    reference: str,
    recogniser: str,
    out: str,
    *,
    licence: str,
    lawful_basis: str,
    made_up: bool = False,
    at_most: int | None = None,
    skip_unreadable: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Write one vector per identity, for the sampler `files`; arguments as those of `fit_bank`.

    These are the vectors of individuals: where they are real people, the file is personal data.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.samplers.vector_files import vector_file_bytes
    from pipeline.domain.banking import allows_commercial_use

    require_said(licence, lawful_basis)
    node = recogniser_node(recogniser, overrides)
    path, reader, source = _opened(reference, node, out, skip_unreadable)
    if made_up:
        _require_made_up(reference, source)
    single_thread()
    faces, means_PD, images_P = _means(source, reader, node, at_most)
    facts = {
        **_about(path, reader, source, faces, images_P, at_most),
        "source": _described(reference, source),
        "licence": licence,
        "lawful_basis": lawful_basis,
        "commercial_use": allows_commercial_use(licence) and reader.card.commercial_use,
        "real_people": not made_up,
    }
    return written(path, vector_file_bytes(means_PD, facts), facts)


def bank_facts(path: str) -> dict[str, Any]:
    """Return what the file of a bank or of a map says of itself, with its path, digest and size."""
    from pipeline.adapters.banks import read_bank
    from pipeline.adapters.space_maps import is_map, read_map

    file = Path(path)
    facts, digest = read_map(file)[1:] if is_map(file) else read_bank(file)[1:]
    return {**facts, "path": path, "sha256": digest, "bytes": Path(path).stat().st_size}


def require_said(licence: str, lawful_basis: str) -> None:
    """Refuse a licence or a lawful basis that says nothing: the file carries them for years."""
    for option, said in (("--licence", licence), ("--lawful-basis", lawful_basis)):
        if len(said.strip()) < 2:
            raise UserError(f"{option}: got {said!r}; say it in two letters or more, as what is written carries it")


def opened_place(out: str) -> Path:
    """Return the local file that is to be written; raises OutputError where it cannot be one."""
    suffix = Path(out).suffix
    if suffix != ".safetensors":
        raise OutputError(f"--out {out}: got {suffix or 'no suffix'}; give a local file that ends in .safetensors")
    return local_file(out)


def _opened(reference: str, node: Any, out: str, skip_unreadable: bool) -> tuple[Path, Recogniser, LabelledFaces]:
    path = opened_place(out)
    reader: Recogniser = build("judge", node)
    source = open_labelled(reference, alignment=reader.space.alignment, skip_unreadable=skip_unreadable)
    return path, reader, source


def _means(
    source: LabelledFaces, reader: Recogniser, node: Any, at_most: int | None
) -> tuple[LabelledEmbeddings, np.ndarray, np.ndarray]:
    from pipeline.domain.banking import identity_means
    from pipeline.flow.labelled import embed_labelled

    faces = embed_labelled(source, reader, node.batch)
    keeps = reader.space.norm == "raw"
    means_PD, images_P = identity_means(faces.emb_NE, faces.labels_N, at_most, keep_lengths=keeps)
    return faces, means_PD, images_P


def _about(
    path: Path,
    reader: Recogniser,
    source: LabelledFaces,
    faces: LabelledEmbeddings,
    images_P: np.ndarray,
    at_most: int | None,
) -> dict[str, Any]:
    return {
        "name": path.stem,
        "space": reader.space.to_dict(),
        "recogniser": {"name": reader.card.name, "sha256": reader.card.sha256, "licence": reader.card.licence},
        "identities": len(images_P),
        "images": int(images_P.sum()),
        "images_per_identity": {
            "least": int(images_P.min()),
            "mean": float(images_P.mean()),
            "most": int(images_P.max()),
            "at_most": at_most,
        },
        "unreadable": len(faces.unreadable) + len(getattr(source, "skipped", ())),
    }


def _described(reference: str, source: LabelledFaces) -> str:
    """Return how a source is named in what is written, which datasets publish: of a local path its last part alone."""
    if "://" in reference:
        return source.name
    path = Path(reference).expanduser()
    for whole in (str(path.resolve()), str(path)):
        if source.name.startswith(whole):
            return described(reference) + source.name.removeprefix(whole)
    return described(reference)


def _cells(reference: str, csv_path: str | None, source: LabelledFaces) -> dict[str, str] | None:
    """Return the cell of each label, from the CSV or from the dataset's index; None where neither is there."""
    from pipeline.flow.labelled_dataset import DatasetFaces

    if csv_path is not None:
        return _csv_cells(Path(csv_path).expanduser())
    if not isinstance(source, DatasetFaces):
        return None
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.stores import open_store
    from pipeline.flow.versions import published_rows

    store = open_store(reference, writable=False)
    rows = published_rows(Segments(), store, source.manifest)
    # an index of real people tells nobody's cell; a bank says nothing of single people, only of many in one cell
    known = _private_cells(store) if all(row.cell == "all" for row in rows) else {}
    cells = {row.identity: known.get(row.identity, row.cell) for row in rows}
    return {str(identity): "" if cell == "all" else cell for identity, cell in cells.items()}


def _require_made_up(reference: str, source: LabelledFaces) -> None:
    """Refuse to call people made up of whom their dataset says that they are real."""
    from pipeline.domain.privacy import of_real_people
    from pipeline.flow.labelled_dataset import DatasetFaces

    if isinstance(source, DatasetFaces) and of_real_people(source.manifest):
        raise UserError(f"--made-up: {reference} holds photographs of real people; leave --made-up out")


def _private_cells(store: Store) -> dict[int, str]:
    """Return the cells of real people, by ordinal; nothing where there are none, or `private/` is not here."""
    from pipeline.adapters.segments import Segments
    from pipeline.domain.privacy import ENROLLED

    found = (m for path in store.list(ENROLLED) for m in Segments().read_members(store, path))
    return {m.ordinal: str(m.cell) for m in found}


def _csv_cells(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or not {"label", "cell"} <= set(reader.fieldnames):
                raise UserError(f"--cells {path}: columns {reader.fieldnames}; it needs `label` and `cell`")
            out: dict[str, str] = {}
            for row in reader:
                label, cell = (row["label"] or "").strip(), (row["cell"] or "").strip()
                if out.setdefault(label, cell) != cell:
                    raise UserError(
                        f"--cells {path}: line {reader.line_num} puts {label!r} into {cell!r}, an earlier one into "
                        f"{out[label]!r}; a label has one cell"
                    )
            return out
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--cells {path}: cannot be read as CSV ({error}); give UTF-8 with label,cell") from None


def _cell_facts(fitted: Fitted, name: str) -> dict[str, Any]:
    fit = fitted.cells[name]
    return {"identities": fit.identities, "shrinkage": round(fit.shrinkage, 6), "covariance": fit.covariance}


def _axes(fitted: Fitted) -> dict[str, int]:
    from pipeline.domain.banking import EVERYONE, axes_for, principal_axes

    _, std = principal_axes(fitted.gaussians[EVERYONE][1])
    return {f"{share:g}": axes_for(std, share) for share in VARIANCES}


def notes_of(fitted: Fitted, dimensions: int) -> list[str]:
    """Return what whoever uses a bank should know of it, one sentence each."""
    from pipeline.domain.banking import EVERYONE

    notes = []
    people = fitted.cells[EVERYONE].identities
    if people <= dimensions:
        notes.append(
            f"{people} identities in {dimensions} dimensions: the axes of the covariance span little but these people, "
            "so that membership of a known person can be tested; keep this bank as you keep their images"
        )
    shared = sorted(c for c, how in fitted.cells.items() if how.covariance == "shared")
    if shared:
        notes.append(f"{len(shared)} cells of at most {dimensions} identities share one covariance around their means")
    if fitted.too_few:
        notes.append(f"{len(fitted.too_few)} cells have too few identities and are drawn from everyone")
    return notes


def written(path: Path, data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write a file whole or not at all; one that stands is only ever repeated, never replaced."""
    from pipeline.domain.manifest import sha256_hex

    if path.exists():
        if path.read_bytes() != data:
            raise OutputError(f"--out {path}: another file stands there; name another, or remove it")
    else:
        write_whole(path, data)
    return {**facts, "path": str(path), "sha256": sha256_hex(data), "bytes": len(data)}
