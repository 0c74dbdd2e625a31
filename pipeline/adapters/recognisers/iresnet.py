"""Recognisers of the ArcFace kind as torch state dicts: aligned crops in, features out, with gradients where asked for.

Files of three publications are read: arcface_torch and those who build on it, MagFace (the same names in a group), and
AdaFace (its own names, and one shortcut of another kind). What a file does not say is stated in the options: its depth,
how pixels are scaled, under which licence it may be used; models that are known here bring their own licence.

Legend: N rows, H W C image axes, E dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.domain.calibration import Calibration
from pipeline.domain.calibration_file import RecogniserNode
from pipeline.domain.errors import BadVectorError
from pipeline.domain.model_cards import card_of
from pipeline.domain.ports import ModelCard
from pipeline.domain.records import Float32, UInt8, unit_rows
from pipeline.domain.section import Section
from pipeline.domain.space import Norm, Space
from pipeline.domain.weights import LoadedAtUse, Weights, WeightsRef

if TYPE_CHECKING:
    from torch import Tensor

DIMENSIONS = 512
EPOCH = 1
Triple = tuple[float, float, float]


class NetworkOptions(Section):
    """Which network, with which weights, reads which pixels."""

    weights: WeightsRef
    depth: Literal[18, 34, 50, 100, 200] = 100
    layout: Literal["arcface", "adaface"] = "arcface"
    """Whose names and shortcuts the file has; MagFace's are ArcFace's."""
    bn_eps: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5
    """Of the batch norms; 2e-5 in files that MagFace's own code made."""
    mean: Triple = (127.5, 127.5, 127.5)
    """Taken from red, green and blue, 0 to 255, before the division by `std`; MagFace: 0."""
    std: Triple = (127.5, 127.5, 127.5)
    """MagFace: 255."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """The order in which the network reads them: `bgr` for AdaFace and MagFace. `mean` and `std` are in the order red,
    green, blue all the same."""
    flip: bool = False
    """Whether the features of a face and of its mirror image are added."""
    licence: str | None = None
    """Under which the weights may be used; left out: as their publication states, where it is known here."""
    commercial: bool = False
    """Whether the stated licence allows commercial use."""
    source: str = ""
    """Where the weights come from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU where there is one."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.layout == "adaface" and self.depth == 200:
            raise ValueError("layout adaface has no depth 200 here: its deepest blocks are of another kind; 18 to 100")
        if self.commercial and self.licence is None:
            raise ValueError("commercial: true needs a licence that says so; state it in `licence`")
        if not all(self.std):
            raise ValueError("std must not be 0")
        return self


class IResNetOptions(RecogniserNode, NetworkOptions):
    """A recogniser as a state dict."""

    rehearses: ClassVar[Mapping[str, Any]] = {"depth": 18, "device": "cpu"}
    use: Literal["iresnet"] = "iresnet"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,60}$")]
    """What its space is called."""
    alignment: Literal["arcface-112", "phantom-112"] = "arcface-112"
    norm: Norm = "unit"
    """`raw` where a generator is conditioned on bare features; judges and auditors give unit rows."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows that the network sees."""


@contextmanager
def _exactly(*, on_gpu: bool) -> Iterator[None]:
    """On an NVIDIA GPU: products of float32 stay float32, and sums keep their order; on a CPU both are so anyway."""
    import torch

    if not on_gpu:
        yield
        return
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv)
    precisions, order = [part.fp32_precision for part in parts], backends.cudnn.deterministic
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        backends.cudnn.deterministic = True
        yield
    finally:
        for part, was in zip(parts, precisions, strict=True):
            part.fp32_precision = was
        backends.cudnn.deterministic = order


class FaceNetwork:
    """A network that loads at its first use, and what it computes: for recognisers, measures and optimisers.

    Raises (at first use):
        ModelError: the weights are missing, unsafe, or of another network.
    """

    def __init__(self, options: NetworkOptions, weights: Weights) -> None:
        self._options, self._weights = options, weights
        self._network = LoadedAtUse(self._loaded)

    def card(self, name: str) -> ModelCard:
        """Return what is said of the weights.

        Raises:
            ModelError: no digest is stated, and the weights are not here.
        """
        options, known = self._options, card_of(self._options.weights)
        licence = options.licence or (known.licence if known else "not stated")
        return ModelCard(
            name=name,
            sha256=self._weights.sha256(options.weights),
            licence=licence,
            source=options.source or (known.source if known else options.weights.uri.rpartition("/")[2]),
            commercial_use=options.commercial if options.licence else bool(known and known.commercial),
            # measured over every batch size of the contract: each depth is made of the same layers
            row_independent=True,
            epoch=EPOCH,
        )

    def features(self, pictures_NCHW: Tensor) -> Tensor:
        """Return raw features (N, 512) of pictures in -1..1, RGB: gradients flow to the pictures, never to weights.

        The network moves to the pictures' device; they are computed in its precision, float32, whatever theirs is.
        """
        import torch

        network = self.ready(pictures_NCHW.device)
        scaled = self._scaled(pictures_NCHW.to(next(network.parameters()).dtype))
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        with _exactly(on_gpu=pictures_NCHW.is_cuda):
            found: Tensor = network(scaled)
            return found + network(scaled.flip(3)) if self._options.flip else found

    def _scaled(self, pictures_NCHW: Tensor) -> Tensor:
        """Return pictures in -1..1 as the network reads them: where that is -1..1 too not a bit is changed."""
        import torch

        mean, std = np.array(self._options.mean), np.array(self._options.std)
        factor, offset = (
            torch.from_numpy(v).to(pictures_NCHW)[:, None, None] for v in (127.5 / std, (127.5 - mean) / std)
        )
        scaled = pictures_NCHW * factor + offset
        return scaled.flip(1) if self._options.channels == "bgr" else scaled

    def of_faces(self, faces_NHWC: UInt8) -> Float32:
        """Return raw features, float32 of shape (N, 512), of uint8 RGB faces; they may hold NaN where weights do."""
        import torch

        pixels = torch.from_numpy(np.array(faces_NHWC, order="C")).to(self._device()).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found: Float32 = self.features(pixels.float() / 127.5 - 1.0).cpu().numpy()
        return found

    def ready(self, device: Any = None) -> Any:
        """Return the network, loaded, on a device; it stays on one: asking for another moves it."""
        return self._network.on(device)

    def _device(self) -> str:
        import torch

        asked = self._options.device
        return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def _loaded(self) -> Any:
        import torch

        from pipeline.adapters.recognisers import iresnet_network as nets

        options = self._options
        with torch.inference_mode(mode=False):
            # what is loaded in inference mode could never be differentiated through
            network = nets.empty(options.depth, options.layout, options.bn_eps)
            shapes = nets.stored_shapes(network, options.depth, options.layout)
            tensors = self._weights.tensors(options.weights, shapes)
            filled = nets.filled(network, tensors, options.depth, options.layout)
            return filled.to(self._device(), memory_format=torch.channels_last)  # type: ignore[call-overload]


class IResNetRecogniser:
    """Implements `ports.Recogniser`; rows are of unit length, or bare where the options say `norm: raw`."""

    def __init__(self, options: IResNetOptions, weights: Weights) -> None:
        """Read what is said of the weights; they load at the first batch."""
        self._options = options
        self.network = FaceNetwork(options, weights)
        self.card = self.network.card(options.name)
        self.space = Space(options.name, self.card.sha256, options.alignment, options.norm, DIMENSIONS)

    @cached_property
    def calibration(self) -> Calibration:
        """Return the calibration of the options' file; where they name none, one that knows no rate."""
        if self._options.calibration is None:
            how = "run `facemint calibrate iresnet FACES --set weights.uri=...` and name the file in `calibration`"
            return Calibration.none(self.space, how)
        return self._options.calibration.calibration(self.space)

    def embed(self, faces_NHWC: UInt8) -> Float32:
        """Return emb_NE, float32 of shape (N, 512).

        Raises:
            BadVectorError: the network gave no number, or a vector of no length.
        """
        raw = self.network.of_faces(faces_NHWC)
        if self.space.norm == "unit":
            return unit_rows(raw, self._options.name)
        if not np.isfinite(raw).all():
            bad = int(np.flatnonzero(~np.isfinite(raw).all(axis=1))[0])
            raise BadVectorError(f"{self._options.name}: row {bad} of the features holds no number")
        return raw


__all__ = ["DIMENSIONS", "FaceNetwork", "IResNetOptions", "IResNetRecogniser", "NetworkOptions"]
