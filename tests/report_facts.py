"""Facts of a report from seeded numbers, of any size and as hostile as a test wants them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.domain.report import (
    Curves,
    Funnel,
    Gallery,
    MeasureFacts,
    Picture,
    ReportFacts,
    Spread,
    Threshold,
)

CELLS = ("feminine/dark", "feminine/light", "masculine/dark", "masculine/light")
REASONS = ("own_template_too_far", "too_close_to_other_identity", "off_target_yaw_deg", "a_reason_of_somebody_else")
BINS = 60


def report_facts(
    cells: Sequence[str] = CELLS,
    reasons: Sequence[str] = REASONS,
    *,
    seed: int = 7,
    name: str = "people",
    roles: Sequence[str] = ("judge", "auditor"),
    pictures: int = 12,
    picture_px: int = 48,
    **changes: Any,
) -> ReportFacts:
    """Return facts with a figure in every place; `changes` replace fields of the record."""
    rng = np.random.default_rng(seed)
    funnel = _funnel(rng, cells, reasons)
    facts: dict[str, Any] = {
        "name": name,
        "version": "v000001",
        "digest": "0123456789abcdef" * 4,
        "manifest": _manifest(rng, cells, funnel),
        "recipe": {"kind": "generate", "name": name, "seed": seed, "filters": [{"use": "own-template", "fmr": 0.005}]},
        "models": {
            role: {
                "name": f"a-{role}", "licence": "Apache-2.0", "sha256": "ab" * 32, "commercial_use": True,
                "source": "made for tests", "space": "sketch: 64 numbers", "calibrated_on": "2,000 faces",
            }
            for role in ("generator", "judge", "auditor", "measure sharpness")
        },
        "funnel": funnel,
        "curves": tuple(_curves(rng, role) for role in roles),
        "spread": tuple(Spread(role, 0.987, 0.81, 0.34, 71.25, 100) for role in roles),
        "measures": tuple(_measure(rng, name, cells) for name in ("yaw_deg", "sharpness", "zeta", "tone=dark")),
        "galleries": _galleries(rng, cells, reasons, pictures, picture_px) if pictures else (),
        "throughput": {
            "candidates": funnel.candidates, "seconds": 4000.0, "candidates_per_s": 21.5, "units": 40,
            "device_kinds": {"cpu-avx2": 40}, "hosts": 2, "started": "2026-11-20 10:00 UTC",
            "ended": "2026-11-20 11:00 UTC",
        },
        "provenance": (("generator", "a-generator"), ("numpy", "2.4.0")),
        "not_measured": (("FID", "no reference set was given"),),
    }  # fmt: skip
    return ReportFacts(**{**facts, **changes})


def _funnel(rng: np.random.Generator, cells: Sequence[str], reasons: Sequence[str]) -> Funnel:
    by_cell = {}
    for cell in cells:
        first = {reason: int(rng.integers(0, 30)) for reason in reasons}
        accepted = int(rng.integers(300, 500))
        by_cell[cell] = {
            "candidates": accepted + sum(first.values()), "accepted": accepted, "published": accepted - 12,
            "reasons": first,
        }  # fmt: skip
    total = {reason: sum(c["reasons"][reason] for c in by_cell.values()) for reason in reasons}
    accepted, refused = sum(c["accepted"] for c in by_cell.values()), sum(total.values())
    ranked = sorted(total.items(), key=lambda e: -e[1])
    enrolment = {"candidates": 140, "accepted": 120, "refused": 20, "reasons": {"template_collides": 20}}
    return Funnel(
        accepted + refused, accepted, refused, 3, accepted - 12 * len(cells), 0,
        tuple((reason, n, n + 5) for reason, n in ranked), by_cell, enrolment,
    )  # fmt: skip


def _curves(rng: np.random.Generator, role: str) -> Curves:
    edges = np.linspace(-1, 1, BINS + 1)
    genuine = np.histogram(rng.normal(0.65, 0.12, 9_000), edges)[0]
    impostor = np.histogram(rng.normal(0.02, 0.16, 90_000), edges)[0]
    fmr = np.geomspace(1e-5, 1, 80)
    fnmr = 0.03 * fmr**-0.3 * (1 - fmr)
    named = (("EER", 0.34, 0.02), ("FMR100", 0.41, 1e-2), ("FMR1000", 0.5, 1e-3), ("own-template", 0.42, None))
    return Curves(
        role=role, recogniser=f"a-{role}", identities=100, n_genuine=int(genuine.sum()), n_impostor=int(impostor.sum()),
        edges_cos=tuple(edges.tolist()), genuine=tuple(genuine.tolist()), impostor=tuple(impostor.tolist()),
        genuine_mean_cos=0.65, genuine_std_cos=0.12, impostor_mean_cos=0.02, impostor_std_cos=0.16,
        eer=0.0234, fmr100=0.051, fmr1000=0.17, auc=0.997, fdr=9.8,
        roc=tuple(zip(fmr.tolist(), fnmr.tolist(), strict=True)),
        thresholds=tuple(Threshold(*t) for t in named), calibration=((1e-2, 0.4, 90_000), (1e-3, 0.5, 90_000)),
    )  # fmt: skip


def _measure(rng: np.random.Generator, name: str, cells: Sequence[str]) -> MeasureFacts:
    counts = rng.integers(0, 90, (2, 24))
    by_cell = {cell: (100, -20.5, float(rng.normal()), 20.25) for cell in cells}
    return MeasureFacts(
        name, name.rpartition("_")[2] if name.endswith("_deg") else "", tuple(np.linspace(-30, 30, 25).tolist()),
        tuple(counts[0].tolist()), tuple((counts[1] // 9).tolist()), 2, by_cell,
        () if name == "zeta" else (("range", -25.0), ("range", 25.0)),
    )  # fmt: skip


def _manifest(rng: np.random.Generator, cells: Sequence[str], funnel: Funnel) -> dict[str, Any]:
    share = 1 / len(cells)
    bins = [
        {"bin": f"{n} to {n + 1}", "planned": 0.2, "asked": 0.21, "delivered": 0.18, "deficit_points": 2.0,
         "off_target": 1}
        for n in range(5)
    ]  # fmt: skip
    told = {
        "images": funnel.published, "off_target": 5, "unread": 0, "mean_error": 0.1, "mean_absolute_error": 2.5,
        "correlation": 0.91, "largest_deficit_points": 2.0, "bins": bins,
    }  # fmt: skip
    row = {
        "threshold": {"cos": 0.61, "origin": "control", "rate": 0.001, "n": 4000, "images": 1}, "flagged": 3, "n": 1500,
        "max": 0.66, "p99": 0.5, "p99.9": 0.58, "control": {"n": 4000, "max": 0.64, "p99": 0.49, "p99.9": 0.57},
    }  # fmt: skip
    return {
        "name": "people", "version": "v000001", "parent": None, "fingerprint": "fe" * 32, "plan_digest": "9d" * 32,
        "use": {"commercial": False, "purpose": "to test"},
        "counts": {
            "identities": 120, "identities_expected": 120, "images": funnel.published,
            "images_expected": funnel.published,
        },
        "figures": {
            "balance": {
                "by": ["presentation", "tone"],
                "cells": [
                    {"cell": cell, "asked": 30, "reached": 30, "share": share, "adjusted_share": None,
                     "share_95": [share * 0.8, min(1.0, share * 1.3)], "enrolled": 40}
                    for cell in cells
                ],
                "values": [
                    {"field": field, "value": value, "asked": 60, "reached": 60, "share": 0.5, "share_95": [0.41, 0.59]}
                    for field, value in (("presentation", "feminine"), ("tone", "dark"))
                ],
                "summary": {
                    "cells": len(cells), "cells_asked": len(cells), "cells_empty": [], "effective_cells": 3.9,
                    "evenness": 0.99, "kl_to_target_nats": 0.01, "least_representation": 0.9,
                    "parity_min_to_max": 0.92, "total_variation": 0.02,
                },
                "association": [{"between": ["presentation", "tone"], "cramers_v": 0.04}],
                "labellers": [], "exact": True, "largest_balanced": {"identities": 120, "next_cells": []},
            },
            "variation": [
                {"condition": "yaw_deg", "measure": "yaw_deg", **told, "identities": {"identities": 0},
                 "cells": [{"cell": cell, **told} for cell in cells]}
            ],
            "thresholds": {"own-template": {"epoch": 1, "name": "own-template", "threshold_cos": 0.42, "fmr": "5e-3"}},
            "leakage": {
                "galleries": {
                    "staff": {"digest": "cd" * 32, "faces": 60, "people": 20, "licence": "ours",
                              "lawful_basis": "consent"},
                    "control": {"digest": "ef" * 32, "faces": 4000, "people": 2000},
                },
                "mode": "refuse", "images_refused": True, "images": 1500, "identities": 120,
                "found": {
                    "judge": {"decides": True, "compared": {"images to samples": row, "templates to centroids": row}},
                    "auditor": {"decides": False, "compared": {"images to samples": row}},
                },
                "copies": {"bits": 6, "flagged": 0, "least": 14.0, "p0.1": 15.0},
            },
        },
    }  # fmt: skip


def _galleries(
    rng: np.random.Generator, cells: Sequence[str], reasons: Sequence[str], pictures: int, side_px: int
) -> tuple[Gallery, ...]:
    def picture(n: int, group: str = "", reason: bool = False) -> Picture:
        pixels = np.kron(rng.integers(0, 255, (side_px // 8, side_px // 8, 3)), np.ones((8, 8, 1)))
        data = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(data, "JPEG")
        cell = cells[n % len(cells)]
        tags = {"cell": cell} | ({"reason": reasons[n % len(reasons)]} if reason else {})
        return Picture(data.getvalue(), f"a face of {cell}, number {n}", f"{n} of {cell}", tags, group)

    numbers = range(pictures)
    return (
        Gallery("random", "A random look", "Chosen by lot.", tuple(picture(n, f"person {n // 3}") for n in numbers)),
        Gallery("worst-accepted", "Worst accepted", "Nearest to a threshold.", tuple(picture(n) for n in numbers)),
        Gallery("refused", "Refused", "Some of each reason.", tuple(picture(n, reason=bool(reasons)) for n in numbers)),
        Gallery("most-similar", "Most alike", "Nearest pairs.", tuple(picture(n, f"pair {n // 2}") for n in numbers)),
    )  # fmt: skip
