"""What runs models that users bring, on one thread: sessions of onnxruntime, and OpenCV; files with their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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


Device = Literal["cpu", "cuda"]
"""What a recipe says that a model runs on: it decides the last bits, so it is asked for and never found out."""


def providers_of(device: Device) -> tuple[str, ...]:
    """Return onnxruntime's providers for a device.

    Raises:
        UserError: onnxruntime is not installed, or this build of it cannot use the device.
    """
    if device == "cpu":
        return ("CPUExecutionProvider",)
    offered = _onnxruntime().get_available_providers()
    if "CUDAExecutionProvider" not in offered:
        raise UserError(
            f"device cuda: this onnxruntime offers {', '.join(offered)}; install onnxruntime-gpu in its place, or set "
            "device: cpu"
        )
    return ("CUDAExecutionProvider", "CPUExecutionProvider")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed; install the extra: pip install 'facemint[onnx]'") from None
    return onnxruntime


def session_of(path: Path, providers: Sequence[str], sizes: Mapping[str, int] | None = None) -> Any:
    """Return an onnxruntime session on one thread: sums in an order that no core count changes.

    Args:
        path: of the model.
        providers: what runs it, the first that can.
        sizes: named dimension of its inputs -> the one size that it will have.

    Raises:
        UserError: onnxruntime is not installed, or cannot read the file.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # noqa: BLE001
        # onnxruntime has a type of its own for each way in which a file is none of its models
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: onnxruntime cannot load it: {said}") from None
    if providers[0] not in session.get_providers():
        # it would go on with the next one and say so in a log alone
        raise UserError(f"{path}: {providers[0]} does not start on this machine; set device: cpu")
    return session
