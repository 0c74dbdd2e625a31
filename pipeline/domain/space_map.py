"""Affine maps from one embedding space to another: fitted to paired vectors, judged on people left out of the fit.

Recognisers trained apart place the same faces differently, but nearly by an affine map of each other: what one calls
near, the other mostly does (G. McNeely-White et al., "Canonical face embeddings", IEEE T-BIOM 2022). Vectors that are
carried over lose what the map misses; how much is measured on identities that the fit never saw, and travels with the
map. A map is never assumed: a recipe names it, or vectors of another space are refused.

Legend: N pairs, S source and D target dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import BadVectorError, UserError
from pipeline.domain.records import Float32, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space

Float64 = npt.NDArray[np.float64]
HELD_OUT = 0.2
"""Share of the identities that a fit is judged on."""
LEAST_HELD_OUT = 20
"""Identities below which the error of a fit would say nothing."""
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties that are tried, as shares of the source's mean variance in a direction."""


@dataclass(frozen=True, slots=True)
class FitError:
    """How well a map carries people that it was not fitted to.

    Attributes:
        pairs: pairs that it was fitted to.
        identities: whose they were.
        held_out_pairs: pairs that it was judged on.
        held_out_identities: whose they were, none of the others.
        mean_cos: mean cosine of what was carried over to what should have come out.
        std_cos: its standard deviation.
        low_cos: 5 % of the pairs lie below.
        stranger_cos: mean cosine of what was carried over to the target of another held-out person: where this is near
            `mean_cos`, the map carries no identity.
        own_nearest: share of the held-out pairs whose nearest target, of one for each held-out person, is their own.
        ridge: the penalty that was chosen, as a share of the source's mean variance in a direction.
    """

    pairs: int
    identities: int
    held_out_pairs: int
    held_out_identities: int
    mean_cos: float
    std_cos: float
    low_cos: float
    stranger_cos: float
    own_nearest: float
    ridge: float

    def said(self) -> str:
        """Return the error in one phrase, for a manifest."""
        return (
            f"affine map fitted to {self.pairs} pairs of {self.identities} identities; on {self.held_out_identities} "
            f"others: cosine to the true vector {self.mean_cos:.3f} on average, 5 % below {self.low_cos:.3f}, to a "
            f"stranger's {self.stranger_cos:.3f}, own identity nearest for {100 * self.own_nearest:.1f} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> FitError:
        """Return what `to_dict` wrote."""
        return cls(**raw)


@dataclass(frozen=True, slots=True, eq=False)
class SpaceMap:
    """y = A x + b, and then the norm convention of the target.

    Attributes:
        source: where vectors come from.
        target: where they go.
        matrix_DS: A, float64.
        offset_D: b, float64.
        error: how well it fits.
    """

    source: Space
    target: Space
    matrix_DS: Float64
    offset_D: Float64
    error: FitError

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit the spaces, and numbers that are none."""
        shapes = (self.matrix_DS.shape, self.offset_D.shape)
        d, s = self.target.dimensions, self.source.dimensions
        if shapes != ((d, s), (d,)):
            raise ValueError(f"arrays of shapes {shapes}; a map of {s} to {d} dimensions has {((d, s), (d,))}")
        if not (np.isfinite(self.matrix_DS).all() and np.isfinite(self.offset_D).all()):
            raise ValueError("numbers that are not finite")

    def apply(self, vectors_NS: Float32) -> Float32:
        """Return the vectors carried over, (N, D) float32: of unit length where the target's are.

        A row never depends on those beside it: sums run in index order, in float64.

        Raises:
            BadVectorError: a vector has other dimensions than the source, is not finite, or comes out without length.
        """
        rows = np.asarray(vectors_NS, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.source.dimensions:
            raise BadVectorError(
                f"map of {self.source.name!r}: vectors of shape {rows.shape}; it takes (N, {self.source.dimensions})"
            )
        out = np.stack([np.cumsum(self.matrix_DS * row, axis=1)[:, -1] for row in rows]) + self.offset_D
        if self.target.norm == "unit":
            return unit_rows(out, f"vectors carried over to {self.target.name!r}")
        bad = np.flatnonzero(~(np.isfinite(out).all(axis=1) & out.any(axis=1)))
        if bad.size:
            raise BadVectorError(
                f"vectors carried over to {self.target.name!r}: row {int(bad[0])} is not finite, or without length"
            )
        carried: Float32 = out.astype(np.float32)
        return carried


def fit_map(
    source: Space, source_NS: Float32, target: Space, target_ND: Float32, labels_N: npt.NDArray[np.int64]
) -> SpaceMap:
    """Return the map of least squares from paired vectors: row n of both is of one image, or one identity.

    A fifth of the identities, drawn from a fixed key, is left out of the fit and judges it. The penalty that keeps the
    fit from following single people (ridge regression, A. Hoerl and R. Kennard 1970) is the one of RIDGES that does
    best on a fifth of the others. In a target whose vectors keep their lengths the map is scaled so that what it gives
    is as long, on average, as what it was fitted to: least squares alone give shorter ones.

    Args:
        source: whose vectors `source_NS` are.
        source_NS: float32, (N, S).
        target: whose vectors `target_ND` are.
        target_ND: float32, (N, D).
        labels_N: identity of each row.

    Raises:
        UserError: too few identities to fit, or to judge the fit.
        BadVectorError: a vector has no length or is not finite.
    """
    x, y = np.asarray(source_NS, np.float64), np.asarray(target_ND, np.float64)
    if x.shape != (len(labels_N), source.dimensions) or y.shape != (len(labels_N), target.dimensions):
        raise BadVectorError(f"pairs of shapes {x.shape} and {y.shape} for {len(labels_N)} labels; they do not pair")
    for rows, space in ((x, source), (y, target)):
        unit_rows(rows, f"vectors of {space.name!r}")
    people = np.unique(labels_N)
    order = Key(0, Stream.SPACE_MAP).generator().permutation(len(people))
    held = people[order[: max(1, round(HELD_OUT * len(people)))]]
    fitted = people[order[len(held) :]]
    tuned = fitted[: max(1, round(HELD_OUT * len(fitted)))]
    if len(held) < LEAST_HELD_OUT or len(fitted) - len(tuned) < source.dimensions / 4:
        needed = max(5 * LEAST_HELD_OUT, int(np.ceil(source.dimensions / 4 / (1 - HELD_OUT) ** 2)) + 5)
        raise UserError(
            f"{len(people)} identities to fit a map of {source.dimensions} dimensions; give {needed} at least, and "
            "several thousand for one worth using"
        )
    judges, tunes = np.isin(labels_N, held), np.isin(labels_N, tuned)
    rest = ~judges & ~tunes
    scores = [_mean_cos(_affine(x[rest], y[rest], ridge), x[tunes], y[tunes]) for ridge in RIDGES]
    ridge = RIDGES[int(np.argmax(scores))]
    matrix, offset = _affine(x[~judges], y[~judges], ridge)
    if target.norm == "raw":
        longer = float(np.linalg.norm(y[~judges], axis=1).mean())
        gain = longer / float(np.linalg.norm(x[~judges] @ matrix.T + offset, axis=1).mean())
        matrix, offset = matrix * gain, offset * gain
    error = _error((matrix, offset), x, y, labels_N, judges, ridge)
    return SpaceMap(source, target, matrix, offset, error)


def _affine(x_NS: Float64, y_ND: Float64, ridge: float) -> tuple[Float64, Float64]:
    mean_x, mean_y = x_NS.mean(axis=0), y_ND.mean(axis=0)
    around_x, around_y = x_NS - mean_x, y_ND - mean_y
    gram = around_x.T @ around_x
    penalty = ridge * float(np.trace(gram)) / len(gram) + 1e-12
    matrix = np.linalg.solve(gram + penalty * np.eye(len(gram)), around_x.T @ around_y).T
    return matrix, mean_y - matrix @ mean_x


def _carried(affine: tuple[Float64, Float64], x_NS: Float64) -> Float64:
    return np.asarray(x_NS @ affine[0].T + affine[1])


def _mean_cos(affine: tuple[Float64, Float64], x_NS: Float64, y_ND: Float64) -> float:
    return float(_cosines(_carried(affine, x_NS), y_ND).mean())


def _cosines(a_ND: Float64, b_ND: Float64) -> Float64:
    lengths = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a_ND, b_ND) / np.maximum(lengths, 1e-12))


def _error(
    affine: tuple[Float64, Float64],
    x_NS: Float64,
    y_ND: Float64,
    labels_N: npt.NDArray[np.int64],
    judges_N: npt.NDArray[np.bool_],
    ridge: float,
) -> FitError:
    carried, true, whose = _carried(affine, x_NS[judges_N]), y_ND[judges_N], labels_N[judges_N]
    people, person_N = np.unique(whose, return_inverse=True)
    means = np.stack([true[person_N == p].mean(axis=0) for p in range(len(people))])
    near_NP = _unit(carried) @ _unit(means).T
    cos = _cosines(carried, true)
    others = near_NP.sum(axis=1) - near_NP[np.arange(len(carried)), person_N]
    return FitError(
        pairs=int((~judges_N).sum()),
        identities=len(np.unique(labels_N[~judges_N])),
        held_out_pairs=len(carried),
        held_out_identities=len(people),
        mean_cos=float(cos.mean()),
        std_cos=float(cos.std()),
        low_cos=float(np.quantile(cos, 0.05)),
        stranger_cos=float((others / (len(people) - 1)).mean()),
        own_nearest=float((near_NP.argmax(axis=1) == person_N).mean()),
        ridge=ridge,
    )


def _unit(rows_ND: Float64) -> Float64:
    return np.asarray(rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12))


__all__ = ["FitError", "SpaceMap", "fit_map"]
