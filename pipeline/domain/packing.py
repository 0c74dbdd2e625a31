"""Packing on the hypersphere: identity vectors are pushed apart by gradient, and kept where identities live.

The nearest pair bounds how many people a set can tell apart, so packing lowers a soft maximum of the cosines between
points (the idea of HyperFace, Shahreza and Marcel, ICLR 2025, which packs embeddings of generated faces). A packing of
the bare sphere leaves the manifold of identities and comes out as nobody. Points are therefore written as
x = (mean + L z) / |mean + L z| in the coordinates z of a bank's Gaussian and moved in z: they go furthest where people
differ most, and a point whose |z|^2 / D exceeds that of a typical draw is pulled back.

Legend: B points of a block, P points of earlier blocks, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain.records import Float32

Float64 = npt.NDArray[np.float64]
_FIRST_RATE, _LAST_RATE = 0.08, 0.01
"""How far a coordinate moves in the first and in the last step, in standard deviations."""
_TYPICAL = 1.0
"""|z|^2 / D of a typical draw."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How points are packed.

    Attributes:
        steps: gradient steps.
        sharpness: of the soft maximum; higher looks at the nearest pair alone.
        manifold: weight of staying as near to the mean as a typical draw.
    """

    steps: int
    sharpness: float
    manifold: float


def pack(z_BD: Float64, mean_D: Float64, factor_DD: Float64, earlier_PD: Float32, how: Packing) -> Float32:
    """Return B packed unit vectors, float32, shape (B, D).

    A point's place follows from all points of its block and of earlier ones. Products are float32 of fixed shapes in
    a fixed order, so equal arguments give equal bytes on one device kind.

    Args:
        z_BD: standard normal draws: where the points start.
        mean_D: of the Gaussian.
        factor_DD: its lower Cholesky factor.
        earlier_PD: unit vectors of earlier blocks, which stay; shape (0, D) where there are none.
        how: how points are packed.
    """
    mean, factor = mean_D.astype(np.float32), np.ascontiguousarray(factor_DD, np.float32)
    z: Float32 = z_BD.astype(np.float32)
    moment, spread = np.zeros_like(z), np.zeros_like(z)
    for step in range(how.steps):
        gradient = _gradient(z, mean, factor, earlier_PD, how)
        # Adam (Kingma and Ba 2015): a step per coordinate that does not depend on how large gradients are
        moment = 0.9 * moment + 0.1 * gradient
        spread = 0.99 * spread + 0.01 * gradient**2
        first, second = moment / (1 - 0.9 ** (step + 1)), spread / (1 - 0.99 ** (step + 1))
        along = step / max(1, how.steps - 1)
        rate = np.float32(_FIRST_RATE * (_LAST_RATE / _FIRST_RATE) ** along)
        z = (z - rate * first / (np.sqrt(second) + np.float32(1e-12))).astype(np.float32)
    raw = mean_D + z.astype(np.float64) @ factor_DD.T
    out: Float32 = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return out


def _gradient(z_BD: Float32, mean_D: Float32, factor_DD: Float32, earlier_PD: Float32, how: Packing) -> Float32:
    """Return the gradient of the mean soft maximum cosine plus the manifold term, by point, in z."""
    raw = mean_D + z_BD @ factor_DD.T
    length = np.sqrt(np.einsum("bd,bd->b", raw, raw))[:, None]
    unit = raw / length
    sharpness = np.float32(how.sharpness)
    # exp(sharpness (cos - 1)) cannot overflow; a point is not its own neighbour
    near = np.exp(sharpness * (unit @ unit.T - np.float32(1)))
    np.fill_diagonal(near, 0)
    total = near.sum(axis=1)
    if len(earlier_PD):
        past = np.exp(sharpness * (unit @ earlier_PD.T - np.float32(1)))
        total = total + past.sum(axis=1)
    inverse = 1 / (total + np.float32(1e-30))
    # d/dx_i of sum_j log total_j / sharpness: as a point with neighbours, and as a neighbour of others
    pull = (near * inverse[:, None]) @ unit + near @ (inverse[:, None] * unit)
    if len(earlier_PD):
        pull = pull + (past * inverse[:, None]) @ earlier_PD
    tangent = (pull - np.einsum("bd,bd->b", pull, unit)[:, None] * unit) / length
    gradient = tangent @ factor_DD
    excess = np.maximum(np.einsum("bd,bd->b", z_BD, z_BD) / z_BD.shape[1] - np.float32(_TYPICAL), 0)
    out: Float32 = (gradient + np.float32(how.manifold * 4 / z_BD.shape[1]) * excess[:, None] * z_BD).astype(np.float32)
    return out
