"""The cell that an identity is counted in: what its labellers read, where as many of them agree as is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter

from pipeline.domain.balance import Targets
from pipeline.domain.labels import agreement, labellers
from pipeline.domain.records import Cell
from pipeline.flow.enrol import cell_of


def agreed_cell(posterior: Mapping[str, float], targets: Targets) -> Cell | None:
    """Return the cell of an identity: per field the value on which as many labellers agree as `targets` asks.

    Without agreement the primary labeller's most probable value counts, the earlier one on a tie. A field with one
    labeller agrees with itself. None where a field has no value that enough of its labellers read.
    """
    if targets.agreement == "none":
        return cell_of(posterior, targets)
    values = []
    for name, known in targets.fields:
        among = labellers(posterior, name)
        if not among:  # the field is one labeller's own, as `shade@second`
            values.append(max(known, key=lambda v: posterior[f"{name}={v}"]))
            continue
        votes = Counter(agreement(posterior, name, known, among).answers.values())
        value, number = max(((v, votes[v]) for v in known), key=itemgetter(1))
        if not (number == len(among) if targets.agreement == "all" else 2 * number > len(among)):
            return None
        values.append(value)
    return Cell(tuple(values))
