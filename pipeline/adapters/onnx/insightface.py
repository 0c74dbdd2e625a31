"""A pack of InsightFace as detector and as recogniser: the files of a folder, run by our own parts.

The package `insightface` is not needed: its `FaceAnalysis` reads one image at a time and, from version 2 on, detects in
two passes unless it is told a size. Here the side is pinned, and nothing is ever downloaded.
Source: github.com/deepinsight/insightface, model zoo; the weights are for non-commercial research only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.adapters.onnx.packs import DETECTOR, LICENCE, RECOGNISER, pack_file
from pipeline.adapters.onnx.recogniser import OnnxRecogniser, OnnxRecogniserOptions
from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions
from pipeline.adapters.onnx.session import Device
from pipeline.domain.calibration_file import RecogniserNode
from pipeline.domain.detection import DetectorNode

_FILE = Annotated[str, Field(pattern=r"^[^/\\]{1,200}\.onnx$|^$")]
_LICENCE = Annotated[str, Field(min_length=2, max_length=500)]


class InsightFaceDetectorOptions(DetectorNode):
    """The SCRFD detector of a pack: `path` is the pack's folder."""

    use: Literal["insightface"] = "insightface"
    file: _FILE = ""
    """Which file, where several are SCRFD detectors; left out, the only one."""
    licence: _LICENCE = LICENCE
    device: Device = "cpu"


class InsightFaceDetector(Scrfd):
    """Implements `detection.Detector`; `InsightFaceDetector(options)`.

    Raises:
        UserError: the folder has no SCRFD with landmarks, or several.
    """

    def __init__(self, options: InsightFaceDetectorOptions) -> None:
        path = pack_file(options.path, DETECTOR, options.file)
        super().__init__(ScrfdOptions(**options.model_dump(exclude={"use", "path", "file"}), path=str(path)))


class InsightFaceRecogniserOptions(RecogniserNode):
    """The recogniser of a pack: `path` is the pack's folder."""

    use: Literal["insightface"] = "insightface"
    path: Annotated[str, Field(min_length=1)]
    file: _FILE = ""
    """Which file, where several are recognisers; left out, the only one."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,60}$")] | None = None
    """What its space is called; left out, `insightface-` and the file's name."""
    licence: _LICENCE = LICENCE
    commercial: bool = False
    """Whether that licence allows commercial use: InsightFace sells such licences."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows that the network sees; where its rows depend on each other, each image goes alone."""
    device: Device = "cpu"


class InsightFaceRecogniser(OnnxRecogniser):
    """Implements `ports.Recogniser`; `InsightFaceRecogniser(options)`.

    Raises:
        UserError: the folder has no recogniser, or several.
    """

    use = "insightface"

    def __init__(self, options: InsightFaceRecogniserOptions) -> None:
        path = pack_file(options.path, RECOGNISER, options.file)
        super().__init__(
            OnnxRecogniserOptions(
                path=str(path),
                name=options.name or f"insightface-{path.stem.lower()}",
                licence=options.licence,
                commercial=options.commercial,
                source=f"InsightFace model zoo, {path.name}",
                batch=options.batch,
                device=options.device,
                calibration=options.calibration,
            )
        )
