"""The review queue: what lies near a threshold, as a small table that people fill in and give back.

A line is about a face (is it of its label?) or about two provisional identities (are they one person?). Whoever reviews
writes a word into `decision`; lines without one decide nothing. A decision is honoured where it is given back before
the generation is published; which face or pair it was about, and the word, are kept with who is who.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.domain.errors import UserError

COLUMNS = ("kind", "id", "other", "sha256", "label", "now", "value", "threshold", "decision")
LOG_COLUMNS = ("kind", "id", "other", "decision")
FACE_WORDS, PAIR_WORDS = ("keep", "refuse"), ("same", "apart")
MOST_LINES = 1_000_000
Place = tuple[int, int]
"""Row and face, or bucket and number."""
Pair = frozenset[Place]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the queue.

    Attributes:
        kind: `face` or `pair`.
        id: `row.face` of a face, `bucket.number` of a provisional identity.
        other: of a pair the other one; of a face nothing.
        sha256: of the face's picture, or of the two people's numbers, so that a decision is not taken for one about
            something else.
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
    """What people decided: what it is about -> the digest that its line had.

    Attributes:
        keep: (row, face) of faces.
        refuse: (row, face) of faces.
        same: pairs of (bucket, number).
        apart: pairs of (bucket, number).
    """

    keep: Mapping[Place, str] = field(default_factory=dict)
    refuse: Mapping[Place, str] = field(default_factory=dict)
    same: Mapping[Pair, str] = field(default_factory=dict)
    apart: Mapping[Pair, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.keep) + len(self.refuse) + len(self.same) + len(self.apart)

    @property
    def faces(self) -> dict[Place, str]:
        """Return (row, face) -> digest of every face that is decided about, in the order of the listing."""
        return dict(sorted({**self.keep, **self.refuse}.items()))

    @property
    def pairs(self) -> dict[Pair, str]:
        """Return pair -> digest of every pair that is decided about, in a fixed order."""
        return dict(sorted({**self.same, **self.apart}.items(), key=lambda one: sorted(one[0])))

    def word(self, about: Place | Pair) -> str:
        """Return what is decided about a face or a pair; empty where nothing is."""
        words: tuple[tuple[str, Mapping[Place, str] | Mapping[Pair, str]], ...] = (
            ("keep", self.keep), ("refuse", self.refuse), ("same", self.same), ("apart", self.apart),
        )  # fmt: skip
        return next((word for word, held in words if about in held), "")

    def log(self) -> bytes:
        """Return what is kept of them: words and numbers, and nothing that tells who is meant once a row is erased."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(LOG_COLUMNS)
        for face in self.faces:
            writer.writerow(("face", named(face), "", self.word(face)))
        for pair in self.pairs:
            one, other = sorted(pair)
            writer.writerow(("pair", named(one), named(other), self.word(pair)))
        return out.getvalue().encode()


def named(place: Place) -> str:
    """Return the id of a face or of a provisional identity, as the queue has it."""
    return f"{place[0]}.{place[1]}"


def place_of(text: str) -> Place:
    """Return what an id names; raises ValueError where it is none."""
    first, dot, second = text.strip().partition(".")
    if not (dot and first.isdecimal() and second.isdecimal() and len(text) < 40):
        raise ValueError(f"got {text[:40]!r}; ids are two numbers with a dot, as the queue has them")
    return int(first), int(second)


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
        UserError: not such a table, a word that decides nothing, or two words about one thing; one line with the line's
            number.
    """
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: not a table of decisions ({error}); give back the queue as CSV in UTF-8") from None
    if not rows or tuple(c.strip() for c in rows[0]) != COLUMNS:
        raise UserError(f"{where}: its first line is not {','.join(COLUMNS)}; give back the queue with its columns")
    if len(rows) > MOST_LINES:
        raise UserError(f"{where}: has {len(rows)} lines, at most {MOST_LINES} are read; give back the lines decided")
    words: dict[Place | Pair, tuple[str, str, int]] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            found = _decided(row)
            if found is None:
                continue
            about, word, digest = found
            before = words.setdefault(about, (word, digest, number))
            if before[0] != word:
                raise ValueError(f"got {word!r}, and line {before[2]} says {before[0]!r} of the same; keep one")
        except ValueError as error:
            raise UserError(f"{where}, line {number}: {error}") from None
    return Decisions(*({a: d for a, (w, d, _) in words.items() if w == word} for word in (*FACE_WORDS, *PAIR_WORDS)))  # type: ignore[arg-type]


def _decided(row: Sequence[str]) -> tuple[Place | Pair, str, str] | None:
    """Return what a line is about, its word and its digest; None where it decides nothing."""
    if not any(cell.strip() for cell in row):
        return None
    if len(row) != len(COLUMNS):
        raise ValueError(f"got {len(row)} columns; a line of the queue has {len(COLUMNS)}")
    kind, word, digest = row[0].strip(), row[-1].strip().lower(), row[3].strip()
    allowed = {"face": FACE_WORDS, "pair": PAIR_WORDS}.get(kind)
    if allowed is None:
        raise ValueError(f"got {kind[:40]!r}; a line of the queue is about a face or a pair")
    if not word:
        return None
    if word not in allowed:
        raise ValueError(f"got {word[:40]!r}; of a {kind} write {' or '.join(allowed)}, or nothing")
    if kind == "face":
        return place_of(row[1]), word, digest
    pair = frozenset((place_of(row[1]), place_of(row[2])))
    if len(pair) < 2:
        raise ValueError(f"got {row[1].strip()!r} twice; a pair is of two people")
    return pair, word, digest


def nearest(lines: Sequence[Line], most: int) -> list[Line]:
    """Return the lines of each kind whose value lies nearest to its threshold, in a fixed order; all decided ones."""
    out: list[Line] = []
    for kind in ("face", "pair"):
        mine = sorted(
            (one for one in lines if one.kind == kind),
            key=lambda one: (not one.decision, abs(one.value - one.threshold), one.id, one.other),
        )
        out += mine[: max(most, sum(bool(one.decision) for one in mine))]
    return out


def _safe(text: str) -> str:
    """Return text that a spreadsheet takes for text: a label may begin like a formula."""
    plain = "".join(c if c.isprintable() else " " for c in text.replace("\n", " / "))
    return f"'{plain}" if plain.lstrip().startswith(("=", "+", "-", "@")) else plain
