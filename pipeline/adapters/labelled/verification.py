"""InsightFace verification sets (`lfw.bin`, `cfp_fp.bin`, ...): pairs of pictures, and whether they show one person.

The file is a pickle of (2P encoded pictures, P truth values); pictures 2p and 2p + 1 are pair p. Layout as read by
`recognition/arcface_torch/eval/verification.py` of the InsightFace repository. It is read as plain data and never
unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.adapters.labelled.pickled import RefusedPickleError, plain_data
from pipeline.adapters.labelled.pictures import decode
from pipeline.domain.errors import UserError
from pipeline.domain.records import UInt8

LARGEST_bytes = 8 << 30


class VerificationPairs:
    """Implements `flow.labelled.LabelledPairs` over a verification set."""

    def __init__(self, path: Path, *, side_px: int) -> None:
        """Read the file and check its layout; pictures are decoded when they are asked for.

        Raises:
            UserError: no such file, not plain data, or not laid out as a verification set.
        """
        self.name = str(path)
        self._side_px = side_px
        self._pictures, self._same = _checked(path)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._same)

    def __iter__(self) -> Iterator[tuple[UInt8, UInt8, bool]]:
        """Yield two pictures, uint8 RGB of the recogniser's crop size, and whether they show one person.

        Raises:
            UserError: a picture is damaged or of another size.
        """
        for pair, same in enumerate(self._same):
            yield self._decoded(2 * pair), self._decoded(2 * pair + 1), same

    def _decoded(self, place: int) -> UInt8:
        try:
            return decode(self._pictures[place], self._side_px)
        except ValueError as error:
            raise UserError(f"{self.name}: picture {place}: {error}") from None


def _checked(path: Path) -> tuple[list[bytes], list[bool]]:
    try:
        size = path.stat().st_size
        if size > LARGEST_bytes:
            raise UserError(f"{path}: {size:,} bytes, at most {LARGEST_bytes:,} are read")
        held = plain_data(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a verification set (.bin)") from None
    except RefusedPickleError as error:
        raise UserError(
            f"{path}: refused: {error}; a verification set is a pickle of (list of pictures as bytes, list of bool)"
        ) from None
    if not isinstance(held, tuple | list) or len(held) != 2:
        raise UserError(f"{path}: holds no (pictures, truths) pair; give a verification set as InsightFace writes them")
    pictures, same = (
        [_picture(p, path) for p in _items(held[0], path)],
        [_truth(s, path) for s in _items(held[1], path)],
    )
    if len(pictures) != 2 * len(same) or not same:
        raise UserError(f"{path}: {len(pictures)} pictures for {len(same)} pairs; each pair has two pictures")
    return pictures, same


def _items(value: Any, path: Path) -> list[Any]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return list(value.tolist())
    if not isinstance(value, list | tuple):
        raise UserError(f"{path}: got {type(value).__name__} where a list is expected")
    return list(value)


def _picture(value: Any, path: Path) -> bytes:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        return value.tobytes()
    if not isinstance(value, bytes):
        raise UserError(f"{path}: got {type(value).__name__} where a picture's bytes are expected")
    return value


def _truth(value: Any, path: Path) -> bool:
    if type(value) is bool or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise UserError(f"{path}: got {str(value)[:40]!r} where true or false is expected")
