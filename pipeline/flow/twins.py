"""Twins of accepted images: their stored pixels changed, stored again, measured and embedded, and judged by nobody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.domain.manifest import Counts, IndexRow
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import Candidate, Conditions, Sample, UInt8, Verdict
from pipeline.domain.rng import Key, Stream
from pipeline.domain.twins import PREFIX, is_twin, number_of, parent_of, twin_key, twins_of
from pipeline.flow.judge import OWN, UNREADABLE, Templates, samples_of
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed
from pipeline.flow.window import Try

TOGETHER = 256
"""Twins made at once: bounds memory, and changes nothing, as networks see full batches either way."""


@dataclass(frozen=True, slots=True)
class _Asked:
    parent: Candidate
    number: int


@dataclass(frozen=True, slots=True)
class TwinMaker:
    """Makes the twins of an identity's accepted images.

    Args:
        parts: the ports.
        templates: of everybody enrolled, which twins are compared with.
    """

    parts: Parts
    templates: Templates

    def of(self, accepted: Sequence[Candidate]) -> list[Candidate]:
        """Return the twins that the recipe asks for, in the order of their parents, then by number.

        One that cannot be embedded is returned as refused, without pixels. Twins have no verdicts but that one: what
        would refuse a mask is what it is there for.
        """
        recipe = self.parts.recipe
        shares = [node.share for node in recipe.twins]  # type: ignore[attr-defined]
        asked = [
            _Asked(candidate, number)
            for candidate in accepted
            for number in twins_of(recipe.seed, shares, candidate.sample.identity, candidate.sample.slot)
        ]
        blocks = (asked[start : start + TOGETHER] for start in range(0, len(asked), TOGETHER))
        return [twin for block in blocks for twin in self._made(block)]

    def _made(self, asked: Sequence[_Asked]) -> list[Candidate]:
        parts = self.parts
        drawn = [self.drawn(a.parent, a.number) for a in asked]
        stored = [parts.codec.encode(face) for face, _ in drawn]
        decoded = np.stack([parts.codec.decode(data) for data in stored])
        emb, sound = embed_each(parts.judge, decoded, parts.judge_batch)
        measures = measure_fixed(parts.measurers, decoded, parts.judge_batch)
        sound &= finite_rows(measures, len(asked))
        tries = [Try(a.parent.sample.identity, a.parent.sample.slot, a.parent.sample.attempt) for a in asked]
        samples = samples_of(tries, [c for _, c in drawn], emb, measures, sound, self.templates)
        return [
            _candidate(a, sample, stored[n], sound=bool(sound[n]))
            for n, (a, sample) in enumerate(zip(asked, samples, strict=True))
        ]

    def drawn(self, parent: Candidate, number: int) -> tuple[UInt8, Conditions]:
        """Return a twin's pixels, and its parent's conditions with its own."""
        if parent.jpeg is None:
            raise ValueError(f"{parent.sample.key} was accepted without pixels; a twin is made of them")
        sample, use = parent.sample, self.parts.recipe.twins[number - 1].use
        rng = Key(self.parts.recipe.seed, Stream.TWIN, sample.identity, sample.slot, number).generator()
        face, facts = self.parts.twins[number - 1].apply(self.parts.codec.decode(parent.jpeg), sample, rng)
        own = {f"{PREFIX}{use}": float(number)} | {f"{PREFIX}{use}:{name}": float(v) for name, v in facts.items()}
        return face, {**sample.conditions, **own}


def _candidate(asked: _Asked, sample: Sample, stored: bytes, *, sound: bool) -> Candidate:
    parent = asked.parent
    return Candidate(
        sample=replace(sample, key=twin_key(parent.sample.key, asked.number)),
        order=parent.order,
        verdicts=() if sound else (Verdict("numbers", False, UNREADABLE, 0.0, 0.0),),
        accepted=sound,
        off_target=parent.off_target and sound,
        jpeg=stored if sound else None,
    )


def counts_of_rows(columns: Mapping[str, Any]) -> Counts:
    """Return what a make unit's rows count: candidates, and beside them twins that were kept.

    Args:
        columns: `key`, `accepted`, `off_target` and `reasons` of its segment.
    """
    kept, missed = np.asarray(columns["accepted"], bool).tolist(), np.asarray(columns["off_target"], bool).tolist()
    rows = list(zip(columns["key"], kept, missed, columns["reasons"], strict=True))
    counts = Counts.of((k, m, tuple(reasons)) for key, k, m, reasons in rows if not is_twin(key))
    return replace(counts, twins=sum(k for key, k, _, _ in rows if is_twin(key)))


def candidate_columns(parts: Parts, unit: str, names: Sequence[str]) -> Mapping[str, Any]:
    """Return columns of a make unit's segment as `SegmentWriter.read_columns` does, without the rows of twins."""
    if not parts.twins:
        return parts.segments.read_columns(parts.store, unit, names)
    columns = parts.segments.read_columns(parts.store, unit, [*names, *({"key"} - set(names))])
    mine = [n for n, key in enumerate(columns["key"]) if not is_twin(key)]
    return {
        name: columns[name][mine] if isinstance(columns[name], np.ndarray) else [columns[name][n] for n in mine]
        for name in names
    }


def with_twins(parts: Parts, rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Return the rows of an index with those of their twins, sorted; the audits of the segments are read.

    Args:
        parts: the ports.
        rows: images that are no twins.
    """
    if not parts.twins:
        return list(rows)
    by_segment: dict[str, dict[str, IndexRow]] = defaultdict(dict)
    for row in rows:
        by_segment[row.segment][row.key] = row
    out = list(rows)
    for segment, images in sorted(by_segment.items()):
        found = parts.segments.read_audit(parts.store, segment)
        for key, offset, length in zip(found.keys, found.offset_N.tolist(), found.length_N.tolist(), strict=True):
            parent = images.get(parent_of(key) or "")
            if parent is not None:
                out.append(replace(parent, key=key, offset=offset, length=length))
    return sorted(out)


def twins_per_image(recipe: Recipe) -> float:
    """Return how many twins an accepted image gets on the average."""
    return float(sum(node.share for node in recipe.twins))  # type: ignore[attr-defined]


def twin_figures(parts: Parts, rows: Sequence[IndexRow]) -> list[dict[str, Any]]:
    """Return, per twin of the recipe, how many are published and how near they are to their identity's template.

    Args:
        parts: the ports; the segments are read.
        rows: the index, twins included.
    """
    by_segment: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if is_twin(row.key):
            by_segment[row.segment].add(row.key)
    cos: dict[int, list[float]] = defaultdict(list)
    for segment, wanted in sorted(by_segment.items()):
        columns = parts.segments.read_columns(parts.store, segment, ["key", "measures"])
        for key, measures in zip(columns["key"], columns["measures"], strict=True):
            if key in wanted:
                cos[number_of(key)].append(measures[OWN])
    return [
        {
            "twin": node.use,
            "images": len(cos[number]),
            "own_template_cos_mean": float(np.mean(cos[number])) if cos[number] else None,
            "own_template_cos_p10": float(np.quantile(cos[number], 0.1)) if cos[number] else None,
        }
        for number, node in enumerate(parts.recipe.twins, start=1)
    ]
