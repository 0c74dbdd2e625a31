"""The review queue: what lies near a threshold, as a small table that people fill in and give back.

A line is about a face (is it of its label?) or about two provisional identities (are they one person?). Whoever reviews
writes a word into `decision`; lines without one decide nothing. A decision is honoured where it is given back before
the generation is published, and is kept with who is who.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.domain.errors import UserError

COLUMNS = ("kind", "id", "other", "sha256", "label", "now", "value", "threshold", "decision")
FACE_WORDS, PAIR_WORDS = ("keep", "refuse"), ("same", "apart")
MOST_LINES = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the queue.

    Attributes:
        kind: `face` or `pair`.
        id: `row.face` of a face, `bucket.number` of a provisional identity.
        other: of a pair the other one; of a face nothing.
        sha256: of the face's picture, so that a decision is not taken for one about other bytes.
        label: whose it is said to be, by the source.
        now: what is decided without review: `kept`, `refused`, `merged`, `apart` or `dropped`.
        value: the cosine that decided.
        threshold: and what it was held against.
        decision: what a person says; empty where nobody does.
    """

    kind: str
    id: str
    other: str
    sha256: str
    label: str
    now: str
    value: float
    threshold: float
    decision: str = ""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What people decided, by what it is about.

    Attributes:
        keep: (row, face) -> digest of the picture.
        refuse: (row, face) -> digest of the picture.
        same: pairs of (bucket, number).
        apart: pairs of (bucket, number).
    """

    keep: dict[tuple[int, int], str] = field(default_factory=dict)
    refuse: dict[tuple[int, int], str] = field(default_factory=dict)
    same: frozenset[frozenset[tuple[int, int]]] = frozenset()
    apart: frozenset[frozenset[tuple[int, int]]] = frozenset()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.keep) + len(self.refuse) + len(self.same) + len(self.apart)


def written(lines: Iterable[Line]) -> bytes:
    """Return the queue as CSV with a head."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in lines:
        numbers = (f"{one.value:.6f}", f"{one.threshold:.6f}")
        writer.writerow((one.kind, one.id, one.other, one.sha256, _safe(one.label), one.now, *numbers, one.decision))
    return out.getvalue().encode()


def decisions_of(data: bytes, where: str) -> Decisions:
    """Return the decisions of a queue that was given back.

    Raises:
        UserError: not such a table, or a word that decides nothing; one line with the line's number.
    """
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: not a table of decisions ({error}); give back the queue as CSV in UTF-8") from None
    if not rows or tuple(c.strip() for c in rows[0]) != COLUMNS or len(rows) > MOST_LINES:
        raise UserError(f"{where}: its first line is not {','.join(COLUMNS)}; give back the queue with its columns")
    found = Decisions()
    same: set[frozenset[tuple[int, int]]] = set()
    apart: set[frozenset[tuple[int, int]]] = set()
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        kind, word = (row[0].strip(), row[-1].strip().lower()) if len(row) == len(COLUMNS) else ("", "")
        known = {"face": FACE_WORDS, "pair": PAIR_WORDS}.get(kind, ())
        if not known or word not in ("", *known):
            allowed = " or ".join(known) or f"a line of {len(COLUMNS)} columns about a face or a pair"
            raise UserError(f"{where}, line {number}: got {word or kind or 'another number of columns'!r}; {allowed}")
        if not word:
            continue
        if kind == "face":
            (found.keep if word == "keep" else found.refuse)[_pair_of(row[1], where, number)] = row[3].strip()
        else:
            both = frozenset((_pair_of(row[1], where, number), _pair_of(row[2], where, number)))
            (same if word == "same" else apart).add(both)
    return Decisions(found.keep, found.refuse, frozenset(same), frozenset(apart))


def nearest(lines: Sequence[Line], most: int) -> list[Line]:
    """Return the lines of each kind whose value lies nearest to its threshold, in a fixed order."""
    out: list[Line] = []
    for kind in ("face", "pair"):
        mine = [one for one in lines if one.kind == kind]
        out += sorted(mine, key=lambda one: (abs(one.value - one.threshold), one.id, one.other))[:most]
    return out


def _pair_of(text: str, where: str, number: int) -> tuple[int, int]:
    first, _, second = text.strip().partition(".")
    if not (first.isdigit() and second.isdigit()):
        raise UserError(f"{where}, line {number}: got {text!r}; ids are two numbers with a dot, as the queue has them")
    return int(first), int(second)


def _safe(text: str) -> str:
    """Return text that a spreadsheet takes for text: a label may begin like a formula."""
    plain = text.replace("\n", " / ")
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@", "\t", "\r") else plain
