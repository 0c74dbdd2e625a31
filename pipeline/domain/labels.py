"""Labels with sources: one attribute may hold the answers of several labellers, told apart by the names of measures.

    shade=dark            the primary labeller's probability that the attribute `shade` reads `dark`
    shade@second=dark     the same asked of the labeller `second`
    est_skin_tone_mst@ita a plain number with a source

A recipe names a labeller where it lists the measure (`{use: sketch, labeller: second}`); which model, weights and
licence stand behind a labeller, its card says. To what `@` belongs is the field, so `shade@second` may be used as an
attribute of its own wherever an attribute is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.domain.records import Measures

LABELLER_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
"""What a labeller may be called: short, and without the two signs that names of measures are divided at."""
PRIMARY = ""
"""The labeller of names without a source."""
_LABELLER = re.compile(LABELLER_PATTERN)


@dataclass(frozen=True, slots=True, order=True)
class LabelName:
    """The name of a measure, taken apart.

    Attributes:
        field: the attribute, or the whole name of a plain number.
        labeller: who answers; empty for the primary one.
        value: one of the attribute's values; None where the measure is a plain number.
    """

    field: str
    labeller: str = PRIMARY
    value: str | None = None

    def __str__(self) -> str:
        """Return the name as measures carry it."""
        source = f"{self.field}@{self.labeller}" if self.labeller else self.field
        return source if self.value is None else f"{source}={self.value}"

    @classmethod
    def parse(cls, name: str) -> LabelName:
        """Return the parts of a measure's name; what stands after the first `=` is the value, whatever it holds."""
        source, sign, value = name.partition("=")
        field, _, labeller = source.partition("@")
        return cls(field, labeller, value if sign else None)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the labellers of one attribute say of one face, or of one identity.

    Attributes:
        agreed: whether there is a labeller, all gave numbers, and all find the same value most likely.
        value: that value; empty where they do not agree.
        probability: the mean over the labellers of their probability of it; 0 where they do not agree.
        answers: labeller -> the value that it finds most likely, empty where its numbers are incomplete or NaN.
    """

    agreed: bool
    value: str
    probability: float
    answers: Mapping[str, str]


def sourced(name: str, labeller: str) -> str:
    """Return the name of a primary measure as another labeller's: `shade=dark` -> `shade@second=dark`.

    Raises:
        ValueError: the labeller's name is none, or the measure has a source already.
    """
    if not _LABELLER.fullmatch(labeller):
        raise ValueError(
            f"labeller {labeller!r}: a labeller is 1 to 32 of a-z, 0-9, `_` and `-`, beginning with a letter or digit"
        )
    parts = LabelName.parse(name)
    if parts.labeller:
        raise ValueError(f"{name!r} has the labeller {parts.labeller!r} already; a measure has one source")
    return str(LabelName(parts.field, labeller, parts.value))


def labellers(names: Iterable[str], field: str) -> tuple[str, ...]:
    """Return who answers about an attribute, the primary labeller ("") first, then by name."""
    parsed = (LabelName.parse(name) for name in names)
    return tuple(sorted({p.labeller for p in parsed if p.field == field and p.value is not None}))


def posterior(measures: Measures, field: str, labeller: str = PRIMARY) -> dict[str, float]:
    """Return value -> probability as one labeller gave it; empty where it said nothing of the attribute."""
    parsed = ((LabelName.parse(name), number) for name, number in measures.items())
    return {p.value: n for p, n in parsed if p.field == field and p.labeller == labeller and p.value is not None}


def likeliest(shares: Mapping[str, float], values: Sequence[str]) -> str | None:
    """Return the value of the largest share, the first of equal ones in the order of `values`.

    None where a value has no share or one is NaN: nothing is decided by what is not a number.
    """
    if not values or not all(math.isfinite(shares.get(v, math.nan)) for v in values):
        return None
    return max(values, key=lambda v: shares[v])


def agreement(measures: Measures, field: str, values: Sequence[str], among: Sequence[str] | None = None) -> Agreement:
    """Return whether all labellers of an attribute agree.

    Args:
        measures: the numbers of a face, or of an identity pooled over its faces.
        field: the attribute, without a source.
        values: its values in their order, which decides between equal probabilities.
        among: the labellers that must agree; by default everybody who answered. One of these without an answer agrees
            with nobody.
    """
    asked = tuple(dict.fromkeys(labellers(measures, field) if among is None else among))
    shares = {labeller: posterior(measures, field, labeller) for labeller in asked}
    answers = {labeller: likeliest(shares[labeller], values) or "" for labeller in asked}
    given = set(answers.values())
    if len(given) != 1 or "" in given:
        return Agreement(False, "", 0.0, answers)
    (value,) = given
    return Agreement(True, value, math.fsum(shares[a][value] for a in asked) / len(asked), answers)
