"""The galleries of a report: bounded choices of stored pictures, each with the rule by which it was made.

Bytes are those that are stored; nothing is decoded or encoded. A gallery ends where its pictures or its bytes would be
too many, so that the report of any dataset stays small.

Legend: M identities whose templates are compared, E dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.domain.cosines import exact_cosines
from pipeline.domain.manifest import IndexRow, segment_path
from pipeline.domain.previews import PREFIX, Preview
from pipeline.domain.records import Float32
from pipeline.domain.report import Gallery, Picture
from pipeline.flow.judge import OWN
from pipeline.flow.reporting.picks import shuffled, within_bytes
from pipeline.flow.reporting.survey import Subject, Survey

MOST_PAIRS = 12
MOST_REFUSED = 48
_SAID = {
    "yaw_deg": "measured yaw {:.0f} degrees",
    "pitch_deg": "pitch {:.0f} degrees",
    "apparent_age_years": "apparent age {:.0f} years",
    OWN: "own-template cosine {:.2f}",
}
"""What a picture's description says of measures, where they are there."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The other identity that each one's template is most like, under one recogniser.

    Attributes:
        ordinals: M ordinals.
        cos: M cosines; -1 where there is nobody else.
        other: M places, each that of the nearest; -1 where there is nobody else.
    """

    ordinals: Sequence[int]
    cos: Sequence[float]
    other: Sequence[int]

    def pairs(self, most: int) -> list[tuple[float, int, int]]:
        """Return (cosine, ordinal, ordinal) of the pairs that are most alike, the lower ordinal first."""
        found = {
            (-float(c), min(self.ordinals[n], self.ordinals[o]), max(self.ordinals[n], self.ordinals[o]))
            for n, (c, o) in enumerate(zip(self.cos, self.other, strict=True))
            if o >= 0
        }
        return [(-c, a, b) for c, a, b in sorted(found)[:most]]


def galleries(
    subject: Subject, found: Survey, nearest: Nearest | None, threshold_cos: float | None
) -> tuple[list[Gallery], list[tuple[str, str]]]:
    """Return the galleries, and what cannot be shown with the reason.

    Args:
        subject: the version.
        found: what the pass over its segments said.
        nearest: under the judge; None where templates were not compared.
        threshold_cos: at which templates collide; None where unknown.
    """
    needed = {*found.random, *found.lowest.keys()}
    rows = {row.key: row for row in subject.rows if row.key in needed}
    made = [_random(subject, found, rows), _worst(subject, found, rows)]
    lacking: list[tuple[str, str]] = []
    if nearest is not None and (pairs := nearest.pairs(MOST_PAIRS)):
        made.append(_most_similar(subject, pairs, threshold_cos))
    else:
        lacking.append(("the most similar identities", "fewer than two identities were compared"))
    previews = [p for name in sorted(subject.made) for p in _previews(subject, name)]
    made.append(_refused(previews))
    if found.counts.refused and not previews:
        why = "refused pictures are not stored, and this dataset keeps no previews of them"
        lacking.append(("pictures of refused candidates", why))
    return [g for g in made if g.pictures], lacking


def _random(subject: Subject, found: Survey, rows: Mapping[str, IndexRow]) -> Gallery:
    fitting = within_bytes((rows[key] for key in found.random), lambda row: row.length)
    pictures = [
        _picture(subject, row, found.numbers.get(row.key, {}), "published", f"identity {row.identity}", {})
        for row in sorted(fitting, key=lambda row: row.cell)
    ]
    chosen = (
        "Published pictures in the order of a digest of their keys, the cells taking turns: chance that anybody can "
        "repeat, and nobody can steer."
    )
    return Gallery("random", "Random pictures", chosen, tuple(pictures))


def _worst(subject: Subject, found: Survey, rows: Mapping[str, IndexRow]) -> Gallery:
    named = found.lowest.shown()
    turns = sorted(
        (turn, place, value, key)
        for place, (_, kept) in enumerate(named)
        for turn, (value, key) in enumerate(kept)
    )  # fmt: skip
    pictures = []
    for _, place, value, key in sorted(within_bytes(turns, lambda t: rows[t[3]].length), key=lambda t: (t[1], t[0])):
        row, name = rows[key], named[place][0]
        said, caption = f"published with a low {name}", f"identity {row.identity}: {name} {value:.3f}"
        pictures.append(_picture(subject, row, found.numbers.get(key, {}), said, caption, {"lowest in": name}))
    chosen = (
        f"Of the published pictures those with the least {' and the least '.join(name for name, _ in named) or OWN}: "
        "what the filters only just let pass."
    )
    return Gallery("worst-accepted", "Worst of what was accepted", chosen, tuple(pictures))


def _most_similar(subject: Subject, pairs: Sequence[tuple[float, int, int]], threshold_cos: float | None) -> Gallery:
    who = {o for _, a, b in pairs for o in (a, b)}
    owned: dict[int, list[IndexRow]] = defaultdict(list)
    for row in subject.rows:
        if row.identity in who:
            owned[row.identity].append(row)
    emb = _embeddings(subject, owned)
    faces = [(n, cos, _faces(owned[a], owned[b], emb)) for n, (cos, a, b) in enumerate(pairs, start=1)]
    pictures = []
    # a pair is shown whole or not at all
    for number, cos, mine in within_bytes(faces, lambda pair: sum(row.length for row, _ in pair[2])):
        side = "" if threshold_cos is None else ("at or above" if cos >= threshold_cos else "below")
        for row, other in mine:
            caption = f"identity {row.identity}, cosine {cos:.3f} to identity {other}"
            tags = {"separation threshold": side} if side else {}
            said = f"one of the two people of pair {number}"
            pictures.append(_picture(subject, row, {}, said, caption, tags, f"pair {number}"))
    chosen = (
        "Pairs of different identities, each with the one whose template is nearest to its own under the judge, the "
        "most alike first; of each pair the two pictures that are most alike, then another one of each."
    )
    return Gallery("most-similar", "Most similar pairs of different identities", chosen, tuple(pictures))


def _embeddings(subject: Subject, owned: Mapping[int, Sequence[IndexRow]]) -> dict[str, Float32]:
    """Return key -> judge embedding of some identities' published images."""
    by_segment: dict[str, set[str]] = defaultdict(set)
    for rows in owned.values():
        for row in rows:
            by_segment[row.segment].add(row.key)
    out: dict[str, Float32] = {}
    for segment, wanted in sorted(by_segment.items()):
        columns = subject.segments.read_columns(subject.store, segment, ["key", "embedding"])
        out |= {k: columns["embedding"][n].copy() for n, k in enumerate(columns["key"]) if k in wanted}
    return out


def _faces(a: Sequence[IndexRow], b: Sequence[IndexRow], emb: Mapping[str, Float32]) -> list[tuple[IndexRow, int]]:
    """Return the pictures of a pair, each with the other's ordinal: the most alike two, then the next key of each."""
    a_AE, b_BE = np.stack([emb[r.key] for r in a]), np.stack([emb[r.key] for r in b])
    rows, columns = (n.ravel() for n in np.indices((len(a), len(b))))
    best = int(np.argmax(exact_cosines(a_AE, rows, b_BE, columns)))
    first, second = int(rows[best]), int(columns[best])
    chosen = [(a[first], b[0].identity), (b[second], a[0].identity)]
    if len(a) > 1 and len(b) > 1:
        chosen += [(a[(first + 1) % len(a)], b[0].identity), (b[(second + 1) % len(b)], a[0].identity)]
    return chosen


def _previews(subject: Subject, unit: str) -> list[Preview]:
    if not any(f.path.startswith(PREFIX) for f in subject.made[unit].files):
        return []
    try:
        return subject.segments.read_previews(subject.store, unit)
    except FileNotFoundError:
        # they may be deleted at any time, and a version does not stand on them
        return []


def _refused(previews: Sequence[Preview]) -> Gallery:
    by_reason: dict[str, list[Preview]] = defaultdict(list)
    for preview in sorted(previews, key=lambda p: (shuffled(p.key), p.key)):
        by_reason[preview.reason].append(preview)
    turns = sorted((turn, reason) for reason, mine in by_reason.items() for turn in range(len(mine)))[:MOST_REFUSED]
    fitting = within_bytes(turns, lambda t: len(by_reason[t[1]][t[0]].jpeg))
    chosen = [by_reason[reason][turn] for reason, turn in sorted((reason, turn) for turn, reason in fitting)]
    pictures = (
        Picture(
            jpeg=p.jpeg,
            alt=f"Face made for identity {p.identity}, cell {p.cell}, refused: {_words(p.reason)}",
            caption=f"{_words(p.reason)}: {p.value:.3g}, threshold {p.threshold:.3g}",
            tags={"cell": p.cell, "reason": p.reason},
            group=p.reason,
        )
        for p in chosen
    )
    said = (
        "Of the refused pictures that units keep for people to look at, some of each first reason, in the order of a "
        "digest of their keys. Pictures that were refused because they may show a real person or a minor are not kept."
    )
    return Gallery("refused", "Refused, by reason", said, tuple(pictures))


def _picture(
    subject: Subject,
    row: IndexRow,
    numbers: Mapping[str, float],
    verdict: str,
    caption: str,
    tags: Mapping[str, str],
    group: str = "",
) -> Picture:
    said = [words.format(numbers[name]) for name, words in _SAID.items() if name in numbers]
    return Picture(
        jpeg=subject.store.get_range(segment_path(row.segment, "tar"), row.offset, row.length),
        alt="; ".join([f"Face of identity {row.identity}, cell {row.cell}, {verdict}", *said]),
        caption=caption,
        tags={"cell": row.cell, **tags},
        group=group or f"identity {row.identity}",
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
