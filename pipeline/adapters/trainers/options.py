"""What a training recipe says: network, margin, schedule, augmentation. Two are fixed by name; both have a digest.

`phantom-small` trains in minutes on one CPU thread. `ir-se50` holds the settings of Vec2Face's comparison (Wu et al.
2024, arXiv:2409.02979: IR-SE50, ArcFace with margin 0.5, batches of 128, rate 0.1, 26 epochs, random erasing), which
wants a GPU and hundreds of thousands of images. `sketch-tiny` is for dry runs of the sketch world.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.recipe import Node, Section

EPOCH = 1
"""Raised by hand when training gives other weights under equal options."""
Width = Annotated[int, Field(ge=8, le=512)]
Share = Annotated[float, Field(ge=0, le=1)]


class SmallNode(Node):
    """A residual net of a few hundred thousand parameters, for aligned crops of any side."""

    use: Literal["small"] = "small"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (48, 96)
    """Channels of its stages; each halves the picture."""
    blocks: Annotated[int, Field(ge=0, le=8)] = 1
    """Residual blocks per stage."""
    shrink: Literal[1, 2, 4] = 4
    """How many pixels of a side become one before the first stage; none is lost, they become channels."""
    embedding: Annotated[int, Field(ge=8, le=1024)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the features before the last layer."""


class IrSe50Node(Node):
    """IR-SE50: improved residual units with squeeze and excitation, 43.8 M parameters, for crops of 112 pixels."""

    use: Literal["ir-se50"] = "ir-se50"
    embedding: Annotated[int, Field(ge=8, le=1024)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4


class MarginNode(Node):
    """A margin softmax: CosFace takes the margin off the cosine, ArcFace adds it to the angle."""

    use: Literal["cosface", "arcface"] = "arcface"
    scale: Annotated[float, Field(gt=0, le=256)] = 64.0
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.5
    """Of the cosine for CosFace, in radians for ArcFace."""
    warm_up: Share = 0.0
    """Share of the training over which the margin grows from nothing."""


class Augmentation(Section):
    """What is done to a picture before it is learnt from; every draw has a key. Mirroring is always on, one in two."""

    shift_px: Annotated[int, Field(ge=0, le=32)] = 0
    """Moved by up to so many pixels either way, edges repeated."""
    zoom: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Enlarged or reduced about the centre by up to this share."""
    light: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Contrast by a factor in 1 - light to 1 + light, and brightness by up to 128 x light."""
    colour: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Each channel by a factor in 1 - colour to 1 + colour."""
    erase: Share = 0.0
    """Share of pictures that lose a rectangle of 2 % to 33 % of their area (Zhong et al. 2020, arXiv:1708.04896)."""
    coarse: Share = 0.0
    """Share of pictures that are made small and large again, by a factor of 2 to 4."""


class TrainingOptions(Section):
    """Everything that decides what is learnt, besides pictures and seed."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    side_px: Annotated[int, Field(ge=16, le=512)] = 112
    network: Annotated[SmallNode | IrSe50Node, Field(discriminator="use")]
    loss: MarginNode
    epochs: Annotated[int, Field(ge=1, le=1000)]
    batch: Annotated[int, Field(ge=2, le=8192)]
    rate: Annotated[float, Field(gt=0, le=10)]
    """Learning rate of SGD at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    schedule: Literal["cosine", "steps"] = "cosine"
    """Down to nothing along a half cosine, or a tenth at each of `drops`."""
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the training at which `steps` lowers the rate."""
    warm_up: Share = 0.0
    """Share of the training over which the rate rises from nothing."""
    augment: Augmentation = Augmentation()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward and backward pass; weights, loss and embeddings stay float32."""
    embed_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures that the network sees at once when it is tested; shorter batches are filled up."""

    @model_validator(mode="after")
    def _fits(self) -> TrainingOptions:
        if self.network.use == "ir-se50" and self.side_px != 112:
            raise ValueError(f"side_px {self.side_px}: ir-se50 reads crops of 112 pixels")
        if self.network.use == "small":
            cell = self.network.shrink * 2 ** len(self.network.widths)
            if self.side_px % cell:
                raise ValueError(f"side_px {self.side_px}: this net divides the side by {cell}, without remainder")
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"drops {self.drops}: shares of the training have to rise")
        return self

    @property
    def digest(self) -> str:
        """Return the SHA-256 over every option and this trainer's epoch: what two comparable results share."""
        return sha256_hex(canonical_json({"epoch": EPOCH, **self.model_dump(mode="json")}))


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "phantom-small": {
        "side_px": 112,
        "network": {"use": "small", "widths": [48, 96], "blocks": 1, "shrink": 4, "embedding": 128},
        "loss": {"use": "cosface", "scale": 24.0, "margin": 0.35, "warm_up": 0.3},
        "epochs": 40,
        "batch": 50,
        "rate": 0.1,
        "warm_up": 0.05,
        "augment": {"shift_px": 3, "zoom": 0.05, "light": 0.2, "colour": 0.1, "erase": 0.2, "coarse": 0.1},
    },
    "sketch-tiny": {
        "side_px": 32,
        "network": {"use": "small", "widths": [16], "blocks": 0, "shrink": 4, "embedding": 16},
        "loss": {"use": "cosface", "scale": 16.0, "margin": 0.2},
        "epochs": 10,
        "batch": 16,
        "rate": 0.1,
        "embed_batch": 64,
    },
    "ir-se50": {
        "side_px": 112,
        "network": {"use": "ir-se50", "embedding": 512, "dropout": 0.4},
        "loss": {"use": "arcface", "scale": 64.0, "margin": 0.5},
        "epochs": 26,
        "batch": 128,
        "rate": 0.1,
        "schedule": "steps",
        "drops": [12 / 26, 20 / 26, 24 / 26],
        "augment": {"erase": 0.5},
        "precision": "bfloat16",
        "embed_batch": 128,
    },
}
"""Fixed recipes, by name."""
