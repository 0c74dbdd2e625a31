"""The record of an evaluation: per test set the figures of every seed, their mean and spread, and two sets compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.domain.verification import Share, gap_of
from pipeline.flow.evaluating.evaluate import Result, TestSet

DENOMINATOR = "this dataset's accuracy"
"""What the relative gap is a share of; the field also divides by the baseline's, so it has to be named."""


def facts_of(test: TestSet, results: Sequence[Result]) -> dict[str, Any]:
    """Return what is recorded of one test set; `results` are those of the seeds, in their order."""
    first = results[0].rates
    return {
        "name": test.table.name,
        "digest": test.table.digest,
        "pairs": len(test.pairs),
        "pictures": len(test.table) if test.labelled else len(test.table.label_names),
        "identities": len(test.table.label_names) if test.labelled else None,
        "compared": {"genuine": first.n_genuine, "impostor": first.n_impostor},
        "accuracy": _over_seeds(results, lambda r: r.folds.accuracy)
        | {"fold_std": float(np.mean([r.folds.accuracy_std for r in results]))},
        "val_at_far_0.001": _over_seeds(results, lambda r: r.folds.val),
        "eer": _over_seeds(results, lambda r: r.rates.eer),
        "tar": [_tar(place, results) for place in range(len(first.at))],
        "insufficient": [{"far": far, "impostor_pairs_needed": round(30 / far)} for far in first.insufficient],
        "cells": _cells(results) if results[0].cells else None,
    }


def _over_seeds(results: Sequence[Result], figure: Callable[[Result], float | None]) -> dict[str, Any]:
    """Return a figure's mean, its spread over the seeds, and its value for each of them; None where it has none."""
    values = [figure(result) for result in results]
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if len(known) == len(values) else None
    # of a sample: other seeds could have been taken; one seed has no spread
    spread = float(np.std(known, ddof=1)) if mean is not None and len(known) > 1 else None
    return {"mean": mean, "spread": spread, "seeds": values}


def _tar(place: int, results: Sequence[Result]) -> dict[str, Any]:
    at = results[0].rates.at[place]
    found = _over_seeds(results, lambda r: r.rates.at[place].tar)
    genuine = results[0].rates.n_genuine
    low, high = Share(found["mean"] * genuine, genuine).bounds
    return {"far": at.far, **found, "low": low, "high": high}


def _cells(results: Sequence[Result]) -> dict[str, Any]:
    """Return, per figure, each cell's mean share over the seeds with its interval, and the gap between cells."""
    facts: dict[str, Any] = {"far": results[0].cell_far}
    for figure in results[0].cells:
        shares = _mean_shares([result.cells[figure] for result in results])
        gap = gap_of(shares)
        facts[figure] = {
            "cells": {
                cell: {"share": s.value, "low": s.bounds[0], "high": s.bounds[1], "pairs": s.total}
                for cell, s in shares.items()
            },
            "gap": asdict(gap) if gap else None,
        }
    return facts


def _mean_shares(seeds: Sequence[Mapping[str, Share]]) -> dict[str, Share]:
    """Return each cell's share with the hits averaged over seeds: pairs count once, however often they are judged."""
    return {
        cell: Share(float(np.mean([seed[cell].hits for seed in seeds])), share.total)
        for cell, share in seeds[0].items()
    }


def compared(tests: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, per test set, how far the baseline's accuracy lies above this dataset's.

    In points, and as a share of this dataset's accuracy: (baseline - this) / this.
    """
    rows = []
    for mine, other in zip(tests, against, strict=True):
        here, there = mine["accuracy"], other["accuracy"]
        spreads = [a["spread"] for a in (here, there)]
        rows.append({
            "test": mine["name"],
            "difference": there["mean"] - here["mean"],
            "spread": None if None in spreads else float(np.hypot(*spreads)),
            "relative": (there["mean"] - here["mean"]) / here["mean"],
            "denominator": DENOMINATOR,
        })  # fmt: skip
    return rows
