"""What a version says of itself that left out what was erased: when it is published, and when a document is redrawn."""

from __future__ import annotations

from dataclasses import replace

from pipeline.domain.errors import StoreError
from pipeline.domain.tombstones import Tombstones
from pipeline.execute.accounting import inputs_told
from pipeline.execute.figures import counts_of, figures_of
from pipeline.execute.funnel import funnel_of
from pipeline.execute.session import Session
from pipeline.flow.admission import quota_within
from pipeline.flow.commit import Books
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, past_of
from pipeline.flow.publish import About
from pipeline.flow.rounds import Standing
from pipeline.flow.versions import image_rows


def past_of_itself(parts: Parts, step: Step, books: Books) -> Past:
    """Return the state of a version that stands, as it says itself: its parent is retired, and has no index any more.

    Raises:
        StoreError: the version is gone.
    """
    standing = step.published
    if standing is None:
        raise StoreError(
            f"{parts.store.uri}: generation {step.number} leaves out what was erased, and its version is gone; restore "
            "versions/ from a copy"
        )
    rows = tuple(image_rows(parts.segments, parts.store, standing))
    return replace(
        past_of(parts, step.number, None, books.known),
        rows=rows,
        labels={r.identity: r.label for r in rows},
        tombstones=standing.tombstones,
        labels_given=int(standing.counts.get("labels_given", 0)),
    )


def about_erased(session: Session, books: Books, step: Step, past: Past) -> About:
    """Return counts, figures and models of a version that left out what was erased.

    Args:
        session: the run.
        books: every receipt.
        step: the generation that leaves it out.
        past: who is published in it, with which images and labels.
    """
    parts, recipe = session.parts, session.parts.recipe
    cells = {m.ordinal: m.cell for m in past.members}
    there = past.published
    available = there.copy()
    available.update(m.cell for m in past.reserve)
    quota = quota_within(parts.targets, recipe.identities.count, available, there)
    standing = Standing((), {}, {c: n - there[c] for c, n in quota.items() if n > there[c]}, {})
    counts = counts_of(session, past, standing, books.known, (), past.rows)
    figures = figures_of(session, past, standing, cells, quota, past.rows)
    inputs, cleaning = inputs_told(session, step, past.rows)
    return About(
        models=session.models,
        # what is quarantined can still be made up for
        counts={**counts, "units_quarantined": _quarantined(step), "erased": _erased(step), **inputs},
        figures={**figures, "funnel": funnel_of(parts, books.known, cells, past.rows), **cleaning},
    )


def _quarantined(step: Step) -> list[str]:
    return list(step.parent.counts.get("units_quarantined", ())) if step.parent else []


def _erased(step: Step) -> dict[str, int]:
    before = step.parent.tombstones if step.parent else Tombstones()
    erased = step.erased if step.published is None else step.published.tombstones - before
    return {
        "identities": len(erased.identities),
        "images": len(erased.images),
        "candidates": len(erased.candidates),
    }
