"""Measure, then judge: decoded images become numbers, numbers become verdicts.

The same function runs when images are made and when stored ones are judged again, so the numbers that a filter sees
never depend on which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.domain.cosines import exact_cosines
from pipeline.domain.one_to_many import References, max_cos_to_others
from pipeline.domain.ports import Filter
from pipeline.domain.records import Cell, Conditions, Float32, Identity, Sample, Verdict, minted_key
from pipeline.flow.siblings import Siblings
from pipeline.flow.window import Outcome, Try

OWN = "own_template_cos"
NEAREST = "nearest_other_cos"
NEAREST_ORDINAL = "nearest_other_identity"
OWN_CELL = "own_cell_probability"
"""Probability, on one image, of the cell that its identity is enrolled in: the least over the fields of `balance.by`;
`own_cell_probability:<field>` is that of one field. Given only where a filter asks for it, with `judges_cell`."""
UNREADABLE = "numbers_not_finite"
"""Why a face is refused whose embedding or measures came out NaN, infinite or without length."""


class Templates:
    """The templates of every identity enrolled up to a generation, by ordinal."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        """Stack the templates; `identities` come in ordinal order."""
        self.ordinals = np.array([i.ordinal for i in identities], np.int64)
        rows_ME = np.stack([i.template_E for i in identities]) if identities else np.empty((0, 0), np.float32)
        self.references = References(rows_ME, "templates")
        self.row = {int(o): n for n, o in enumerate(self.ordinals)}

    def identity_measures(self, emb_NE: Float32, owners: Sequence[int]) -> list[dict[str, float]]:
        """Return, per embedding, its cosine to its own template and to the nearest other one."""
        own = np.array([self.row[o] for o in owners], np.int64)
        best, where = max_cos_to_others(emb_NE, self.references, own)
        own_cos = exact_cosines(emb_NE, np.arange(len(emb_NE)), self.references.rows_ME, own)
        return [
            {
                OWN: float(own_cos[n]),
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


def own_cell(measures: Mapping[str, float], fields: Sequence[str], cell: Cell) -> dict[str, float]:
    """Return OWN_CELL of an image, and the same for each field.

    Args:
        measures: the image's own estimates, `field=value`.
        fields: the recipe's `balance.by`, at least one.
        cell: what its identity is enrolled in: one value per field.
    """
    each = {
        f"{OWN_CELL}:{field}": measures[f"{field}={value}"] for field, value in zip(fields, cell.values, strict=True)
    }
    return {OWN_CELL: float(np.min(list(each.values()))), **each}  # NaN where one is: Python's min would skip it


class Bench:
    """Judges a unit's candidates: each alone, whenever that may be, then in the order of making, siblings considered.

    Both when images are made and when stored numbers are judged again.
    """

    def __init__(
        self,
        filters: Sequence[Filter],
        published: Mapping[int, Float32] | None = None,
        *,
        fields: Sequence[str] = (),
        cells: Mapping[int, Cell] | None = None,
    ) -> None:
        """Take the filters, and what they may ask for besides a sample's own numbers.

        Args:
            filters: in the order of the recipe.
            published: ordinal -> embeddings of its published images, (K, E).
            fields: the recipe's `balance.by`.
            cells: ordinal -> the cell that it is enrolled in; numbers of those who have none here must come with the
                sample.
        """
        self._filters = tuple(filters)
        self._fields = tuple(fields)
        self._cells = (cells or {}) if any(f.judges_cell for f in filters) else {}
        self._siblings = Siblings(published or {}) if any(f.judges_siblings for f in filters) else None

    def alone(self, sample: Sample) -> dict[str, Verdict]:
        """Return the verdicts of the filters that look at nothing but the sample, by filter."""
        sample = self._with_cell(sample)
        return {f.name: f.judge(sample) for f in self._filters if not f.judges_siblings}

    def may_stand(self, alone: Mapping[str, Verdict]) -> bool:
        """Return whether a sample with these verdicts can still be accepted, whatever its siblings say."""
        return all(alone[f.name].passed or f.judges_condition for f in self._filters if f.name in alone)

    def settle(
        self,
        sample: Sample,
        alone: Mapping[str, Verdict],
        *,
        sound: bool = True,
        entering: Set[Outcome] = frozenset(Outcome),
    ) -> tuple[Sample, tuple[Verdict, ...], Outcome]:
        """Return the sample with its sibling numbers, every filter's verdict, and what they amount to.

        Candidates come in the order in which they were made. Of a face without numbers the one verdict is that it has
        none: NaN lies on either side of a threshold, so no filter is asked about it. With another outcome than those of
        `entering` it is judged, and is no sibling of those after it.
        """
        if not sound:
            return sample, (Verdict("numbers", False, UNREADABLE, 0.0, 0.0),), Outcome.REFUSED
        sample = self._with_cell(sample)
        if self._siblings is not None:
            sample = replace(sample, measures={**sample.measures, **self._siblings.numbers(sample)})
        verdicts = tuple(f.judge(sample) if f.judges_siblings else alone[f.name] for f in self._filters)
        failed = [f for f, v in zip(self._filters, verdicts, strict=True) if not v.passed]
        outcome = Outcome.REFUSED
        if all(f.judges_condition for f in failed):
            outcome = Outcome.MISSED_CONDITION if failed else Outcome.ACCEPTED
        if self._siblings is not None and outcome in entering:
            self._siblings.settle(sample, outcome)
        return sample, verdicts, outcome

    def forget(self, identity: int) -> None:
        """Let go of an identity that is closed."""
        if self._siblings is not None:
            self._siblings.forget(identity)

    def _with_cell(self, sample: Sample) -> Sample:
        cell = self._cells.get(sample.identity)
        if cell is None:
            return sample
        return replace(sample, measures={**sample.measures, **own_cell(sample.measures, self._fields, cell)})
