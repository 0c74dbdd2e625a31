"""The make unit: images of enrolled identities, tried until every slot is filled or its attempts are used up.

Everything runs in one order fixed by the plan. Generation of the next batch overlaps with encoding, measuring and
judging of the last; `unit.lookahead` fixes which verdicts a batch may know, so the overlap never changes a choice, nor
does having fewer batches in flight, by choice or because the device has no room for more.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.domain.conditions import slot_conditions
from pipeline.domain.cones import without_cone
from pipeline.domain.errors import DeviceMemoryError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.previews import FirstRefused, keeps_previews
from pipeline.domain.records import Candidate, Conditions, Float32, Identity, Sample, UInt8, Verdict
from pipeline.domain.rng import Key, Stream
from pipeline.domain.twins import is_twin
from pipeline.domain.unit import Unit
from pipeline.flow.aligning import UNFOUND, aligned, keeps_whole
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.cones import slot_vectors
from pipeline.flow.judge import Bench, Templates, samples_of
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed, padded, within_device_memory
from pipeline.flow.past import published_siblings
from pipeline.flow.twins import TwinMaker
from pipeline.flow.window import Closed, Outcome, Try, Window


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """A candidate with the verdicts that rest on it alone; those on its siblings follow in the order of making."""

    sample: Sample
    order: int
    alone: dict[str, Verdict]
    sound: bool
    stored: bytes
    whole: bytes | None
    """The picture that it was cut from, where that is kept and it may be accepted."""
    unfound: bool = False
    """Whether there is no face in its picture."""


Judged = list[_Measured]


def make_unit(unit: Unit, parts: Parts, enrolled: dict[int, Identity], erased: int = 0) -> Receipt:
    """Make, judge, write and commit one unit; return its receipt.

    Args:
        unit: a make unit.
        parts: the ports.
        enrolled: every identity enrolled up to the unit's generation, by ordinal.
        erased: how many more were enrolled until then and are erased; thresholds over people enrolled count them.
    """
    started_s = parts.clock.now_s()
    maker = _Maker(unit, parts, enrolled, erased)
    outcomes: list[tuple[bool, bool, tuple[str, ...]]] = []
    twins = 0

    def counted() -> Iterator[Candidate]:
        nonlocal twins
        for candidate in maker.candidates():
            if is_twin(candidate.sample.key):
                twins += candidate.accepted
            else:
                outcomes.append((candidate.accepted, candidate.off_target, candidate.reasons))
            yield candidate

    wholes = keeps_whole(parts)
    files = parts.segments.write_images(parts.store, unit.name, counted(), wholes=wholes)
    if previews := maker.refused.previews():
        files = (*files, parts.segments.write_previews(parts.store, unit.name, previews))
    counts = Counts.of(outcomes)
    counts = replace(counts, twins=twins, wholes=counts.accepted if wholes else 0)
    receipt = receipt_of(unit, parts, counts, files, started_s)
    run = {**receipt.run, "batches": maker.batches, "batch_rows": maker.batches * parts.generator_batch}
    receipt = replace(receipt, run=run)
    commit(parts, receipt)
    return receipt


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that is being judged, and how to judge it again."""

    future: Future[Judged]
    job: Callable[[], Judged]


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A closed identity's candidates, whose twins are being made, if it gets any, and how to make them again."""

    candidates: list[Candidate]
    future: Future[list[Candidate]] | None = None
    job: Callable[[], list[Candidate]] = list


@dataclass(slots=True)
class _Maker:
    unit: Unit
    parts: Parts
    enrolled: dict[int, Identity]
    erased: int = 0
    batches: int = 0
    _alone: bool = False
    """Whether the device has room for one batch at a time only."""
    _made: int = 0
    refused: FirstRefused = field(init=False)
    """What is kept of the images that were refused, complete once every candidate was yielded."""
    _bench: Bench = field(init=False)
    _held: dict[int, list[Candidate]] = field(default_factory=dict)
    _leaving: deque[_Leaving] = field(default_factory=deque)

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate, identity by identity as they close, each identity's in the order they were made.

        An identity's twins come after its candidates, in the order of their parents.
        """
        recipe, parts = self.parts.recipe, self.parts
        unit = self.unit
        owes = dict(zip(unit.ordinals, unit.open_slots, strict=True)) if unit.open_slots else {}
        window = Window(unit.ordinals, unit.slots, recipe.attempts, recipe.unit.window, persistent=unit.adds, owes=owes)
        templates = Templates([self.enrolled[o] for o in sorted(self.enrolled)])
        filters = parts.filters(len(self.enrolled) + self.erased)
        needed = bool(self.unit.siblings_of) and any(f.judges_siblings for f in filters)
        self._bench = Bench(
            filters,
            published_siblings(parts, unit) if needed else None,
            fields=recipe.balance.by,
            cells={o: self.enrolled[o].cell for o in unit.ordinals},
        )
        keeps = recipe.previews.per_reason if keeps_previews(unit.generation, unit.index) else 0
        self.refused = FirstRefused(keeps, parts.screen.filter_limits() if parts.screen and keeps else None)
        twins = TwinMaker(parts, templates) if parts.twins else None
        flying: deque[_Flight] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="measure") as pool:
            while True:
                # a batch that would not be full waits for verdicts first: fill is worth more than overlap
                while flying and (
                    len(flying) >= recipe.unit.lookahead
                    or window.available(parts.generator_batch) < parts.generator_batch
                ):
                    self._settle(window, self._judged(flying), twins, pool)
                    yield from self._left(flying)
                tries = window.take(parts.generator_batch)
                if not tries and not flying:
                    yield from self._left(flying, everybody=True)
                    return
                if not tries:
                    continue
                self._wait(flying, recipe.compute.in_flight - 1 if recipe.compute.in_flight else len(flying))
                faces, conditions = self._generated(tries, flying)
                job = functools.partial(self._judge, tries, conditions, faces, self._made, templates)
                flying.append(_Flight(pool.submit(job), job))
                self._made += len(tries)

    def _wait(self, flying: deque[_Flight], at_most: int) -> None:
        """Wait until at most so many batches are being judged. Their verdicts are not looked at: that has its time."""
        for flight in list(flying)[: max(0, len(flying) - at_most)]:
            flight.future.exception()
        for leaving in self._leaving if at_most == 0 else ():
            if leaving.future is not None:
                leaving.future.exception()

    def _judged(self, flying: deque[_Flight]) -> Judged:
        """Return the oldest batch's verdicts; where the device had no room for them, judge it again, alone."""
        flight = flying.popleft()
        try:
            return flight.future.result()
        except DeviceMemoryError:
            self._alone = True
            self._wait(flying, 0)
            return flight.job()

    def _generated(self, tries: list[Try], flying: deque[_Flight]) -> tuple[UInt8, list[Conditions]]:
        """Generate a batch; where the device has no room, alone, once every batch in flight is judged."""
        if self._alone:
            self._wait(flying, 0)
        try:
            return self._generate(tries)
        except DeviceMemoryError:
            if self._alone:
                raise
            self._alone = True
            self._wait(flying, 0)
            return self._generate(tries)

    def _generate(self, tries: list[Try]) -> tuple[UInt8, list[Conditions]]:
        parts, recipe = self.parts, self.parts.recipe
        conditions = [
            slot_conditions(recipe.conditions, recipe.seed, Stream.SAMPLE_CONDITION, t.identity, t.slot) for t in tries
        ]
        own = [self.enrolled[t.identity].vector_D for t in tries]
        vectors = slot_vectors(own, conditions, recipe.seed, [(t.identity, t.slot) for t in tries])
        noise = [Key(recipe.seed, Stream.SAMPLE_NOISE, t.identity, t.slot, t.attempt) for t in tries]
        faces = generate_fixed(parts, vectors, conditions, noise)
        self.batches += 1
        return faces, list(conditions)

    def _judge(
        self,
        tries: list[Try],
        conditions: list[Conditions],
        pictures_NHWC: UInt8,
        first_order: int,
        templates: Templates,
    ) -> Judged:
        parts = self.parts
        faces_NHWC, found = aligned(parts, pictures_NHWC)
        stored = [parts.codec.encode(face) for face in faces_NHWC]
        decoded = np.stack([parts.codec.decode(data) for data in stored])
        emb, sound = embed_each(parts.judge, decoded, parts.judge_batch)
        measures = measure_fixed(parts.measurers, decoded, parts.judge_batch)
        if not found.all():
            # these crops are black: numbers about them are numbers about nobody
            emb = np.where(found[:, None], emb, np.float32(0))
            measures = {name: np.where(found, values, np.nan) for name, values in measures.items()}
        sound &= finite_rows(measures, len(tries)) & found
        if parts.screen is not None:
            near, sound = parts.screen.of_samples(decoded, emb, sound)
            measures |= near
        out: Judged = []
        keeps = keeps_whole(parts)
        for n, sample in enumerate(samples_of(tries, conditions, emb, measures, sound, templates)):
            alone = self._bench.alone(sample) if sound[n] else {}
            # a large picture takes its time to encode, and most that are refused are refused by now
            wanted = keeps and sound[n] and self._bench.may_stand(alone)
            whole = parts.codec.encode(pictures_NHWC[n]) if wanted else None
            kept = _Measured(sample, first_order + n, alone, bool(sound[n]), stored[n], whole, unfound=not found[n])
            out.append(kept)
        return out

    def _settle(self, window: Window, judged: Judged, twins: TwinMaker | None, pool: ThreadPoolExecutor) -> None:
        for measured in judged:
            sample, verdicts, outcome = self._bench.settle(measured.sample, measured.alone, sound=measured.sound)
            if measured.unfound:
                verdicts = UNFOUND
            window.settle(Try(sample.identity, sample.slot, sample.attempt), outcome)
            keep = None if outcome is Outcome.REFUSED else measured.stored
            candidate = Candidate(sample, measured.order, verdicts, outcome is Outcome.ACCEPTED, False, keep)
            if keep is not None:
                candidate = replace(candidate, whole=measured.whole)
            if keep is None and measured.sound:
                self._offer(candidate, measured.stored)
            self._held.setdefault(sample.identity, []).append(candidate)
        for closed in window.closed():
            self._bench.forget(closed.identity)
            held = self._held.pop(closed.identity)
            made = [_final(candidate, closed) for candidate in held]
            for before, final in zip(held, made, strict=True):
                # it missed its conditions, and was what its slot might have had to fall back on
                if before.jpeg is not None and not final.accepted:
                    self._offer(final, before.jpeg)
            # nobody sees the images of an identity that was given up
            if twins is not None and (closed.full or self.unit.adds):
                job = functools.partial(twins.of, [c for c in made if c.accepted])
                self._leaving.append(_Leaving(made, pool.submit(job), job))
            else:
                self._leaving.append(_Leaving(made))

    def _offer(self, candidate: Candidate, jpeg: bytes) -> None:
        self.refused.offer(candidate, str(self.enrolled[candidate.sample.identity].cell), jpeg)

    def _left(self, flying: deque[_Flight], *, everybody: bool = False) -> Iterator[Candidate]:
        """Yield whose twins are ready, in the order in which they closed; `everybody` waits for them."""
        while self._leaving:
            leaving = self._leaving[0]
            if leaving.future is not None and not leaving.future.done() and not everybody:
                return
            twins = self._twinned(leaving, flying)
            self._leaving.popleft()
            yield from (*leaving.candidates, *twins)

    def _twinned(self, leaving: _Leaving, flying: deque[_Flight]) -> list[Candidate]:
        """Return the twins of who leaves; where the device had no room for them, make them again, alone."""
        if leaving.future is None:
            return []
        try:
            return leaving.future.result()
        except DeviceMemoryError:
            self._alone = True
            self._wait(flying, 0)
            return leaving.job()


def _final(candidate: Candidate, closed: Closed) -> Candidate:
    """Return a candidate as it is stored, now that it is known which misses fill their slots."""
    sample = candidate.sample
    if Try(sample.identity, sample.slot, sample.attempt) in closed.off_target:
        return replace(candidate, accepted=True, off_target=True)
    return candidate if candidate.accepted else replace(candidate, jpeg=None, whole=None)


def generate_fixed(parts: Parts, vectors_ND: Float32, conditions: Sequence[Conditions], noise: Sequence[Key]) -> UInt8:
    """Return faces_NHWC for up to one batch of rows; the network always sees `generator.batch` rows, or one.

    Noise is drawn per image from its key on the CPU, so neither batch nor worker changes it.
    """
    shape = parts.generator_batch if parts.generator.card.row_independent else 1
    drawn = np.stack([k.generator().standard_normal(parts.generator.noise_shape, dtype=np.float32) for k in noise])
    faces = []
    for start in range(0, len(conditions), shape):
        part = slice(start, start + shape)
        asked = [without_cone(c) for c in conditions[part]]
        filled = [*asked] + [asked[0]] * (shape - len(asked))
        with within_device_memory("generator.batch", shape):
            made = parts.generator.generate(padded(vectors_ND[part], shape), filled, padded(drawn[part], shape))
        faces.append(made[: len(asked)])
    out: UInt8 = np.concatenate(faces)
    return out
