"""What a version of a curated dataset says of its inputs that was not curated anew: judged again, or erased from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.domain.manifest import IndexRow
from pipeline.domain.privacy import holds_people
from pipeline.domain.records import identity_of, slot_of
from pipeline.execute.session import Session
from pipeline.flow.curating.account import account_of, ai_made_of
from pipeline.flow.past import Step


def inputs_told(
    session: Session, step: Step, rows: Sequence[IndexRow], left_out: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return counts and figures that stand in place of those of minting; nothing of a minted dataset.

    Args:
        session: the run.
        step: the generation; what its parent says of sources and cleaning is true of it too.
        rows: the index, without twins.
        left_out: key of an image that new filters leave out -> its reasons.
    """
    said = step.published or step.parent
    if said is None or not holds_people(session.parts.recipe):
        return {}, {}
    why = {(identity_of(key), slot_of(key)): reasons[0] for key, reasons in (left_out or {}).items()}
    counts = {
        "identities_expected": len({row.identity for row in rows}),
        "images_expected": len(rows),
        "identities_short": {},
        "missing_by_cell": {},
        "inputs": account_of(session.parts, session.tables, step.number, rows, why),
        "images_ai_made": ai_made_of(session.parts, rows),
        **{name: said.counts[name] for name in ("sources", "curated") if name in said.counts},
    }
    return counts, {"cleaning": said.figures["cleaning"]} if "cleaning" in said.figures else {}
