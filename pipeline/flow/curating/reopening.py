"""Labels that were too small come again: where one has more images by now, those refused before are looked at anew.

A crawl that grows image by image would never publish anybody otherwise. An input that comes again gets a new number in
the newer listing; its old row stands for nothing any more, and the account counts it once. Labels of somebody published
are never reopened.

Images that nobody labels never come again either: nothing but their pixels says to which of them new ones belong, so
that every one refused would be read again whenever the sources grow. New ones join whoever of theirs is published; a
cluster that was too small at its time is somebody only where all of it is listed at once, in another place, or where
its images get a label.
"""

from __future__ import annotations

import numpy as np

from pipeline.flow.curating.kit import Kit
from pipeline.flow.curating.outcomes import identities_path, outcome_path
from pipeline.flow.curating.rows import TOO_FEW
from pipeline.flow.parts import Parts


def too_few_of(kit: Kit, parts: Parts, generation: int) -> frozenset[int]:
    """Return the rows of a generation of which a face was refused as one of too few, and none was given to anybody."""
    path = outcome_path(generation)
    if parts.store.size(path) is None:
        return frozenset()
    told = kit.tables.read(parts.store, path, ["row", "reason", "identity"])
    rows, few = np.asarray(told["row"]), np.array([reason == TOO_FEW for reason in told["reason"]], bool)
    return frozenset(rows[few].tolist()) - frozenset(rows[np.asarray(told["identity"]) >= 0].tolist())


def owners_given(kit: Kit, parts: Parts, generations: int) -> frozenset[str]:
    """Return the labels of which somebody was given a number, in the generations before one."""
    out: set[str] = set()
    for generation in range(generations):
        path = identities_path(generation)
        if parts.store.size(path) is not None:
            told = kit.tables.read(parts.store, path, ["owner", "ordinal"])
            out |= {owner for owner, o in zip(told["owner"], told["ordinal"].tolist(), strict=True) if o >= 0}
    return frozenset(out)
