"""The link of a proof that says where a merged dataset has an image from; its random keys are those of its source."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.domain.errors import StoreError
from pipeline.domain.merged_recipe import MergedSource
from pipeline.domain.plain_tables import PlainTables
from pipeline.flow.merging.copying import read_table
from pipeline.flow.merging.merge import table_path
from pipeline.flow.proving.proof import Check, Link, Witness, equal


def source_link(
    witness: Witness, tables: PlainTables, generation: int, source: MergedSource, key: str, sha256: str | None
) -> Link:
    """Return which image of which version this one is, tied to the receipt of the table and to the bytes that lie here.

    Args:
        witness: of the merged dataset.
        tables: reads the table of the source.
        generation: which source.
        source: what the recipe says of it.
        key: of the image here.
        sha256: of its bytes; None where they could not be read.
    """
    path = table_path(generation)
    facts = {k: v for k, v in source.model_dump().items() if v}
    try:
        taken = next((t for t in read_table(tables, witness.store, generation) if t.key == key), None)
    except StoreError as error:
        return Link(f"source in {path}", facts, (Check(path, False, " ".join(str(error).split())),))
    by = next((r for r in witness.ledger.receipts.values() if any(f.path == path for f in r.files)), None)
    checks = [witness.named(by, path) if by else Check(path, False, "no receipt names it")]
    if taken is None:
        return Link(f"source in {path}", facts, (*checks, Check(key, False, "the table does not have it")))
    facts |= {k: v for k, v in asdict(taken).items() if k.startswith("source_") or k in ("segment", "sha256")}
    if sha256 is not None:
        checks.append(equal("bytes", sha256, taken.sha256, "when they were copied"))
    return Link(f"source in {path}", facts, tuple(checks))
