"""Candidates as they are stored: a row group of arrow columns built value by value, and the JSON beside an image.

Values go straight into flat lists, one per leaf of the schema: per-row dicts would cost more than everything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from pipeline.adapters.segments.tables import ROW_GROUP, Columns, Spec, arrow_type, finite, odd_vector, vector_column
from pipeline.domain.records import Candidate, Float32, Verdict, Whole

_Made_co = TypeVar("_Made_co", covariant=True)

IMAGES: Spec = {
    "key": "string",
    "order": "int32",
    "identity": "int64",
    "slot": "int32",
    "attempt": "int32",
    "conditions": "map",
    "measures": "map",
    "embedding": "vector",
    "verdicts": "verdicts",
    "accepted": "bool",
    "off_target": "bool",
    "reasons": "strings",
}
WHOLES: Spec = {"whole_offset": "int64?", "whole_length": "int64?", "whole_sha256": "string?"}
"""Further columns of a segment that keeps the pictures that its crops were cut from; null where a row has none."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A map of names to finite numbers, sorted by name."""

    names: tuple[str, ...]
    values: list[float]
    template: str

    def json(self) -> str:
        """Return the entries as they stand in canonical JSON between the braces."""
        return self.template % tuple(self.values)


class Gathering(Protocol[_Made_co]):
    """Takes candidates one by one, up to 4,096, and gives what is written of them; images are not kept."""

    @property
    def rows(self) -> int:
        """Return how many it has taken."""
        ...

    @property
    def size(self) -> int | None:
        """Return the length of the embeddings, once it is known."""
        ...

    def add(self, candidate: Candidate, whole: Whole | None, /) -> tuple[Numbers, Numbers]:
        """Add a row, and where its whole picture was put; return its conditions and measures as they are published."""
        ...

    def columns(self) -> _Made_co:
        """Return what is written."""
        ...


class RowGroup:
    """Up to 4,096 candidates, kept as columns: implements `Gathering`.

    Args:
        size: length of the embeddings; None to take the first one's.
        sourced: candidates may have words that came with their source; whoever asks for this keeps them.
        wholes: the columns of `WHOLES` are among them.
    """

    def __init__(self, size: int | None = None, *, sourced: bool = False, wholes: bool = False) -> None:
        self.rows, self.size, self._sourced = 0, size, sourced
        self._wholes: list[Whole | None] | None = [] if wholes else None
        self._plain: dict[str, list[Any]] = {name: [] for name in _PLAIN}
        self._maps = {"conditions": MapColumn(), "measures": MapColumn()}
        self._verdicts = VerdictColumn()
        self._reasons: list[str] = []
        self._reasons_at = [0]
        self._embedding_NE: Float32 = np.empty((ROW_GROUP, size or 0), np.float32)

    def add(self, candidate: Candidate, whole: Whole | None = None, /) -> tuple[Numbers, Numbers]:
        """Add a row, and where its whole picture was put; return its conditions and measures.

        Raises:
            ValueError: a number is not finite, or words of a source have no place here.
            BadVectorError: the embedding is not as long as the group's first.
        """
        sample = candidate.sample
        if candidate.sourced and not self._sourced:
            raise ValueError(f"key {sample.key!r} has words of its source; only segments of real people hold any")
        self._verdicts.add(candidate.verdicts, sample.key)
        conditions, measures = numbers(sample.conditions, sample.key), numbers(sample.measures, sample.key)
        self._maps["conditions"].add(conditions)
        self._maps["measures"].add(measures)
        self._add_embedding(sample.embedding_E)
        values = (
            sample.key, int(candidate.order), int(sample.identity), int(sample.slot), int(sample.attempt),
            bool(candidate.accepted), bool(candidate.off_target),
        )  # fmt: skip
        for column, value in zip(self._plain.values(), values, strict=True):
            column.append(value)
        self._reasons += candidate.reasons
        self._reasons_at.append(len(self._reasons))
        if self._wholes is not None:
            self._wholes.append(whole)
        self.rows += 1
        return conditions, measures

    def columns(self) -> Columns:
        """Return the columns of `IMAGES`, and those of `WHOLES` where they are wanted.

        Raises:
            BadVectorError: an embedding is not finite.
        """
        import pyarrow as pa

        made = {name: pa.array(values, type=arrow_type(IMAGES[name])) for name, values in self._plain.items()}
        made |= {name: column.array() for name, column in self._maps.items()}
        made["embedding"] = vector_column(self._embedding_NE[: self.rows], "embedding")
        made["verdicts"] = self._verdicts.array()
        reasons = pa.array(self._reasons, type=pa.string())
        made["reasons"] = pa.ListArray.from_arrays(_offsets(self._reasons_at), reasons, type=arrow_type("strings"))
        for name, kind in WHOLES.items() if self._wholes is not None else ():
            field = name.removeprefix("whole_")
            values = [None if whole is None else getattr(whole, field) for whole in self._wholes or ()]
            made[name] = pa.array(values, type=arrow_type(kind))
        return made

    def _add_embedding(self, embedding_E: Float32) -> None:
        if self.size is None:
            self.size = len(embedding_E)
            self._embedding_NE = np.empty((ROW_GROUP, self.size), np.float32)
        if np.shape(embedding_E) != (self.size,):
            raise odd_vector(embedding_E, "embedding", self.rows, self.size)
        self._embedding_NE[self.rows] = embedding_E


def numbers(values: Mapping[str, float], whose: str) -> Numbers:
    """Return a map's entries sorted by name.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    names, template = _known(tuple(values))
    found = list(map(float, map(values.__getitem__, names)))
    # one sum in place of a test per number; the few that overflow it are looked at one by one
    if not math.isfinite(sum(found)):
        found = [finite(value, f"{whose}: {name}") for name, value in zip(names, found, strict=True)]
    return Numbers(names, found, template)


def side_car(candidate: Candidate, conditions: Numbers, measures: Numbers) -> bytes:
    """Return the canonical JSON beside an image: one schema for all, as loaders infer theirs from the first few."""
    sample = candidate.sample
    # a key has no character that JSON would escape
    text = _SIDE_CAR % (
        sample.attempt, conditions.json().encode(), sample.identity, sample.key.encode(), measures.json().encode(),
        b"true" if candidate.off_target else b"false", candidate.order, sample.slot,
    )  # fmt: skip
    if not candidate.sourced:
        return text
    # last by name too
    words = json.dumps(dict(candidate.sourced), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return b'%b,"sourced":%b}\n' % (text.removesuffix(b"}\n"), words.encode())


_PLAIN = tuple(name for name, kind in IMAGES.items() if kind in ("string", "int32", "int64", "bool"))
_SIDE_CAR = (
    b'{"attempt":%d,"conditions":{%b},"identity":%d,"key":"%b","measures":{%b},"off_target":%b,"order":%d,"slot":%d}\n'
)


@lru_cache(maxsize=1024)
def _known(given: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return names sorted, and the template of their JSON; the rows of a segment share a few sets of names."""
    names = tuple(sorted(given))
    # JSON writes a float as `repr` does
    parts = (json.dumps(name, ensure_ascii=False).replace("%", "%%") + ":%r" for name in names)
    return names, ",".join(parts)


class MapColumn:
    """Maps of names to values, all of one type, row by row."""

    def __init__(self, kind: str = "map") -> None:
        self._kind = kind
        self._names: list[str] = []
        self._values: list[Any] = []
        self._at = [0]

    def add(self, row: Numbers) -> None:
        """Add the numbers of a row."""
        self._names += row.names
        self._values += row.values
        self._at.append(len(self._values))

    def add_words(self, row: Mapping[str, str]) -> None:
        """Add the words of a row, sorted by name."""
        self._names += sorted(row)
        self._values += (row[name] for name in sorted(row))
        self._at.append(len(self._values))

    def array(self) -> Any:
        """Return the column."""
        import pyarrow as pa

        type_ = arrow_type(self._kind)
        names, values = pa.array(self._names, type=pa.string()), pa.array(self._values, type=type_.item_type)
        return pa.MapArray.from_arrays(_offsets(self._at), names, values, type=type_)


class VerdictColumn:
    """What the filters say, row by row."""

    def __init__(self) -> None:
        self._filter: list[str] = []
        self._passed: list[bool] = []
        self._reason: list[str] = []
        self._value: list[float] = []
        self._threshold: list[float] = []
        self._at = [0]

    def add(self, verdicts: Iterable[Verdict], whose: str) -> None:
        """Add those of a row; raises ValueError on a number that is not finite."""
        for verdict in verdicts:
            value, threshold = float(verdict.value), float(verdict.threshold)
            if not math.isfinite(value - threshold):
                finite(value, f"{whose}: value of {verdict.filter}")
                finite(threshold, f"{whose}: threshold of {verdict.filter}")
            self._filter.append(verdict.filter)
            self._passed.append(bool(verdict.passed))
            self._reason.append(verdict.reason)
            self._value.append(value)
            self._threshold.append(threshold)
        self._at.append(len(self._filter))

    def array(self) -> Any:
        """Return the column."""
        import pyarrow as pa

        type_ = arrow_type("verdicts")
        lists = (self._filter, self._passed, self._reason, self._value, self._threshold)
        leaves = [pa.array(values, type=field.type) for values, field in zip(lists, type_.value_type, strict=True)]
        verdicts = pa.StructArray.from_arrays(leaves, fields=list(type_.value_type))
        return pa.ListArray.from_arrays(_offsets(self._at), verdicts, type=type_)


def _offsets(places: list[int]) -> Any:
    import pyarrow as pa

    return pa.array(places, type=pa.int32())
