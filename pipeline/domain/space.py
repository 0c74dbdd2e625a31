"""Embedding spaces: two vectors may meet only where recogniser weights, alignment and norm convention agree.

All published conditioning spaces are 512-dimensional and mutually incompatible; mixing them gives plausible
garbage. A space is therefore a value that travels with every bank, template and gallery.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.domain.errors import SpaceMismatchError

Norm = Literal["unit", "raw"]


@dataclass(frozen=True, slots=True)
class Space:
    """Where a vector lives.

    Attributes:
        name: what people call it, for messages: `phantom-conditioning`.
        weights_sha256: digest of the recogniser's weights.
        alignment: the named template by which faces are cropped before embedding: `phantom-112`, `arcface-112`.
        norm: `unit` for L2-normalised vectors, `raw` for the recogniser's bare output.
        dimensions: length of a vector.
    """

    name: str
    weights_sha256: str
    alignment: str
    norm: Norm
    dimensions: int

    def require_same(self, other: Space, what: str) -> None:
        """Raise SpaceMismatchError, naming the differing parts, unless `other` is this very space."""
        mine, theirs = asdict(self), asdict(other)
        differing = [k for k in mine if k != "name" and mine[k] != theirs[k]]
        if differing:
            parts = ", ".join(f"{k} {_short(theirs[k])} instead of {_short(mine[k])}" for k in differing)
            raise SpaceMismatchError(
                f"{what}: got vectors of space {other.name!r} where {self.name!r} is expected ({parts}); "
                "embed the images again with the expected recogniser and alignment"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Space:
        """Return the space that `to_dict` wrote."""
        return cls(**raw)


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "..." if len(text) > 16 else text
