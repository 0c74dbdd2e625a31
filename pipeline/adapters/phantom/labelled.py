"""Rendered heads with known identity, as labelled faces: what phantom recognisers are calibrated and attacked with.

Their draws come from the stream CALIBRATION of our own keys, one key per identity and one per image. The training
draws were made from other spawn keys (stream, draw number), so no head here is one that a model was trained with,
whatever the seed; and an identity stays the same when more are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.adapters.phantom.traits import sample_identities, sample_nuisances
from pipeline.domain.ports import Codec, LabelledFace
from pipeline.domain.rng import Key, Stream
from pipeline.domain.space import Space

SUPERSAMPLE = 1.25
"""As the training draws were rendered."""


class PhantomRenders:
    """Implements `ports.LabelledFaces` over rendered phantoms: aligned crops of 112 pixels, after JPEG."""

    space: Space | None = None

    def __init__(self, codec: Codec, *, identities: int, images: int, seed: int, first: int = 0) -> None:
        """Take what to render; nothing is drawn before it is asked for.

        Args:
            codec: each picture makes the round trip through it, as stored images do.
            identities: how many people.
            images: how many pictures of each.
            seed: of the draws; another seed, other people.
            first: number of the first person, so that disjoint sets come from one seed.
        """
        self.name = f"phantom://renders?first={first}&identities={identities}&images={images}&seed={seed}"
        self._codec, self._images, self._seed = codec, images, seed
        self._numbers = range(first, first + identities)

    def __iter__(self) -> Iterator[LabelledFace]:
        """Yield identity by identity; labels are numbers such as `p000012`."""
        from pipeline.adapters.phantom.renderer import render

        for number in self._numbers:
            who = sample_identities(1, Key(self._seed, Stream.CALIBRATION, number).generator())
            how = [
                sample_nuisances(1, Key(self._seed, Stream.CALIBRATION, number, image + 1).generator())
                for image in range(self._images)
            ]
            drawn = render(np.repeat(who, self._images, axis=0), np.concatenate(how), supersample=SUPERSAMPLE)
            for image, face in enumerate(drawn.faces_NHWC):
                stored = self._codec.decode(self._codec.encode(face))
                yield LabelledFace(label=f"p{number:06d}", name=f"p{number:06d}/{image:04d}", face_HWC=stored)
