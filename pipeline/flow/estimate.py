"""What an image costs: time, bytes, and how many must be made for one that is kept. Measured, never assumed.

Taken from the receipts of a dataset that has some, else from a few batches that are made, judged and thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.domain.conditions import slot_conditions
from pipeline.domain.manifest import Counts, Receipt, segment_path
from pipeline.domain.records import Cell, Identity, UInt8, template_of
from pipeline.domain.rng import Key, Stream
from pipeline.domain.unit import Proposal, Stage
from pipeline.flow.aligning import aligned, keeps_whole
from pipeline.flow.enrol import cell_of, draw_vector
from pipeline.flow.judge import Bench, Templates, samples_of
from pipeline.flow.make import generate_fixed
from pipeline.flow.parts import Parts, embed_each, finite_rows, measure_fixed
from pipeline.flow.twins import twins_per_image
from pipeline.flow.window import Outcome, Try

TRIAL_IDENTITIES = 6
WITH_WHOLES = ", with their whole pictures"


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        source: where the figures come from, in words.
        images: candidate images they rest on.
        worker_s_per_image: seconds of one worker per candidate image: generate, store, measure, judge.
        accepted_share: share of candidates that filled a slot, in (0, 1].
        bytes_per_image: stored bytes of an accepted image with its side-car, and its whole picture if that is kept.
        bytes_per_row: bytes of a candidate's row.
    """

    source: str
    images: int
    worker_s_per_image: float
    accepted_share: float
    bytes_per_image: float
    bytes_per_row: float


def from_receipts(known: Mapping[str, Receipt]) -> Costs | None:
    """Return the costs that a dataset's make units had; None where it has none."""
    made = [r for r in known.values() if r.unit["stage"] == Stage.MAKE.value and r.counts.candidates]
    total = Counts.total(r.counts for r in made)
    if not total.accepted:
        return None
    seconds = sum(max(0.0, r.run.get("end_s", 0.0) - r.run.get("start_s", 0.0)) for r in made)
    tars = sum(f.bytes for r in made for f in r.files if f.path.endswith(".tar"))
    tables = sum(f.bytes for r in made for f in r.files if f.path == segment_path(r.name, "parquet"))
    return Costs(
        source=f"{len(made)} committed units of this dataset" + (WITH_WHOLES if total.wholes else ""),
        images=total.candidates,
        worker_s_per_image=seconds / total.candidates,
        accepted_share=total.accepted / total.candidates,
        bytes_per_image=tars / total.accepted,
        bytes_per_row=tables / total.candidates,
    )


def trial_pictures(parts: Parts, count: int) -> UInt8:
    """Return pictures of the first candidates, one of each, as their first probe asks for, before they are cut."""
    recipe, last = parts.recipe, parts.sampler.candidates or count
    cells = [c for c in parts.targets.cells if not parts.targets.joint or parts.targets.joint[c]]
    pictures = []
    for start in range(0, count, parts.generator_batch):
        mine = [n % last for n in range(start, min(count, start + parts.generator_batch))]
        vectors = np.stack([draw_vector(parts, Proposal(n, str(cells[n % len(cells)]))) for n in mine])
        stream = Stream.PROBE_CONDITION
        conditions = [slot_conditions(recipe.conditions, recipe.seed, stream, n, 0) for n in mine]
        noise = [Key(recipe.seed, Stream.PROBE_NOISE, n, 0) for n in mine]
        pictures.append(generate_fixed(parts, vectors, conditions, noise))
    return np.concatenate(pictures)


def from_trial(parts: Parts) -> Costs:
    """Return the costs of a few identities' images, which are thrown away.

    Their keys are those of the first candidates' probes, so a trial shows what enrolment will see.
    """
    recipe, probes = parts.recipe, parts.recipe.enrol.probes
    cells = [c for c in parts.targets.cells if not parts.targets.joint or parts.targets.joint[c]]
    chosen = [cells[n % len(cells)] for n in range(TRIAL_IDENTITIES)]
    each = probes + max(1, -(-2 * parts.generator_batch // TRIAL_IDENTITIES))
    last = parts.sampler.candidates or TRIAL_IDENTITIES  # of a sampler with fewer some are tried twice
    vectors = [draw_vector(parts, Proposal(n % last, str(c))) for n, c in enumerate(chosen)]
    asked = [Try(n, k, 0) for n in range(TRIAL_IDENTITIES) for k in range(each)]
    stream = Stream.PROBE_CONDITION
    conditions = [slot_conditions(recipe.conditions, recipe.seed, stream, t.identity, t.slot) for t in asked]
    noise = [Key(recipe.seed, Stream.PROBE_NOISE, t.identity, t.slot) for t in asked]

    whole_bytes: list[int] = []

    def worked() -> tuple[list[bytes], np.ndarray, np.ndarray, Mapping[str, np.ndarray]]:
        pictures = generate_fixed(parts, np.stack([vectors[t.identity] for t in asked]), conditions, noise)
        faces, found = aligned(parts, pictures)
        stored = [parts.codec.encode(face) for face in faces]
        whole_bytes[:] = [len(parts.codec.encode(p)) + 512 for p in pictures] if keeps_whole(parts) else [0]
        decoded = np.stack([parts.codec.decode(data) for data in stored])
        emb, sound = embed_each(parts.judge, decoded, parts.judge_batch)
        return stored, emb, sound & found, measure_fixed(parts.measurers, decoded, parts.judge_batch)

    worked()  # models load and caches fill; the second time is what an image costs
    started_s = parts.clock.now_s()
    stored, emb, sound, measures = worked()
    seconds = parts.clock.now_s() - started_s
    owned = emb.reshape(TRIAL_IDENTITIES, each, -1)
    sound &= finite_rows(measures, len(asked))
    # one whose probes gave no numbers has no template, and would not be enrolled
    enrolled = np.all(sound.reshape(TRIAL_IDENTITIES, each)[:, :probes], axis=1)
    sound &= np.repeat(enrolled, each)
    people = [
        Identity(int(n), int(n), Cell(()), 0, vectors[n], template_of(owned[n, :probes]), probes, 1.0)
        for n in np.flatnonzero(enrolled)
    ]
    samples = samples_of(asked, conditions, emb, measures, sound, Templates(people))
    pooled = {p.ordinal: {k: float(v[p.ordinal * each :][:probes].mean()) for k, v in measures.items()} for p in people}
    looks = {ordinal: cell_of(posterior, parts.targets) for ordinal, posterior in pooled.items()}
    bench = Bench(parts.filters(recipe.identities.count), fields=recipe.balance.by, cells=looks)
    judged = [
        bench.settle(s, bench.alone(s) if sound[n] else {}, sound=bool(sound[n]))
        for n, s in enumerate(samples)
        if s.slot >= probes
    ]
    kept = sum(outcome is Outcome.ACCEPTED for _, _, outcome in judged)
    return Costs(
        source=f"a trial of {len(asked)} images on this machine" + (WITH_WHOLES if keeps_whole(parts) else ""),
        images=len(asked),
        worker_s_per_image=seconds / len(asked),
        # a trial that keeps nothing says little: one more image than it made would have been kept
        accepted_share=max(kept, 1) / (len(judged) + (kept == 0)),
        # its twins are about as large, on the average
        bytes_per_image=(float(np.mean([len(data) for data in stored])) + 3 * 512) * (1 + twins_per_image(recipe))
        + float(np.mean(whole_bytes)),
        bytes_per_row=4.0 * (emb.shape[1] + 2 * len(measures)) + 256,
    )
