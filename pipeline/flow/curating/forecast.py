"""A forecast: what the sources hold beside what is listed already, and how long a few of it take on this machine."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.domain.intake import Decoded, Unreadable
from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.listing import Listed, earlier, new_inputs
from pipeline.flow.parts import Parts, embed_each, measure_fixed

TRIED = 24
"""Inputs that are decoded, searched and embedded for the forecast, evenly chosen."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a curation would look at.

    Attributes:
        sources: per source its number of new inputs, labels, bytes where known, and faults known from listing.
        inputs: new ones in all.
        listed_before: inputs that earlier generations hold.
        each_s: seconds per input and worker, of those tried; None where there is nothing to try.
        with_face: share of the tried inputs in which a face was found.
    """

    sources: tuple[dict[str, Any], ...]
    inputs: int
    listed_before: int
    each_s: float | None
    with_face: float | None
    tried: int = field(default=0)


def forecast(parts: Parts, kit: Kit, generations: int) -> Forecast:
    """List the sources and try a few inputs; write nothing.

    `generations` is how many a dataset has already; 0 for a new one.
    """
    seen = earlier(kit, parts, generations)
    before = seen.rows
    told: dict[str, dict[str, Any]] = {
        name: {"source": name, **kit.licences[name], "inputs": 0, "bytes": 0, "faults": Counter(), "labels": set()}
        for name in kit.sources
    }
    able: list[Listed] = []
    for one in new_inputs(kit, seen):
        mine = told[one.source]
        mine["inputs"] += 1
        mine["bytes"] += max(0, one.input.length)
        if one.input.label is not None:
            mine["labels"].add(one.input.label)
        if one.input.fault is not None:
            mine["faults"][str(one.input.fault.reason)] += 1
        elif len(able) < 100_000:
            able.append(one)
    sources = tuple(
        {**mine, "labels": len(mine["labels"]), "faults": dict(sorted(mine["faults"].items()))}
        for mine in told.values()
    )
    chosen = [able[n] for n in np.unique(np.linspace(0, len(able) - 1, TRIED).astype(int))] if able else []
    each_s, found = _tried(parts, kit, chosen)
    return Forecast(sources, sum(m["inputs"] for m in sources), before, each_s, found, len(chosen))


def _tried(parts: Parts, kit: Kit, chosen: list[Listed]) -> tuple[float | None, float | None]:
    """Return seconds per input, and the share in which a face was found; the models are warmed first."""
    if not chosen:
        return None, None
    _one(parts, kit, chosen[0])
    begun_s = time.perf_counter()
    found = sum(_one(parts, kit, one) for one in chosen)
    return (time.perf_counter() - begun_s) / len(chosen), found / len(chosen)


def _one(parts: Parts, kit: Kit, listed: Listed) -> bool:
    """Take one input the whole way; return whether a face was found."""
    data = next(iter(kit.sources[listed.source].read([listed.input])))
    seen = None if isinstance(data, Unreadable) else kit.decoder.decode(data)
    if not isinstance(seen, Decoded):
        return False
    points = None
    if kit.detector is not None:
        faces = kit.detector.detect(seen.image_HWC)
        if not len(faces):
            return False
        points = faces.points_K52[0]
    crop = kit.crop(seen.image_HWC, points)
    if crop is None:
        return False
    # a batch of one: what a full batch saves, the forecast does not promise
    stored = parts.codec.decode(parts.codec.encode(crop))[None]
    embed_each(parts.judge, stored, 1)
    measure_fixed(parts.measurers, stored, 1)
    return True
