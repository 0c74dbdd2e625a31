"""InsightFace model packs: a folder of ONNX files of which each says by its shapes alone what it is.

Names differ from pack to pack, and InsightFace itself goes by shape. A foreign file that lies in a pack is taken for
whatever its shapes look like; so where two files fit, neither is chosen, and one has to be named.
Source: InsightFace model zoo; packs are for non-commercial research only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.adapters.onnx.session import session_of
from pipeline.domain.errors import UserError

LICENCE = "InsightFace, non-commercial research"
SCRFD_WIDTHS = (1, 1, 1, 4, 4, 4, 10, 10, 10)
"""Last axes of an SCRFD's outputs: scores, boxes and points of three strides."""
CROP_px = 112
_SHORTEST = 64
"""Least numbers of an embedding: heads of other kinds give a handful."""
DETECTOR, RECOGNISER = "detector", "recogniser"
_WHAT = {
    DETECTOR: "an SCRFD with landmarks (outputs of widths 1 1 1 4 4 4 10 10 10)",
    RECOGNISER: f"a recogniser (takes crops of {CROP_px} x {CROP_px} px, gives one row of {_SHORTEST} numbers or more)",
}


def pack_file(folder: str, kind: str, name: str = "") -> Path:
    """Return the file of a pack that is its detector, or its recogniser.

    Args:
        folder: the pack's folder, `models/buffalo_sc` for one.
        kind: DETECTOR or RECOGNISER.
        name: of the file, where several are of that kind; left out, exactly one has to be.

    Raises:
        UserError: no such folder or file, none of that kind in it, or several.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; give the folder of an InsightFace pack, with its ONNX files in it")
    if name:
        return place / name
    files = sorted(place.glob("*.onnx"))
    kinds = {path.name: _kind(path, (path.stat().st_size, path.stat().st_mtime_ns)) for path in files}
    fitting = [path for path in files if kinds[path.name] == kind]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{place}: {', '.join(p.name for p in fitting)} are each {_WHAT[kind]}; name one with `file`")
    there = ", ".join(f"{n} ({k or 'another kind'})" for n, k in kinds.items()) or "no ONNX file"
    raise UserError(f"{place}: holds {there}; a pack needs {_WHAT[kind]}")


@cache
def _kind(path: Path, stamp: tuple[int, int]) -> str | None:  # noqa: ARG001 - another stamp is another file
    """Return what an ONNX file is by its shapes; None for another kind, or a file that cannot be loaded."""
    try:
        return kind_of(session_of(path, ("CPUExecutionProvider",)))
    except UserError:
        return None


def kind_of(session: Any) -> str | None:
    """Return what a session's model is by the shapes that it takes and gives."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    if tuple(o.shape[-1] if o.shape else None for o in outputs) == SCRFD_WIDTHS:
        return DETECTOR
    takes_crops = tuple(inputs[0].shape[1:]) == (3, CROP_px, CROP_px)
    gives = outputs[0].shape
    gives_one_row = len(outputs) == 1 and len(gives) == 2 and isinstance(gives[1], int) and gives[1] >= _SHORTEST
    return RECOGNISER if takes_crops and gives_one_row else None
