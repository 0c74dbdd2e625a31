"""The same person older or younger: what the rules of `traits` say about age, applied to a drawn identity.

Only what those rules tie to age moves: apparent age itself (and with it lines, hollows and sagging, which the renderer
works out from it), grey hair, and recession at the temples. Shape, colours, hair style and marks stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.adapters.phantom.traits import (
    GREYING_YEARS,
    ONSET_YEARS,
    FloatArray,
    identity_column,
    nuisance_column,
    recession_share,
    smooth,
)

_Column = npt.NDArray[np.float64]
_YOUNGEST, _OLDEST = 18.0, 80.0


def aged(identities_NT: FloatArray, nuisances_NC: FloatArray) -> FloatArray:
    """Identity rows as their pictures show them: float32 (N, T), with each row's `age_offset_years` applied.

    The stated age is age + offset, held within 18..80 years. Rows whose offset is 0 come back bit for bit.
    """
    offset = nuisances_NC[:, nuisance_column("age_offset_years")].astype(np.float64)
    moved = np.flatnonzero(offset != 0)
    out = np.array(identities_NT, dtype=np.float32)
    if not len(moved):
        return out
    rows = identities_NT[moved].astype(np.float64)
    old = rows[:, identity_column("age_years")]
    new = np.clip(old + offset[moved], _YOUNGEST, _OLDEST)
    grey, recession = rows[:, identity_column("hair_grey")], rows[:, identity_column("hair_recession")]
    onset, most = _greying(grey, old, rows[:, identity_column("line_depth")])
    out[moved, identity_column("age_years")] = new
    out[moved, identity_column("hair_grey")] = np.where(
        new == old, grey, smooth(0.0, GREYING_YEARS, new - onset) * most
    )
    moved_recession = recession * recession_share(new) / recession_share(old)
    out[moved, identity_column("hair_recession")] = np.clip(moved_recession, 0.0, 1.0)
    return out


def _greying(grey: _Column, age: _Column, line_depth: _Column) -> tuple[_Column, _Column]:
    """The age at which each person's first grey hair comes, and the share of grey in the end.

    Both were drawn with the identity and show only in part. Where some hair is grey, the middle of the possible end
    shares gives the onset; where none is, the onset lies ahead, later for people with shallow lines.
    """
    most = np.maximum(grey, 0.775)
    share = np.clip(grey / most, 0.0, 1.0)
    # the inverse of 3 t^2 - 2 t^3
    begun = age - GREYING_YEARS * (0.5 - np.sin(np.arcsin(1.0 - 2.0 * share) / 3.0))
    mean, spread = ONSET_YEARS
    ahead = np.maximum(mean - 4.0 + spread * np.clip(2.0 * (0.9 - line_depth) / 0.4, -2.0, 2.0), age)
    return np.where(grey > 0.0, begun, ahead), most
