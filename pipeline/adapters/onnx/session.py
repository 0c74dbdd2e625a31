"""What runs models that users bring, on one thread: sessions of onnxruntime, and OpenCV; files with their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.domain.errors import UserError


def model_file(path: str, what: str) -> tuple[Path, str]:
    """Return where a model lies and its SHA-256; raises UserError where there is no such file."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise UserError(f"{found}: no such file; give the path of {what}")
    with found.open("rb") as file:
        return found, hashlib.file_digest(file, "sha256").hexdigest()


def opencv() -> Any:
    """Return OpenCV on one thread: its own would be shared by every worker of the machine.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("OpenCV is not installed; install the extra: pip install 'facemint[onnx]'") from None
    cv2.setNumThreads(1)
    return cv2


def session_of(path: Path, providers: Sequence[str]) -> Any:
    """Return an onnxruntime session on one thread: sums in an order that no core count changes.

    Raises:
        UserError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise UserError("onnxruntime is not installed; install the extra: pip install 'facemint[onnx]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # noqa: BLE001
        # onnxruntime has a type of its own for each way in which a file is none of its models
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: onnxruntime cannot load it: {said}") from None
