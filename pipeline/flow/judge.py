"""Measure, then judge: decoded images become numbers, numbers become verdicts.

The same function runs when images are made and when stored ones are judged again, so the numbers that a filter sees
never depend on which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.domain.ports import Filter
from pipeline.domain.records import Conditions, Float32, Identity, Sample, Verdict, minted_key
from pipeline.domain.separation import exact_cos, max_cos_to_others
from pipeline.flow.siblings import Siblings
from pipeline.flow.window import Outcome, Try

OWN = "own_template_cos"
NEAREST = "nearest_other_cos"
NEAREST_ORDINAL = "nearest_other_identity"
UNREADABLE = "numbers_not_finite"
"""Why a face is refused whose embedding or measures came out NaN, infinite or without length."""


class Templates:
    """The templates of every identity enrolled up to a generation, by ordinal."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        """Stack the templates; `identities` come in ordinal order."""
        self.ordinals = np.array([i.ordinal for i in identities], np.int64)
        self.matrix_ME: Float32 = (
            np.stack([i.template_E for i in identities]) if identities else np.empty((0, 0), np.float32)
        )
        self.row = {int(o): n for n, o in enumerate(self.ordinals)}

    def identity_measures(self, emb_NE: Float32, owners: Sequence[int]) -> list[dict[str, float]]:
        """Return, per embedding, its cosine to its own template and to the nearest other one."""
        own = np.array([self.row[o] for o in owners], np.int64)
        best, where = max_cos_to_others(emb_NE, self.matrix_ME, own)
        return [
            {
                OWN: exact_cos(emb_NE[n], self.matrix_ME[own[n]]),
                NEAREST: float(best[n]),
                NEAREST_ORDINAL: float(self.ordinals[where[n]]) if where[n] >= 0 else -1.0,
            }
            for n in range(len(emb_NE))
        ]


def samples_of(
    tries: Sequence[Try],
    conditions: Sequence[Conditions],
    emb_NE: Float32,
    measures: Mapping[str, np.ndarray],
    sound_N: npt.NDArray[np.bool_],
    templates: Templates,
) -> list[Sample]:
    """Return the samples of a batch, with every number that a filter may ask for.

    A face whose embedding or measures are no numbers (`sound_N` false) has those that are, and is compared with nobody.
    """
    sound = np.flatnonzero(sound_N).tolist()
    compared = templates.identity_measures(emb_NE[sound], [tries[n].identity for n in sound]) if len(sound) else []
    identity = dict(zip(sound, compared, strict=True))
    out = []
    for n, tried in enumerate(tries):
        numbers = {k: float(v[n]) for k, v in measures.items() if sound_N[n] or np.isfinite(v[n])}
        numbers |= identity.get(n, {})
        out.append(
            Sample(
                key=minted_key(tried.identity, tried.slot, tried.attempt),
                identity=tried.identity,
                slot=tried.slot,
                attempt=tried.attempt,
                conditions=conditions[n],
                measures=numbers,
                embedding_E=emb_NE[n],
            )
        )
    return out


class Bench:
    """Judges a unit's candidates: each alone, whenever that may be, then in the order of making, siblings considered.

    Both when images are made and when stored numbers are judged again.
    """

    def __init__(self, filters: Sequence[Filter], published: Mapping[int, Float32] | None = None) -> None:
        """Take the filters, and the embeddings of published images by ordinal, (K, E) each."""
        self._filters = tuple(filters)
        self._siblings = Siblings(published or {}) if any(f.judges_siblings for f in filters) else None

    def alone(self, sample: Sample) -> dict[str, Verdict]:
        """Return the verdicts of the filters that look at nothing but the sample, by filter."""
        return {f.name: f.judge(sample) for f in self._filters if not f.judges_siblings}

    def settle(
        self, sample: Sample, alone: Mapping[str, Verdict], *, sound: bool = True
    ) -> tuple[Sample, tuple[Verdict, ...], Outcome]:
        """Return the sample with its sibling numbers, every filter's verdict, and what they amount to.

        Candidates come in the order in which they were made. Of a face without numbers the one verdict is that it has
        none: NaN lies on either side of a threshold, so no filter is asked about it.
        """
        if not sound:
            return sample, (Verdict("numbers", False, UNREADABLE, 0.0, 0.0),), Outcome.REFUSED
        if self._siblings is not None:
            sample = replace(sample, measures={**sample.measures, **self._siblings.numbers(sample)})
        verdicts = tuple(f.judge(sample) if f.judges_siblings else alone[f.name] for f in self._filters)
        failed = [f for f, v in zip(self._filters, verdicts, strict=True) if not v.passed]
        outcome = Outcome.REFUSED
        if all(f.judges_condition for f in failed):
            outcome = Outcome.MISSED_CONDITION if failed else Outcome.ACCEPTED
        if self._siblings is not None:
            self._siblings.settle(sample, outcome)
        return sample, verdicts, outcome

    def forget(self, identity: int) -> None:
        """Let go of an identity that is closed."""
        if self._siblings is not None:
            self._siblings.forget(identity)
