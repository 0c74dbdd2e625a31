"""The audit: what is about to be published is re-read and held against what was promised.

Per unit (on the workers): every file is hashed again, every stored image decodes, counts add up, keys are unique, and
the auditor, a recogniser that no filter ever used, embeds the images. Over all (on the driver): quotas, labels,
balance with the reader's confusion, and similarity figures under judge and auditor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.calibration import Calibration, equal_error_rate
from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Counts, FileEntry, Receipt, receipt_path, segment_path
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Audited, Float32, Whole, unit_rows
from pipeline.domain.unit import Stage, Unit
from pipeline.flow.commit import commit, read_receipt, receipt_of, stored_sha256
from pipeline.flow.parts import Parts, decoded, embed_fixed
from pipeline.flow.twins import counts_of_rows
from pipeline.flow.wholes import require_wholes, wholes_of

READ_TOGETHER = 256
"""Images decoded at once: bounds memory, and changes nothing, as the auditor sees full batches either way."""


def plan_audit(known: Mapping[str, Receipt], auditor: ModelCard) -> list[Unit]:
    """Return a unit for every committed unit of enrolment and making.

    What an earlier version's audit has seen has its receipt already, so only what is new, or what another auditor
    read, is read again.
    """
    reader = f"{auditor.sha256}-{auditor.epoch}"
    audited = [r for _, r in sorted(known.items()) if r.unit["stage"] in (Stage.ENROL.value, Stage.MAKE.value)]
    return [
        Unit(Stage.AUDIT, r.unit["generation"], r.unit["index"], r.unit["round"], of=r.name, reader=reader)
        for r in audited
    ]


def audit_unit(unit: Unit, parts: Parts) -> Receipt:
    """Re-read one committed unit, write where its images lie and how the auditor sees them, commit.

    An enrol unit has no images: its file is hashed and its rows are counted.

    Raises:
        StoreError: a file is altered, an image does not decode, or the rows do not add up.
    """
    started_s = parts.clock.now_s()
    made = read_receipt(parts.store, receipt_path(unit.of))
    for entry in made.files:
        if parts.store.size(entry.path) != entry.bytes or stored_sha256(parts.store, entry) != entry.sha256:
            raise StoreError(
                f"{entry.path}: its bytes are not those of its receipt; run again with --deep to have its unit, and "
                "it alone, made again, or restore the file from a copy"
            )
    images = made.unit["stage"] == Stage.MAKE.value
    names = ["accepted", "reasons", *(("off_target", "key") if images else ())]
    columns = parts.segments.read_columns(parts.store, unit.of, names)
    if images:
        wholes = wholes_of(parts.segments, parts.store, made)
        counts = replace(counts_of_rows(columns), wholes=len(wholes or {}))
    else:
        outcomes = zip(columns["accepted"].tolist(), columns["reasons"], strict=True)
        counts = Counts.of((kept, False, tuple(reasons)) for kept, reasons in outcomes)
    if counts != made.counts:
        raise StoreError(f"{unit.of}: the rows count {counts.to_dict()}, the receipt says {made.counts.to_dict()}")
    files: tuple[FileEntry, ...] = ()
    if images:
        files = (parts.segments.write_audit(parts.store, unit.of, _reread(unit.of, parts, columns, wholes)),)
    receipt = receipt_of(unit, parts, Counts(counts.accepted, counts.accepted, 0, {}), files, started_s)
    commit(parts, receipt)
    return receipt


def _reread(name: str, parts: Parts, columns: Mapping[str, Any], wholes: Mapping[str, Whole] | None) -> Audited:
    """Return the places of a make unit's images and the auditor's embeddings, each image decoded from its tar.

    Whole pictures, where it keeps any, are held against their digests and decoded too.
    """
    places = parts.segments.locate(parts.store, name)
    keys = [k for k, kept in zip(columns["key"], columns["accepted"], strict=True) if kept]
    if set(places) != set(keys) or len(set(columns["key"])) != len(columns["key"]):
        raise StoreError(f"{name}: stored images and accepted rows differ, or a key appears twice")
    tar = parts.store.get(segment_path(name, "tar"))
    if wholes is not None:
        require_wholes(name, tar, wholes, keys, parts.codec)
    block = parts.auditor_batch * max(1, READ_TOGETHER // parts.auditor_batch)
    emb = []
    for start in range(0, len(keys), block):
        faces = [decoded(name, key, tar, places[key], parts) for key in keys[start : start + block]]
        emb.append(embed_fixed(parts.auditor, np.stack(faces), parts.auditor_batch))
    return Audited(
        keys=tuple(keys),
        offset_N=np.array([places[k][0] for k in keys], np.int64),
        length_N=np.array([places[k][1] for k in keys], np.int64),
        auditor_NE=np.concatenate(emb) if emb else np.empty((0, 0), np.float32),
    )


def similarity_figures(emb_NE: Float32, labels_N: npt.NDArray[np.int64], calibration: Calibration) -> dict[str, Any]:
    """Return how alike the images of one identity, and of different ones, are under one recogniser.

    Genuine pairs are all pairs within an identity (an even subset of 200 images where it has more); impostor pairs are
    exhaustive up to 4,000 images and those of an even subset of rows beyond.
    """
    order = np.argsort(labels_N, kind="stable")
    owned = np.split(order, np.flatnonzero(np.diff(labels_N[order])) + 1)
    genuine = np.concatenate([_pairs_within(emb_NE[rows]) for rows in owned])
    step = max(1, -(-len(emb_NE) // 4000))
    emb, labels = emb_NE[::step], labels_N[::step]
    other = np.triu(labels[:, None] != labels[None, :], 1)
    impostor = (emb @ emb.T)[other]
    if not genuine.size or not impostor.size:
        return {"n_genuine": int(genuine.size), "n_impostor": int(impostor.size)}
    nearest = _nearest_other(unit_rows(np.stack([emb_NE[rows].mean(axis=0) for rows in owned]), "templates"))
    pair = calibration.pairs.get("sample/sample")
    known = zip(pair.fmr, pair.cos, strict=True) if pair else ()
    levels = {f"{f:g}": float((impostor >= c).mean()) for f, c in known}
    return {
        "recogniser": calibration.space.name,
        "n_genuine": int(genuine.size),
        "n_impostor": int(impostor.size),
        "genuine_mean_cos": float(genuine.mean()),
        "impostor_mean_cos": float(impostor.mean()),
        "eer": equal_error_rate(genuine, impostor),
        "fmr_in_set_at_calibrated_fmr": levels,
        "nearest_other_template_cos_max": float(nearest.max()),
        "nearest_other_template_cos_median": float(np.median(nearest)),
    }


def _pairs_within(emb_KE: Float32) -> Float32:
    """Return the cosines of all pairs of one identity's images, of an even subset of 200 where it has more."""
    emb = emb_KE[:: max(1, -(-len(emb_KE) // 200))]
    pairs: Float32 = (emb @ emb.T)[np.triu_indices(len(emb), 1)]
    return pairs


def _nearest_other(templates_ME: Float32, block: int = 1024) -> Float32:
    """Return each template's largest cosine to another one, in memory of one block of rows."""
    out = []
    for start in range(0, len(templates_ME), block):
        cos = templates_ME[start : start + block] @ templates_ME.T
        rows = np.arange(len(cos))
        cos[rows, start + rows] = -1.0
        out.append(cos.max(axis=1))
    return np.concatenate(out)
