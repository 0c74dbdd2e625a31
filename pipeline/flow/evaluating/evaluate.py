"""What a dataset is worth to a trainer: a fixed recipe is trained on it with several seeds, and each is verified.

    training set --- overlap with test people removed ---> train (per seed) ---> embed test sets ---> figures

Figures of the seeds are kept apart; the summary gives their mean and their spread. Told in ports: what trains, embeds
and reads is handed in.

Legend: N pictures, P pairs, E embedding dimensions, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import UserError
from pipeline.domain.face_tables import FaceTable
from pipeline.domain.labels import likeliest
from pipeline.domain.ports import Measurer
from pipeline.domain.records import Cell, UInt8
from pipeline.domain.verification import (
    Float64,
    Rates,
    TenFold,
    combined,
    rates,
    shares_by_cell,
    squared_distances,
    ten_fold,
)
from pipeline.domain.verification_pairs import PairList
from pipeline.flow.parts import measure_fixed

MOST_COMPARED = 2500
"""Pictures of known people of which every pair is compared: three million pairs."""
CELL_FAR = 1e-3
"""The rate at which cells are compared, or the lowest above it that the impostor pairs support."""

Tell = Callable[[int, int, float], object]


class Embedder(Protocol):
    """A trained network."""

    def embed(self, faces_NHWC: UInt8) -> npt.NDArray[np.float32]:
        """Return raw embeddings (N, E); a row does not depend on its neighbours."""
        ...


class Trainer(Protocol):
    """Learns to tell people apart, by one fixed recipe."""

    def train(
        self, faces_NHWC: UInt8, labels_N: npt.NDArray[np.int64], seed: int, *, what: str, tell: Tell
    ) -> Embedder:
        """Return what was learnt from faces labelled 0 to I - 1; those labelled -1 are left out.

        `what` says which faces these are, and `tell` is told steps done, steps in all and the loss; it may raise.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TestSet:
    """Pictures and the pairs of them that are verified.

    Attributes:
        table: the pictures.
        pairs: which are compared by the ten-fold protocol.
        labelled: whether labels say who is on a picture; then every pair counts for the rates. Otherwise they say
            which pictures are the same one.
        cell_N: the cell of each picture, `""` where it has none; empty where no cells were read.
    """

    __test__ = False  # no test, whatever pytest takes from its name

    table: FaceTable
    pairs: PairList
    labelled: bool
    cell_N: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one trained network did on one test set.

    Attributes:
        folds: accuracy and VAL.
        rates: EER and TAR.
        cells: accuracy, and TAR and FMR at one overall threshold, by cell; empty where no cells were read.
        cell_far: the overall false match rate of that threshold; None where no level is supported.
    """

    folds: TenFold
    rates: Rates
    cells: Mapping[str, Mapping[str, Any]]
    cell_far: float | None


def read_cells(
    table: FaceTable, fields: Sequence[str], measurers: tuple[Measurer, ...], batch: int, *, pooled: int
) -> tuple[str, ...]:
    """Return the perceived cell of each picture, `""` where a number is missing.

    Args:
        table: the pictures.
        fields: attributes that make a cell, in their order.
        measurers: between them they read every field.
        batch: rows that a measurer sees.
        pooled: people are read as a whole, from the first so many of their pictures.

    Raises:
        UserError: no measurer reads a field.
    """
    values = {field: v for m in measurers for field, v in m.attributes.items()}
    if missing := [field for field in fields if field not in values]:
        raise UserError(f"cells by {missing[0]!r}: no measure reads it; known: {', '.join(sorted(values)) or 'none'}")
    groups = table.first_rows(pooled)
    rows = sorted(row for group in groups for row in group)
    place = {row: at for at, row in enumerate(rows)}
    blocks = [measure_fixed(measurers, faces, batch) for faces in table.faces_of(rows)]
    numbers = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    found = [_cell([place[row] for row in group], fields, values, numbers) for group in groups]
    return tuple(found[owner] for owner in table.labels_N.tolist())


def _cell(
    places: Sequence[int],
    fields: Sequence[str],
    values: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Float64],
) -> str:
    shares = ({v: float(numbers[f"{field}={v}"][list(places)].mean()) for v in values[field]} for field in fields)
    read = [likeliest(share, values[field]) for share, field in zip(shares, fields, strict=True)]
    return "" if None in read else str(Cell(tuple(str(value) for value in read)))


def require_people(table: FaceTable, removed: AbstractSet[int]) -> None:
    """Raise UserError unless at least two people are left to train on."""
    left = len(table.label_names) - len(removed)
    if left < 2:
        without = f" after {len(removed)} that overlap with the test sets were removed" if removed else ""
        raise UserError(
            f"{table.name}: {left} identities to train on{without}; training needs at least 2"
            + ("; raise --overlap-cos, lower --overlap-fpir, or report only (--overlap report)" if removed else "")
        )


def train_and_test(
    table: FaceTable, removed: AbstractSet[int], tests: Sequence[TestSet], trainer: Trainer, seed: int, tell: Tell
) -> list[Result]:
    """Train on a table with one seed, and return the result on each test set.

    Raises:
        UserError: fewer than two people are left, or a test set is too small.
        BadVectorError: the network gave an embedding that is no vector.
    """
    require_people(table, removed)
    what = f"{table.digest} without {sorted(removed)}"
    network = trainer.train(table.faces_NHWC, table.labels_without(removed), seed, what=what, tell=tell)
    return [verify(network, test) for test in tests]


def verify(network: Embedder, test: TestSet) -> Result:
    """Return what a network does on a test set."""
    emb_NE = _embedded(network, test)
    first, second, same = test.pairs.first_P, test.pairs.second_P, test.pairs.same_P
    dist = squared_distances(emb_NE[first], emb_NE[second])
    folds = ten_fold(dist, same)
    one, other, alike, cos = _compared(test, emb_NE, dist)
    found = rates(cos[alike], cos[~alike])
    at = next((r for r in reversed(found.at) if r.far >= CELL_FAR), None)
    if not test.cell_N:
        return Result(folds, found, {}, None)
    cell = np.array(test.cell_N)
    cells = {"accuracy": shares_by_cell(_joint(cell, first, second), folds.right_P)}
    if at is not None:
        joint, passed = np.array(_joint(cell, one, other)), cos >= at.cos
        cells["tar"] = shares_by_cell(joint[alike].tolist(), passed[alike])
        cells["fmr"] = shares_by_cell(joint[~alike].tolist(), passed[~alike])
    return Result(folds, found, cells, at.far if at else None)


def _embedded(network: Embedder, test: TestSet) -> Float64:
    """Return the unit rows of every picture; one that stands in several pairs of a verification set is read once."""
    table = test.table
    read = range(len(table)) if test.labelled else [rows[0] for rows in table.first_rows(1)]
    emb = np.concatenate(
        [
            combined(network.embed(faces), network.embed(np.ascontiguousarray(faces[:, :, ::-1])))
            for faces in table.faces_of(read)
        ]
    )
    return emb if test.labelled else emb[table.labels_N]


def _compared(test: TestSet, emb_NE: Float64, dist_P: Float64) -> tuple[Any, Any, Any, Float64]:
    """Return rows, rows, truth and cosine of every pair that the rates are counted over."""
    if not test.labelled:
        return test.pairs.first_P, test.pairs.second_P, test.pairs.same_P, 1 - dist_P / 2
    # people in their order, as many as fit; the same ones whoever was trained
    rows = np.flatnonzero(test.table.labels_N < _fitting(test.table.labels_N))
    one, other = np.triu_indices(len(rows), k=1)
    cos = (emb_NE[rows] @ emb_NE[rows].T)[one, other]
    one, other = rows[one], rows[other]
    return one, other, test.table.labels_N[one] == test.table.labels_N[other], cos


def _fitting(labels_N: npt.NDArray[np.int64]) -> int:
    """Return how many people, the first ones, have at most `MOST_COMPARED` pictures together; at least two."""
    total = np.cumsum(np.bincount(labels_N))
    return max(2, int(np.searchsorted(total, MOST_COMPARED, "right")))


def _joint(cell: npt.NDArray[np.str_], first: Any, second: Any) -> list[str]:
    """Return the cell of each pair: that of both, or none."""
    joint: list[str] = np.where(cell[first] == cell[second], cell[first], "").tolist()
    return joint
