"""The link of a proof from a photograph to the input that it was cut from."""

from __future__ import annotations

import numpy as np

from pipeline.domain.errors import StoreError
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.records import identity_of, slot_of
from pipeline.flow.commit import enrolled_receipt_name
from pipeline.flow.curating.outcomes import outcome_path
from pipeline.flow.proving.proof import Check, Link, Witness

_COLUMNS = ("identity", "slot", "row", "face", "sha256", "moved")


def input_link(witness: Witness, tables: PlainTables, generation: int, key: str) -> Link:
    """Return which input an image is of: its number in the listing, and the digest of its file, not where that lies."""
    path = outcome_path(generation)
    closed = witness.ledger.receipts.get(enrolled_receipt_name(generation))
    name = f"input in {path}"
    if closed is None:
        return Link(name, {}, (Check(path, False, "no receipt of who is enrolled names it"),))
    checks = [witness.named(closed, path)]
    try:
        told = tables.read(witness.store, path, _COLUMNS)
    except (StoreError, FileNotFoundError) as error:
        return Link(name, {}, (*checks, Check(path, False, " ".join(str(error).split()))))
    mine = np.flatnonzero((told["identity"] == identity_of(key)) & (told["slot"] == slot_of(key)))
    if mine.size != 1:
        return Link(name, {}, (*checks, Check("input", False, f"{mine.size} rows say that it is of theirs")))
    n = int(mine[0])
    facts = {
        "row": int(told["row"][n]),
        "face": int(told["face"][n]),
        "source_sha256": told["sha256"][n],
        "moved_to_another_label": bool(told["moved"][n]),
    }
    return Link(name, facts, tuple(checks))
