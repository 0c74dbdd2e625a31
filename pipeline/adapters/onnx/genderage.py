"""InsightFace's gender-age model as a measure: estimates of appearance, on aligned crops.

Its outputs are two scores, feminine before masculine here as in the file (InsightFace's own code calls 1 male, the
opposite of FairFace's order), and a hundred pairs of which each says whether somebody looks older than so many years.
Source: InsightFace model zoo, genderage v1; weights are for non-commercial research only.

Legend: N rows, H W C image axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.adapters.onnx.session import model_file, session_of
from pipeline.domain.errors import UserError
from pipeline.domain.ports import ModelCard
from pipeline.domain.recipe import MeasureNode
from pipeline.domain.records import UInt8

PRESENTATION = "perceived_gender_presentation"
AGES = 100
GROUPS = (("0-17", 0.0), ("18-29", 18.0), ("30-44", 30.0), ("45-59", 45.0), ("60+", 60.0))
"""Groups of apparent age, and where each begins in years."""


class GenderAgeOptions(MeasureNode):
    """InsightFace's gender-age model, as an ONNX file."""

    use: Literal["insightface-genderage"] = "insightface-genderage"
    path: Annotated[str, Field(min_length=1)]


class GenderAge:
    """Implements `ports.Measurer` on crops aligned to `arcface-112`.

    Raises:
        UserError: the file is missing, or is another model.
    """

    attributes: Mapping[str, tuple[str, ...]] = {
        PRESENTATION: ("feminine", "masculine"),
        "apparent_age_group": tuple(name for name, _ in GROUPS),
    }
    names = (
        *(f"{field}={value}" for field, values in attributes.items() for value in values),
        "apparent_age_years",
    )
    confusion: Mapping[str, Mapping[str, Mapping[str, float]]] = {}

    def __init__(self, options: GenderAgeOptions) -> None:
        path, digest = model_file(options.path, "InsightFace's genderage_v1.onnx")
        self._session: Any = session_of(path, ("CPUExecutionProvider",))
        outputs = self._session.get_outputs()
        if len(outputs) != 1 or outputs[0].shape[-1] != 2 + 2 * AGES:
            raise UserError(
                f"{path}: gives {[o.shape for o in outputs]}; InsightFace's gender-age model gives one row of "
                f"{2 + 2 * AGES} numbers"
            )
        self._input = self._session.get_inputs()[0].name
        self.card = ModelCard(
            name="insightface-genderage",
            sha256=digest,
            licence="InsightFace, non-commercial research",
            source="InsightFace model zoo, genderage v1",
            commercial_use=False,
            row_independent=True,
            epoch=1,
        )

    def measure(self, faces_NHWC: UInt8) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one float64 array of shape (N,) per name; each face goes through the network alone."""
        blobs = np.ascontiguousarray(faces_NHWC.transpose(0, 3, 1, 2).astype(np.float32))
        rows = [self._session.run(None, {self._input: blobs[n : n + 1]})[0][0] for n in range(len(blobs))]
        raw = np.asarray(rows, np.float64).reshape(len(blobs), 2 + 2 * AGES)
        masculine = _softmax(raw[:, :2])[:, 1]
        older = _softmax(raw[:, 2:].reshape(-1, AGES, 2))[..., 1]
        out = {f"{PRESENTATION}=feminine": 1.0 - masculine, f"{PRESENTATION}=masculine": masculine}
        # as many years as there are ages that somebody looks older than
        out["apparent_age_years"] = (older > 0.5).sum(axis=1).astype(np.float64)
        return out | _groups(older)


def _groups(older_NA: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the probability of each group: that of being older than where it begins, less than where the next does.

    The hundred answers are given apart and need not fall with age; where they rise the running least is taken.
    """
    falling = np.minimum.accumulate(older_NA, axis=1)
    reached = [
        np.ones(len(older_NA)),
        *(falling[:, int(start) - 1] for _, start in GROUPS[1:]),
        np.zeros(len(older_NA)),
    ]
    return {f"apparent_age_group={name}": reached[n] - reached[n + 1] for n, (name, _) in enumerate(GROUPS)}


def _softmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)
