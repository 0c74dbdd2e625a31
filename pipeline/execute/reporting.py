"""Gathers the facts of a report from what is stored: no model is loaded, nothing is decoded.

What the published report says must be the same whenever and wherever it is drawn again, so it holds nothing of a run:
no time, host or speed. The verb adds those (`live`).

Legend: M identities, E dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.domain.errors import StoreError
from pipeline.domain.fingerprint import NO_BYTES
from pipeline.domain.manifest import IndexRow, Manifest
from pipeline.domain.ports import Filter, SegmentWriter, Store
from pipeline.domain.report import Funnel, ReportFacts
from pipeline.execute.generations import read_step
from pipeline.execute.provenance import provenance_of, throughput_of
from pipeline.flow.commit import enrolled_count, receipts
from pipeline.flow.parts import Parts
from pipeline.flow.reporting.measures import measure_facts
from pipeline.flow.reporting.showcase import galleries
from pipeline.flow.reporting.similarity import Known, similarity_facts
from pipeline.flow.reporting.survey import (
    AUDITOR,
    JUDGE,
    MOST_IMAGES,
    MOST_TEMPLATES,
    Subject,
    Survey,
    cells_of,
    survey,
    units_of,
)
from pipeline.flow.siblings import NEAREST as NEAREST_SIBLING
from pipeline.flow.sidecars import side_car_records


def known_of(parts: Parts, manifest: Manifest) -> Known:
    """Return what the parts of a version's recipe say of themselves; nothing is loaded for it.

    Args:
        parts: the ports.
        manifest: of the version; as many people as were enrolled by then are what thresholds 1:N rest on.
    """
    enrolled = enrolled_count(receipts(parts.store, "enrolled-"), manifest.generation + 1)
    filters: Sequence[Filter] = ()
    # a copy that was handed on has no private/, and so no thresholds of galleries: only what rests on them is missing
    with suppress(StoreError, FileNotFoundError):
        filters = parts.filters(enrolled)
    return Known(
        calibrations={JUDGE: parts.judge.calibration, AUDITOR: parts.auditor.calibration},
        spaces={
            "bank": parts.sampler.space,
            "generator": parts.generator.space,
            JUDGE: parts.judge.space,
            AUDITOR: parts.auditor.space,
        },
        filters=filters,
    )


def gather(
    store: Store,
    segments: SegmentWriter,
    manifest: Manifest,
    rows: Sequence[IndexRow],
    known: Known,
    *,
    live: bool,
) -> ReportFacts:
    """Return the facts of a version's report.

    Args:
        store: the dataset.
        segments: reads it.
        manifest: of the version; it need not be written yet, nor its documents.
        rows: its index without twins, sorted.
        known: its models.
        live: add what belongs to runs and places: throughput, library versions, exports. Never of a published report.

    Raises:
        StoreError: a file is missing, or what is stored does not add up.
    """
    steps = [read_step(store, g) for g in range(manifest.generation + 1)]
    recipe = steps[-1]["recipe"]
    units = set(units_of(manifest))
    subject = Subject(
        store=store,
        segments=segments,
        manifest=manifest,
        rows=rows,
        made={n: r for n, r in receipts(store, "make-").items() if n in units},
        cells=cells_of(segments, store, manifest.generation),
        has_twins=bool(recipe.get("twins")) or bool(manifest.counts.get("twins")),
        # they come and go beside a version, so what is published does not mention them
        added=side_car_records(store) if live else {},
    )
    found = survey(subject)
    alike = similarity_facts(found, manifest, recipe, known)
    shown, unseen = galleries(subject, found, alike.nearest, alike.collide.cos if alike.collide else None)
    return ReportFacts(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        manifest={
            "version": manifest.version, "parent": manifest.parent, "generation": manifest.generation,
            "name": manifest.name, "digest": manifest.digest, "fingerprint": manifest.fingerprint,
            "plan_digest": manifest.plan_digest, "counts": manifest.counts, "figures": manifest.figures,
            "models": manifest.models, "use": manifest.use,
        },
        recipe=_placeless(recipe if live else _deciding(recipe)),
        models=_models(manifest, known),
        funnel=_funnel(manifest, found),
        curves=alike.curves,
        spread=alike.spread,
        measures=tuple(measure_facts(subject, found, known.filters)),
        galleries=tuple(shown),
        # a merged dataset's units copied: that is no speed at which anything was made
        throughput=throughput_of(subject.made) if live and not manifest.counts.get("merged") else {},
        provenance=tuple(provenance_of(store, manifest, steps, subject.made if live else {})),
        not_measured=(*alike.lacking, *unseen, *_not_measured(manifest, found, recipe)),
    )  # fmt: skip


def _placeless(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without the places from which photographs come: they are told under `private/` alone."""
    if "sources" not in recipe:
        return dict(recipe)
    return {**recipe, "sources": [{k: v for k, v in node.items() if k != "path"} for node in recipe["sources"]]}


def _deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without what may differ between runs that make the same bytes: where they run, when they stop."""
    told = {name: value for name, value in recipe.items() if name not in ("compute", "previews")}
    filters = [{k: v for k, v in node.items() if f".{k}" not in NO_BYTES} for node in recipe.get("filters", ())]
    return {**told, "filters": filters} if filters else told


def _funnel(manifest: Manifest, found: Survey) -> Funnel:
    counts = found.counts
    every = counts.reasons_any
    reasons = sorted(((r, counts.reasons.get(r, 0), n) for r, n in every.items()), key=lambda r: (-r[1], -r[2], r[0]))
    return Funnel(
        candidates=counts.candidates,
        accepted=counts.accepted,
        refused=counts.refused,
        off_target=counts.off_target,
        published=sum(c.published for c in found.by_cell.values()),
        twins=int(manifest.counts.get("twins", 0)),
        reasons=tuple(reasons),
        by_cell={
            cell: {
                "candidates": c.candidates,
                "accepted": c.accepted,
                "published": c.published,
                "reasons": dict(sorted(c.reasons.items())),
            }
            for cell, c in sorted(found.by_cell.items())
            if c.candidates or c.published
        },
        enrolment=_enrolment(manifest.counts),
        left_out=found.left_out,
        judged_again=_judged_again(manifest.counts),
    )


def _enrolment(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of candidate identities, those that were never probed among them."""
    reasons = dict(sorted(counts["candidates_refused_at_enrolment"].items()))
    enrolled, refused = int(counts["enrolled"]), sum(reasons.values())
    return {
        "candidates": enrolled + refused,
        "accepted": enrolled,
        "refused": refused,
        "reasons": reasons,
        "probed": int(counts["enrol"]["candidates"]),
    }


def _judged_again(counts: Mapping[str, Any]) -> dict[str, Any]:
    again = counts.get("refilter")
    if not again:
        return {}
    names = ("candidates", "accepted", "refused", "reasons", "images_left_out", "left_out_by_reason")
    return {name: again[name] for name in names if name in again}


def _models(manifest: Manifest, known: Known) -> dict[str, dict[str, Any]]:
    out = {}
    for role, card in manifest.models.items():
        space, calibration = known.spaces.get(role), known.calibrations.get(role)
        out[role] = {
            **card,
            "space": space.name if space else None,
            "calibrated_on": calibration.source if calibration else None,
        }
    return out


def _not_measured(manifest: Manifest, found: Survey, recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    published, figures = sum(c.published for c in found.by_cell.values()), manifest.figures
    if isinstance(figures.get("leakage"), str):
        out.append(("leakage of real people", str(figures["leakage"])))
    if manifest.counts.get("merged"):
        out.append(("what was refused, and why", "images were copied from datasets that were merged, which tell it"))
    if published > MOST_IMAGES:
        compared = len(found.compared.owner_S)
        why = f"{compared:,} of {published:,} images were compared, of evenly chosen identities"
        out.append(("pairs of all images", why))
    people = int(manifest.counts["identities"])
    if people > MOST_TEMPLATES:
        why = f"{len(found.compared.ordinals_M):,} of {people:,} were, evenly chosen: of all, fewer are unique"
        out.append(("templates of all identities", why))
    why = "it was added later, to stored images alone"
    out += [(f"{name} of refused candidates", why) for name in sorted(found.added)]
    if NEAREST_SIBLING not in found.measures:
        out.append(("near-duplicates among an identity's pictures", "no filter of the recipe compares siblings"))
    if not figures.get("variation"):
        out.append(("variation against the plan", "no condition of the recipe is read by a measure"))
    if not recipe.get("balance", {}).get("by"):
        out.append(("balance", "the recipe balances over no attribute"))
    return [
        *out,
        ("how well a recogniser trained on it does", "run `facemint evaluate`"),
        ("distance to real images (FID, KID, LPIPS)", "no set of real images is part of a dataset"),
        ("true attributes of the people shown", "all attributes are estimates of appearance, by the models named here"),
    ]
