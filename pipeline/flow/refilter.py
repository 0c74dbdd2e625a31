"""Judging again: stored candidates under other filters. Numbers are read, nothing is generated or embedded.

A slot that is filled and still passes keeps its image. One whose image is refused takes another stored image that
passes, where there is one (an earlier version may have left it out); else it stands open. A candidate that passes now
and was refused when it was made has no stored bytes: it is listed as admitted, and made from its key only when asked.

An image is judged as when it was made: against the templates enrolled up to its generation, its siblings being the
images kept before it in the order of making. So with tighter filters the outcome is that of a fresh judgement over the
same candidates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.domain.errors import UserError
from pipeline.domain.manifest import Counts
from pipeline.domain.ports import Filter
from pipeline.domain.records import Cell, Float32, Sample, Verdict, identity_of, slot_of
from pipeline.flow.aligning import NO_FACE, UNFOUND
from pipeline.flow.judge import UNREADABLE, Bench
from pipeline.flow.window import Outcome

COLUMNS = (
    "key", "order", "identity", "slot", "attempt", "conditions", "measures", "embedding", "accepted",
    "off_target", "reasons",
)  # fmt: skip
NOT_STORED = "passes_but_not_stored"
"""Why a candidate is not kept that passes now: it was refused when it was made, so its bytes do not exist."""
SLOT_TAKEN = "slot_has_another_image"
"""Why a stored image that passes is not kept: its slot keeps another one."""
Slot = tuple[int, int]
"""(identity, slot)."""


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What a make unit's candidates come to under other filters.

    Attributes:
        unit: its name.
        kept: keys of the stored images that fill a slot.
        missed: those of them that missed their conditions.
        admitted: keys of candidates that pass now, fill no slot, and have no stored bytes.
        refused: key of every stored image that is refused now -> its reasons.
        counts: of every candidate; each that is not kept is refused, with a reason.
    """

    unit: str
    kept: tuple[str, ...]
    missed: frozenset[str]
    admitted: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    counts: Counts

    def keeping(self, keys: Sequence[str]) -> Rejudged:
        """Return what it is with these refused images kept after all."""
        lost = [self.refused[k] for k in keys]
        first = Counter(self.counts.reasons) - Counter(r[0] for r in lost)
        every = Counter(self.counts.reasons_any) - Counter(x for r in lost for x in r)
        counts = replace(
            self.counts,
            accepted=self.counts.accepted + len(keys),
            refused=self.counts.refused - len(keys),
            reasons=dict(sorted(first.items())),
            reasons_any=dict(sorted(every.items())),
        )
        rest = {k: r for k, r in self.refused.items() if k not in keys}
        return replace(self, kept=(*self.kept, *keys), refused=rest, counts=counts)


@dataclass(frozen=True, slots=True)
class _Spare:
    unit: str
    sample: Sample
    filters: tuple[Filter, ...]
    """Those of its own generation: a rate over people enrolled is another cosine in each."""


@dataclass(slots=True)
class Rejudgement:
    """Judges units again, one after the other in the order of generation and index.

    Args:
        standing: keys that the version judged again publishes.
        attempts: tries that a slot has in all.
        fields: the recipe's `balance.by`.
        cells: ordinal -> the cell that it is enrolled in.
    """

    standing: Set[str]
    attempts: int
    fields: tuple[str, ...] = ()
    cells: Mapping[int, Cell] = field(default_factory=dict)
    alone: Set[int] = frozenset()
    """Ordinals that one unit alone worked on: no later unit asks for their siblings, so they are not kept in memory."""
    closed: Set[Slot] = frozenset()
    """Slots whose image was erased: nothing fills them, and nothing is said to be missing there."""
    _taken: set[Slot] = field(default_factory=set)
    _spares: list[_Spare] = field(default_factory=list)
    """Stored images that pass, of slots that publish another one; it may turn out to be refused."""
    _promised: frozenset[Slot] = field(init=False)
    _kept: dict[int, dict[str, Float32]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        """Note which slots publish an image, and which will never have one."""
        self._taken |= self.closed
        self._promised = frozenset((identity_of(k), slot_of(k)) for k in self.standing)

    def unit(
        self,
        name: str,
        columns: Mapping[str, Any],
        filters: Sequence[Filter],
        added: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Rejudged:
        """Judge a unit's candidates again.

        Args:
            name: the unit's.
            columns: its rows' COLUMNS.
            filters: the new ones.
            added: key -> measures that were added beside the segments since.

        Raises:
            UserError: a filter reads a measure that stored images do not have.
        """
        held = _Held(columns, added or {})
        siblings = any(f.judges_siblings for f in filters)
        bench = self._bench(filters, {int(o) for o in columns["identity"]})
        verdicts, outcomes = {}, {}
        filled: dict[Slot, int] = {}
        mine = {held.slot(n) for n in held.stored if held.keys[n] in self.standing}
        for n in held.in_order:
            slot = held.slot(n)
            first = slot in mine or slot not in self._promised
            enters = first and slot not in self._taken
            verdicts[n], outcomes[n] = self._judge(held, n, bench, _entering(enters, held.is_stored(n)))
            if not held.is_stored(n) or outcomes[n] is not Outcome.ACCEPTED:
                continue
            if enters:
                filled.setdefault(slot, n)
            elif not first:
                sample = held.sample(n)
                # a copy: a row of the unit's array would keep all of it in memory
                sample = replace(sample, embedding_E=sample.embedding_E.copy())
                self._spares.append(_Spare(name, sample, tuple(filters)))
        # a slot that nothing fills and whose attempts are used up falls back on the first that missed its conditions;
        # on the one that it fell back on before, where that still missed nothing else
        used = held.attempts_used()
        missed = [n for n in held.in_order if outcomes[n] is Outcome.MISSED_CONDITION]
        fallback: dict[Slot, int] = {}
        for n in sorted(missed, key=lambda n: not held.is_off_target(n)):
            fallback.setdefault(held.slot(n), n)
        for slot, n in fallback.items():
            if held.is_stored(n) and slot not in self._taken and used[slot] >= self.attempts:
                filled.setdefault(slot, n)
        self._taken |= filled.keys()
        chosen = set(filled.values())
        for n in sorted(chosen, key=held.order_of):
            if siblings and held.slot(n)[0] not in self.alone:
                self._kept[held.slot(n)[0]][held.keys[n]] = held.embedding[n].copy()
        return self._told(name, held, verdicts, outcomes, chosen)

    def finish(self, units: Sequence[Rejudged]) -> list[Rejudged]:
        """Return the units with the slots filled that lost their image and have another stored one that passes.

        What is admitted is told once, and only of slots that are open in the end.
        """
        taken: dict[str, list[str]] = defaultdict(list)
        for spare in self._spares:
            sample = spare.sample
            slot = (sample.identity, sample.slot)
            bench = self._bench(spare.filters, [sample.identity])
            if slot in self._taken or bench.settle(sample, bench.alone(sample))[2] is not Outcome.ACCEPTED:
                continue
            self._taken.add(slot)
            taken[spare.unit].append(sample.key)
            if any(f.judges_siblings for f in spare.filters):
                self._kept[sample.identity][sample.key] = sample.embedding_E
        out, told = [], set[str]()
        for unit in units:
            still = [k for k in unit.admitted if k not in told and (identity_of(k), slot_of(k)) not in self._taken]
            told.update(still)
            kept = unit.keeping(taken[unit.unit]) if unit.unit in taken else unit
            out.append(replace(kept, admitted=tuple(still)))
        return out

    def _bench(self, filters: Sequence[Filter], ordinals: Iterable[int]) -> Bench:
        """Return what judges images of these identities, the siblings being what is kept of them so far."""
        # in the order of keys, as the unit that made them saw them: the order of a sum is part of it
        published = {o: np.stack([e for _, e in sorted(self._kept[o].items())]) for o in ordinals if o in self._kept}
        return Bench(filters, published, fields=self.fields, cells=self.cells)

    def _judge(self, held: _Held, n: int, bench: Bench, entering: Set[Outcome]) -> tuple[tuple[Verdict, ...], Outcome]:
        if not held.is_found(n):
            return UNFOUND, Outcome.REFUSED
        sample, sound = held.sample(n), held.is_sound(n)
        try:
            alone = bench.alone(sample) if sound else {}
        except UserError:
            if held.is_stored(n):
                raise
            # measures were added to stored images alone, so nobody knows what this one would have had
            return (Verdict("measures", False, NOT_STORED, 0.0, 0.0),), Outcome.REFUSED
        _, verdicts, outcome = bench.settle(sample, alone, sound=sound, entering=entering)
        return verdicts, outcome

    def _told(
        self,
        name: str,
        held: _Held,
        verdicts: Mapping[int, tuple[Verdict, ...]],
        outcomes: Mapping[int, Outcome],
        chosen: Set[int],
    ) -> Rejudged:
        rows, refused, admitted = [], {}, []
        for n in held.in_order:
            key, kept = held.keys[n], n in chosen
            reasons = () if kept else tuple(v.reason for v in verdicts[n] if not v.passed)
            if not kept and not reasons:
                reasons = (SLOT_TAKEN if held.is_stored(n) else NOT_STORED,)
            if reasons == (NOT_STORED,) and outcomes[n] is Outcome.ACCEPTED and held.slot(n) not in self._taken:
                admitted.append(key)
            if not kept and held.is_stored(n):
                refused[key] = reasons
            rows.append((kept, outcomes[n] is Outcome.MISSED_CONDITION, reasons))
        keys = tuple(held.keys[n] for n in sorted(chosen, key=held.order_of))
        missed = frozenset(held.keys[n] for n in chosen if outcomes[n] is Outcome.MISSED_CONDITION)
        return Rejudged(name, keys, missed, tuple(admitted), refused, Counts.of(rows))


def _entering(enters: bool, stored: bool) -> Set[Outcome]:
    """Return with which outcomes an image is a sibling of those after it.

    One without bytes is as little a sibling as it fills a slot; but while it was what its slot could fall back on, it
    was one, whether it was kept in the end or not.
    """
    if not enters:
        return frozenset()
    return frozenset(Outcome) if stored else frozenset({Outcome.MISSED_CONDITION})


class _Held:
    """A unit's rows as they are stored."""

    def __init__(self, columns: Mapping[str, Any], added: Mapping[str, Mapping[str, float]]) -> None:
        self._columns, self._added = columns, added
        self.keys: list[str] = columns["key"]
        self.embedding: Float32 = columns["embedding"]
        self.in_order = [int(n) for n in np.argsort(columns["order"], kind="stable")]
        self.stored = [n for n in self.in_order if columns["accepted"][n]]

    def slot(self, n: int) -> Slot:
        return int(self._columns["identity"][n]), int(self._columns["slot"][n])

    def order_of(self, n: int) -> int:
        return int(self._columns["order"][n])

    def is_stored(self, n: int) -> bool:
        return bool(self._columns["accepted"][n])

    def is_off_target(self, n: int) -> bool:
        return self.is_stored(n) and bool(self._columns["off_target"][n])

    def is_sound(self, n: int) -> bool:
        return UNREADABLE not in self._columns["reasons"][n]

    def is_found(self, n: int) -> bool:
        return NO_FACE not in self._columns["reasons"][n]

    def attempts_used(self) -> dict[Slot, int]:
        used: dict[Slot, int] = defaultdict(int)
        for n in self.in_order:
            used[self.slot(n)] = max(used[self.slot(n)], int(self._columns["attempt"][n]) + 1)
        return used

    def sample(self, n: int) -> Sample:
        identity, slot = self.slot(n)
        return Sample(
            key=self.keys[n],
            identity=identity,
            slot=slot,
            attempt=int(self._columns["attempt"][n]),
            conditions=dict(self._columns["conditions"][n]),
            measures={**dict(self._columns["measures"][n]), **self._added.get(self.keys[n], {})},
            embedding_E=self.embedding[n],
        )
