"""Margin softmax heads: one direction per identity, and an own class that is made harder to reach.

Legend: N rows, I identities, E embedding dimensions.

Sources: CosFace (Wang et al. 2018, arXiv:1801.09414), ArcFace (Deng et al. 2019, arXiv:1801.07698).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.trainers.options import MarginNode

_EDGE = 1e-6
"""How near to 1 a cosine may come: there the angle's slope has no end."""


def cosface(cos_NI: Tensor, owner_N: Tensor, margin: float) -> Tensor:
    """Return the cosines, the own class's less the margin."""
    rows = torch.arange(len(owner_N), device=cos_NI.device)
    own = cos_NI[rows, owner_N]
    return cos_NI.index_put((rows, owner_N), own - margin)


def arcface(cos_NI: Tensor, owner_N: Tensor, margin: float) -> Tensor:
    """Return the cosines, the own class's that of an angle larger by the margin.

    Where angle and margin together pass pi, the cosine would rise again; there cos - margin sin(margin) goes on, which
    falls, as in the authors' code.
    """
    rows = torch.arange(len(owner_N), device=cos_NI.device)
    own = cos_NI[rows, owner_N].clamp(-1 + _EDGE, 1 - _EDGE)
    sine = (1.0 - own * own).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    turned = torch.where(own > -math.cos(margin), turned, own - margin * math.sin(margin))
    return cos_NI.index_put((rows, owner_N), turned)


class MarginHead(nn.Module):
    """The loss: scaled cosines to a unit direction per identity, with the margin, under cross-entropy."""

    def __init__(self, node: MarginNode, identities: int, embedding: int, rng: np.random.Generator) -> None:
        super().__init__()
        drawn = rng.standard_normal((identities, embedding), dtype=np.float32)
        self.centres_IE = nn.Parameter(torch.from_numpy(drawn))
        self._node = node
        self._margin_of = {"cosface": cosface, "arcface": arcface}[node.use]

    def forward(self, emb_NE: Tensor, owner_N: Tensor, progress: float) -> Tensor:
        """Return the loss, a scalar; `progress` in 0..1 says how far the training is, for the margin's warm-up."""
        cos_NI = F.normalize(emb_NE.float()) @ F.normalize(self.centres_IE).T
        share = min(1.0, progress / self._node.warm_up) if self._node.warm_up else 1.0
        return F.cross_entropy(self._node.scale * self._margin_of(cos_NI, owner_N, share * self._node.margin), owner_N)
