"""Settling who is whom in a curation: clusters of labels, decisions of people, block lists; written once, then read.

The receipt that closes a generation's enrolment is written last; as long as its generation is not published, people may
decide otherwise, and then it is settled anew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.domain.leakage import JUDGE
from pipeline.domain.manifest import Counts, FileEntry, Receipt, sha256_hex
from pipeline.domain.records import Cell, unit_rows
from pipeline.domain.review import Decisions, Line, decisions_of, written
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.figures import tally
from pipeline.execute.session import Session, forget_unplanned
from pipeline.flow.commit import Books, commit, enrolled_path, enrolled_receipt_name
from pipeline.flow.curating.clean import limits_of
from pipeline.flow.curating.decide import Decided, decide
from pipeline.flow.curating.faces import Before, Case
from pipeline.flow.curating.kit import Kit, curation
from pipeline.flow.curating.listing import listing_name
from pipeline.flow.curating.outcomes import (
    IDENTITY_COLUMNS,
    OUTCOME_COLUMNS,
    identities_path,
    in_order,
    outcome_path,
    outcomes_of,
    refused_before,
)
from pipeline.flow.curating.people import Between, Provisional, Standing, between, read_provisional
from pipeline.flow.curating.review import Item, log_path, pictured, queue_of, queue_path
from pipeline.flow.parts import Parts
from pipeline.flow.past import Past, Step, published_templates


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What people said of a review queue.

    Attributes:
        decisions: what they decided.
        table: the table that they gave back, empty where none was.
        hold: stop before anything is written, so that they can.
    """

    decisions: Decisions = field(default_factory=Decisions)
    table: bytes = b""
    hold: bool = False

    @property
    def digest(self) -> str:
        """Return the digest of what was decided, and of what about; empty where nothing was."""
        digests = [*self.decisions.faces.values(), *self.decisions.pairs.values()]
        return sha256_hex(self.decisions.log() + "\n".join(digests).encode()) if self.decisions else ""


def what_stands(parts: Parts, kit: Kit, step: Step, past: Past) -> Before:
    """Return what earlier generations left, for deciding."""
    if not step.number:
        return Before()
    labels = past.labels or {}
    ordinals, templates = published_templates(parts, past)
    cells = {m.ordinal: m.cell for m in past.members}
    owner: dict[str, int] = {}
    hashes: dict[int, list[tuple[str, int]]] = defaultdict(list)
    slots: dict[int, int] = {}
    for generation in range(step.number):
        if parts.store.size(outcome_path(generation)) is None:
            continue
        told = kit.tables.read(parts.store, identities_path(generation), ["owner", "cluster", "ordinal"])
        for name, cluster, ordinal in zip(
            told["owner"], *(told[k].tolist() for k in ("cluster", "ordinal")), strict=True
        ):
            if name and not cluster and ordinal in labels:
                owner.setdefault(name, ordinal)
        held = kit.tables.read(parts.store, outcome_path(generation), ["identity", "slot", "sha256", "hash"])
        numbers = (held[k].tolist() for k in ("identity", "slot", "hash"))
        for sha, (identity, slot, hash_) in zip(held["sha256"], zip(*numbers, strict=True), strict=True):
            if identity >= 0:
                hashes[identity].append((sha, hash_ % (1 << 64)))
                slots[identity] = max(slots.get(identity, 0), slot + 1)
    ranks: dict[Cell, int] = {}
    for member in past.members:
        ranks[member.cell] = max(ranks.get(member.cell, 0), member.rank + 1)
    return Before(
        standing=Standing(ordinals, templates, owner),
        images=Counter(r.identity for r in past.rows),
        slots=slots,
        hashes=hashes,
        cells=cells,
        first_ordinal=max(past.enrolled, 1 + max((m.ordinal for m in past.members), default=-1)),
        ranks=ranks,
    )


def settle(
    session: Session,
    kit: Kit,
    books: Books,
    step: Step,
    before: Before,
    reviewed: Reviewed,
    ingest: Sequence[Unit],
    clean: Sequence[Unit],
) -> None:
    """Decide who is whom, write it, and close the generation's enrolment; done already, it costs nothing.

    Raises:
        UserError: decisions that are about another dataset, or contradict each other.
    """
    parts, name = session.parts, enrolled_receipt_name(step.number)
    standing = books.has(name)
    if not reviewed.table:
        reviewed = _given_before(parts, step, reviewed)
    if standing and not (reviewed.table and books.known[name].unit["curated"]["decisions"] != reviewed.digest):
        return
    session.observer.event("stage", name="between identities", total=1, done=0)
    asked = curation(parts)
    limits = limits_of(parts.judge, asked.clean)
    units = [u.name for u in clean]
    people = read_provisional(kit, parts, units)
    found = between(people, before.standing, limits, reviewed.decisions)
    blocked = _blocked(parts, people, found)
    case = Case(parts, kit, asked.clean, limits, people, found, before, units, reviewed.decisions)
    decided = decide(case, blocked)
    # decisions are sound: what stands gives way to them
    _keep_given(parts, step, reviewed)
    if standing:
        # what was written of who was whom goes first: a run that is killed here decides anew before it writes
        forget_unplanned(books, Stage.MAKE, step.number, ())
        books.drop(name, "people decided otherwise", again=False)
    first, stop = books.known[listing_name(step.number)].unit["rows"]
    rows = outcomes_of(decided.faces, decided.ordinal, before)
    outcomes = in_order(rows, refused_before(parts, kit, ingest), (int(first), int(stop)))
    files = [
        kit.tables.write(parts.store, outcome_path(step.number), OUTCOME_COLUMNS, outcomes),
        kit.tables.write(parts.store, identities_path(step.number), IDENTITY_COLUMNS, decided.people),
    ]
    lines = queue_of(case, decided.faces, asked.review)
    files += _queue(session, kit, step, lines, pictured(case, decided.faces, lines, step.number), reviewed.decisions)
    if decided.identities:
        path = enrolled_path(step.number, private=True)
        files.append(parts.segments.write_identities(parts.store, path, decided.identities, parts.judge.space))
    receipt = _closing(parts, step, before, people, found, decided, files, reviewed)
    commit(parts, receipt)
    books.add(receipt)
    session.observer.event("step")


def _keep_given(parts: Parts, step: Step, reviewed: Reviewed) -> None:
    """Keep what was given back until its generation is settled, so that a run that is killed loses no decision."""
    if reviewed.table:
        parts.guard()
        parts.store.put(queue_path(step.number, "given.csv"), reviewed.table)


def _given_before(parts: Parts, step: Step, reviewed: Reviewed) -> Reviewed:
    """Return what was given to a run that was killed before it had settled anything by it."""
    path = queue_path(step.number, "given.csv")
    if parts.store.size(path) is None:
        return reviewed
    table = parts.store.get(path)
    return Reviewed(decisions_of(table, path), table, reviewed.hold)


def _queue(
    session: Session, kit: Kit, step: Step, lines: Sequence[Line], items: Sequence[Item], decisions: Decisions
) -> list[FileEntry]:
    """Write the review queue and its page, and what was decided; return the file that stays, which is the last."""
    parts, name = session.parts, session.parts.recipe.name
    table, log = queue_path(step.number, "csv"), log_path(step.number)
    held = {table: written(lines), queue_path(step.number, "html"): kit.review_page(name, items, table)}
    if decisions:
        held[log] = decisions.log()
    for path, data in held.items():
        parts.guard()
        parts.store.put(path, data)
    if not decisions and parts.store.size(log) is not None:
        parts.store.delete(log)
    return [FileEntry(log, sha256_hex(held[log]), len(held[log]))] if decisions else []


def _closing(
    parts: Parts,
    step: Step,
    before: Before,
    people: Provisional,
    found: Between,
    decided: Decided,
    files: Sequence[FileEntry],
    reviewed: Reviewed,
) -> Receipt:
    """Return the receipt that says who is enrolled."""
    refused = tally(r["reason"] for r in decided.people if r["ordinal"] < 0)
    enrolled = len(decided.identities)
    counts = Counts(enrolled + sum(refused.values()), enrolled, sum(refused.values()), refused)
    unit = {
        "stage": "enrolled",
        "generation": step.number,
        "index": 0,
        "round": 0,
        "candidates": before.first_ordinal + enrolled,
        "curated": {
            "labels": len(people.owners),
            "merged": int((found.root_M != np.arange(len(people.owners))).sum()),
            "joined_published": int((found.joins_M >= 0).sum()),
            "moved_faces": decided.strays,
            "decisions": reviewed.digest,
            "decided_by_review": len(reviewed.decisions),
            "alike_published": [[a, b, cos] for a, b, cos in found.alike],
        },
    }
    return Receipt(
        unit=unit,
        name=enrolled_receipt_name(step.number),
        fingerprint=parts.prints.fingerprint,
        plan_digest=parts.prints.plan_digest,
        counts=counts,
        files=tuple(sorted(files)),
        run=dict(parts.run_facts),
    )


def _blocked(parts: Parts, people: Provisional, found: Between) -> dict[int, str]:
    """Return the roots whose template matches a block list or a benchmark, under the judge."""
    screen = parts.screen
    if screen is None or not screen.refuses:
        return {}
    roots = [n for n in range(len(people.owners)) if found.root_M[n] == n and not found.reason_M[n]]
    if not roots:
        return {}
    total = np.zeros(people.sums_ME.shape)
    np.add.at(total, found.root_M, people.sums_ME.astype(np.float64))
    templates = unit_rows(total[roots], "templates")
    images = parts.recipe.enrol.probes
    names = ", ".join(g.name for g in screen.settings.galleries)
    numbers = screen.numbers({JUDGE: templates})
    return {root: names for root, near in zip(roots, numbers, strict=True) if screen.leaks(near, images)}
