"""What is trained on what, for how long: one frozen tree per configuration, and the keys of every random draw.

A draw is a set of rendered identities that only certain models ever see. Conditioning recogniser, autoencoder,
generator and bank share draw A: A1 and A2; A3, which has dark tones only, because little light comes back from them and
a network needs more pictures to learn their details; and A4 and A5 with many identities of few pictures each, so that
who somebody is is learnt and not who was drawn. A6 and A7 show people of A4 and A5 older or younger, EA those of E. The
last part of the decoder's training has F, whose people the flow never saw: it is their like that users ask for. The
judge has B and J, the auditor C and D, the attribute model all four and W, where heads turn to profile and things cover
faces; choices are made on V, thresholds are set on H and every figure is measured on E, or on EW where the attribute
model's readings of such pictures are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

SEED = 20261
ROLES = ("conditioning", "judge", "auditor")
GENERATOR_DRAWS = ("A1", "A2", "A3", "A4", "A5")
AGED_DRAWS = ("A6", "A7")  # older and younger pictures of people of A4 and A5, for the flow alone
FINISH_DRAWS = ("F",)  # for the decoder's last part
BANK_DRAWS = ("A1", "A2", "A4", "A5")  # evenly over all tones, as new identities shall be
KEPT_DRAWS = ("A1", "A2")  # of these the bank keeps every identity's mean
ROLE_DRAWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "conditioning": GENERATOR_DRAWS,
        "judge": ("B", "J"),
        "auditor": ("C", "D"),
        "attributes": ("B", "C", "D", "J", "W"),
    }
)
_STREAMS = (
    "identities", "nuisances", "conditioning", "judge", "auditor", "attributes", "autoencoder", "decoder", "flow",
    "bank", "calibrate", "measure", "likeness", "wide", "reader", "finish",
)  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """Rendered identities: how many, with how many pictures each, and the draw's own number."""

    number: int
    identities: int
    pictures: int
    tones_mst: tuple[float, float] = (1.0, 10.0)
    """The part of the skin tone scale that is drawn from, evenly."""
    wide: bool = False
    """Whether the wide conditions (`phantom.wide`) are drawn on top of the ordinary ones."""
    people_of: str = ""
    """The draw whose first people these are further pictures of; its own where empty."""
    aged: bool = False
    """Whether every picture shows its person up to 20 years older or younger."""


@dataclass(frozen=True)
class Schedule:
    """How long a model trains: steps of `batch` pictures at `rate`, the last `decay` share of them falling to zero."""

    steps: int
    batch: int
    rate: float
    decay: float = 0.4
    warmup: int = 100


@dataclass(frozen=True)
class Round:
    """One part of a recogniser's training: on which draws, how long, with which optimiser for its inner layers."""

    draws: tuple[str, ...]
    schedule: Schedule
    muon: bool = True


@dataclass(frozen=True)
class Likeness:
    """Schedule of the flow's last part, and what is asked of the pictures that it samples there."""

    schedule: Schedule
    samples: int
    """Pictures sampled in every step, beside the batch of the velocity loss."""
    enough_cos: float
    """The cosine to the identity's template from which a picture hardly counts any more."""
    kept: float = 1.0
    """Weight of staying close to the flow as it was before."""
    asked: float = 1.0
    """Weight of showing what was asked for."""


@dataclass(frozen=True)
class Training:
    """A whole configuration."""

    home: Path
    draws: Mapping[str, Draw]
    recognisers: Mapping[str, tuple[Round, ...]]
    attributes: tuple[Round, ...]
    crops: Schedule
    """Autoencoder on crops around the face: most of its pixels at a fraction of the cost."""
    decoder: Schedule
    """Decoder alone on whole pictures, with the conditioning recogniser and a small critic in the loss."""
    flow: Schedule
    reader: Schedule
    """The net that says what a sample shows, for the next part."""
    likeness: Likeness
    """How the trained flow is then made to answer for who its samples show, and how."""
    finish: Schedule
    """Decoder alone, on latents that the finished flow sampled."""
    supersample: float = 1.25
    latent_channels: int = 12
    seed: int = SEED
    checkpoint_s: float = 150.0
    held_out: int = 500
    """Identities of draw E that figures are measured on."""
    sampler: Mapping[str, float] = field(default_factory=lambda: {"steps": 6, "guidance": 2.0, "shift": 1.0})

    def rng(self, stream: str, *path: int) -> np.random.Generator:
        """Return the Philox generator of one draw, named by stream and path (draw number, step, row...)."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(_STREAMS.index(stream), *path))
        return np.random.Generator(np.random.Philox(sequence))


def full(home: Path) -> Training:
    """Return the configuration of the shipped weights."""
    return Training(
        home=home,
        draws={
            "A1": Draw(1, 1000, 5),
            "A2": Draw(2, 1000, 5),
            "B": Draw(3, 900, 4),
            "C": Draw(4, 1400, 3),
            "H": Draw(5, 8000, 8),
            "E": Draw(6, 500, 8),
            "D": Draw(7, 8000, 3),
            "A3": Draw(21, 600, 5, tones_mst=(6.0, 10.0)),
            "J": Draw(22, 8000, 3),
            "A4": Draw(23, 8000, 3),
            "V": Draw(24, 120, 6),
            "A5": Draw(25, 8000, 3),
            "A6": Draw(26, 8000, 1, people_of="A4", aged=True),
            "A7": Draw(27, 8000, 1, people_of="A5", aged=True),
            "EA": Draw(28, 500, 3, people_of="E", aged=True),
            "W": Draw(29, 3000, 3, wide=True),
            "F": Draw(31, 1500, 4),
            "EW": Draw(30, 400, 4, wide=True),
        },
        recognisers={
            "conditioning": (Round(GENERATOR_DRAWS, Schedule(3000, 96, 1.0, decay=0.6)),),
            "judge": (Round(("B", "J"), Schedule(2000, 96, 1.0, decay=0.6)),),
            "auditor": (Round(("C", "D"), Schedule(2000, 96, 1.0, decay=0.6)),),
        },
        attributes=(Round(("B", "C", "D", "J", "W"), Schedule(6800, 64, 1.0, decay=0.7)),),
        crops=Schedule(14000, 16, 2e-3, decay=0.5),
        decoder=Schedule(1000, 12, 8e-4, decay=0.5, warmup=20),
        flow=Schedule(8400, 72, 1.0, decay=0.45),
        likeness=Likeness(Schedule(840, 36, 0.3, decay=0.8, warmup=20), 12, 0.8, kept=0.5, asked=1.5),
        reader=Schedule(3600, 72, 1.0, decay=0.7),
        finish=Schedule(4400, 16, 1e-3, decay=0.5, warmup=20),
    )


def short(home: Path) -> Training:
    """Return a configuration that runs every stage in about a minute, for tests; its models are useless."""
    tiny = Schedule(3, 8, 1e-3, warmup=2)
    return Training(
        home=home,
        draws={
            name: Draw(n, 28 if name == "H" else 8, 8)
            for n, name in enumerate(("A1", "A2", "B", "C", "H", "E", "D", "A3", "J", "A4", "A5"), start=1)
        }
        | {"A6": Draw(12, 8, 1, people_of="A4", aged=True), "A7": Draw(13, 8, 1, people_of="A5", aged=True)}
        | {"EA": Draw(14, 8, 2, people_of="E", aged=True), "W": Draw(15, 8, 2, wide=True)}
        | {"EW": Draw(16, 8, 2, wide=True), "F": Draw(17, 8, 2)},
        recognisers={
            "conditioning": (Round(("A1", "A2"), tiny, muon=False), Round(("A1", "A2"), tiny)),
            "judge": (Round(("B", "J"), tiny),),
            "auditor": (Round(("C", "D"), tiny),),
        },
        attributes=(Round(("B", "C"), tiny, muon=False), Round(("B", "C", "W"), tiny)),
        crops=tiny,
        decoder=tiny,
        flow=tiny,
        likeness=Likeness(tiny, 2, 0.7),
        reader=tiny,
        finish=tiny,
        supersample=1.0,
        checkpoint_s=0.0,
        held_out=8,
    )


CONFIGURATIONS = {"full": full, "short": short}
