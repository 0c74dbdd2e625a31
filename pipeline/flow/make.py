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
from pipeline.domain.errors import DeviceMemoryError
from pipeline.domain.manifest import Counts, Receipt
from pipeline.domain.records import Candidate, Conditions, Float32, Identity, Sample, UInt8, Verdict
from pipeline.domain.rng import Key, Stream
from pipeline.domain.unit import Unit
from pipeline.flow.commit import commit, receipt_of
from pipeline.flow.judge import Bench, Templates, samples_of
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed, padded, within_device_memory
from pipeline.flow.past import published_siblings
from pipeline.flow.window import Outcome, Try, Window


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """A candidate with the verdicts that rest on it alone; those on its siblings follow in the order of making."""

    sample: Sample
    order: int
    alone: dict[str, Verdict]
    sound: bool
    stored: bytes


Judged = list[_Measured]


def make_unit(unit: Unit, parts: Parts, enrolled: dict[int, Identity]) -> Receipt:
    """Make, judge, write and commit one unit; return its receipt.

    Args:
        unit: a make unit.
        parts: the ports.
        enrolled: every identity enrolled up to the unit's generation, by ordinal.
    """
    started_s = parts.clock.now_s()
    maker = _Maker(unit, parts, enrolled)
    outcomes: list[tuple[bool, bool, tuple[str, ...]]] = []

    def counted() -> Iterator[Candidate]:
        for candidate in maker.candidates():
            outcomes.append((candidate.accepted, candidate.off_target, candidate.reasons))
            yield candidate

    files = parts.segments.write_images(parts.store, unit.name, counted())
    receipt = receipt_of(unit, parts, Counts.of(outcomes), files, started_s)
    run = {**receipt.run, "batches": maker.batches, "batch_rows": maker.batches * parts.generator_batch}
    receipt = replace(receipt, run=run)
    commit(parts, receipt)
    return receipt


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that is being judged, and how to judge it again."""

    future: Future[Judged]
    job: Callable[[], Judged]


@dataclass(slots=True)
class _Maker:
    unit: Unit
    parts: Parts
    enrolled: dict[int, Identity]
    batches: int = 0
    _alone: bool = False
    """Whether the device has room for one batch at a time only."""
    _made: int = 0
    _bench: Bench = field(init=False)
    _held: dict[int, list[Candidate]] = field(default_factory=dict)

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate, identity by identity as they close, each identity's in the order they were made."""
        recipe, parts = self.parts.recipe, self.parts
        window = Window(
            self.unit.ordinals, self.unit.slots, recipe.attempts, recipe.unit.window, persistent=self.unit.slots[0] > 0
        )
        templates = Templates([self.enrolled[o] for o in sorted(self.enrolled)])
        filters = parts.filters(len(self.enrolled))
        needed = bool(self.unit.siblings_of) and any(f.judges_siblings for f in filters)
        self._bench = Bench(filters, published_siblings(parts, self.unit) if needed else None)
        flying: deque[_Flight] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="measure") as pool:
            while True:
                # a batch that would not be full waits for verdicts first: fill is worth more than overlap
                while flying and (
                    len(flying) >= recipe.unit.lookahead
                    or window.available(parts.generator_batch) < parts.generator_batch
                ):
                    yield from self._settle(window, self._judged(flying))
                tries = window.take(parts.generator_batch)
                if not tries and not flying:
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
        vectors = np.stack([self.enrolled[t.identity].vector_D for t in tries])
        conditions = [
            slot_conditions(recipe.conditions, recipe.seed, Stream.SAMPLE_CONDITION, t.identity, t.slot) for t in tries
        ]
        noise = [Key(recipe.seed, Stream.SAMPLE_NOISE, t.identity, t.slot, t.attempt) for t in tries]
        faces = generate_fixed(parts, vectors, conditions, noise)
        self.batches += 1
        return faces, list(conditions)

    def _judge(
        self,
        tries: list[Try],
        conditions: list[Conditions],
        faces_NHWC: UInt8,
        first_order: int,
        templates: Templates,
    ) -> Judged:
        parts = self.parts
        stored = [parts.codec.encode(face) for face in faces_NHWC]
        decoded = np.stack([parts.codec.decode(data) for data in stored])
        emb, sound = embed_each(parts.judge, decoded, parts.judge_batch)
        measures = measure_fixed(parts.measurers, decoded, parts.judge_batch)
        sound &= finite_rows(measures, len(tries))
        out: Judged = []
        for n, sample in enumerate(samples_of(tries, conditions, emb, measures, sound, templates)):
            alone = self._bench.alone(sample) if sound[n] else {}
            out.append(_Measured(sample, first_order + n, alone, bool(sound[n]), stored[n]))
        return out

    def _settle(self, window: Window, judged: Judged) -> Iterator[Candidate]:
        for measured in judged:
            sample, verdicts, outcome = self._bench.settle(measured.sample, measured.alone, sound=measured.sound)
            window.settle(Try(sample.identity, sample.slot, sample.attempt), outcome)
            keep = None if outcome is Outcome.REFUSED else measured.stored
            candidate = Candidate(sample, measured.order, verdicts, outcome is Outcome.ACCEPTED, False, keep)
            self._held.setdefault(sample.identity, []).append(candidate)
        for closed in window.closed():
            self._bench.forget(closed.identity)
            for candidate in self._held.pop(closed.identity):
                sample = candidate.sample
                if Try(sample.identity, sample.slot, sample.attempt) in closed.off_target:
                    yield replace(candidate, accepted=True, off_target=True)
                else:
                    yield candidate if candidate.accepted else replace(candidate, jpeg=None)


def generate_fixed(parts: Parts, vectors_ND: Float32, conditions: Sequence[Conditions], noise: Sequence[Key]) -> UInt8:
    """Return faces_NHWC for up to one batch of rows; the network always sees `generator.batch` rows, or one.

    Noise is drawn per image from its key on the CPU, so neither batch nor worker changes it.
    """
    shape = parts.generator_batch if parts.generator.card.row_independent else 1
    drawn = np.stack([k.generator().standard_normal(parts.generator.noise_shape, dtype=np.float32) for k in noise])
    faces = []
    for start in range(0, len(conditions), shape):
        part = slice(start, start + shape)
        asked = conditions[part]
        filled = [*asked] + [asked[0]] * (shape - len(asked))
        with within_device_memory("generator.batch", shape):
            made = parts.generator.generate(padded(vectors_ND[part], shape), filled, padded(drawn[part], shape))
        faces.append(made[: len(asked)])
    out: UInt8 = np.concatenate(faces)
    return out
