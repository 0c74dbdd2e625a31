"""What the tests of erasing share: datasets, and a search for what was erased in every byte and row of a store."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobs import wiring
from pipeline.adapters.segments import Segments
from pipeline.domain.manifest import IndexRow, Receipt, canonical_json
from pipeline.domain.ports import Store
from pipeline.domain.twins import parent_of
from pipeline.execute.erasing import Erased
from pipeline.flow.commit import receipts
from pipeline.flow.erase.plan import Wanted
from pipeline.flow.versions import published_rows, read_manifest, versions
from tests.flow.test_run import DyingStore, Killed
from tests.worlds import Silent

FORGOTTEN = ("runs/",)
"""Heartbeats and leases differ between runs, and count nothing."""
TIMED = ("erasures/", "private/suppressed/")
"""They say when, and are salted."""


class DyingAtAnyChange(DyingStore):
    """A store whose process dies at the n-th change, a removal too, before or after it is done."""

    def delete(self, path: str) -> None:
        """Remove, or die."""
        dies = self._dies(path)
        super().delete(path)
        if dies:
            raise Killed


def erase(store: Store, *identities: int, images: Sequence[str] = (), sources: Sequence[int] = ()) -> Erased:
    """Erase from a dataset."""
    wanted = Wanted(identities, tuple(images), tuple(sources))
    return wiring.erase_on(store, wiring.dataset_recipe(store), wanted, Silent())


def rows_of(store: Store, version: str | None = None) -> list[IndexRow]:
    """Return the index of a version, the newest by default, twins included."""
    return published_rows(Segments(), store, read_manifest(store, version or versions(store)[-1]))


def final(store: Store) -> dict[str, bytes]:
    """Return every file that must be the same however often an erasure was killed."""
    out = {p: store.get(p) for p in store.list("") if not p.startswith((*FORGOTTEN, *TIMED))}
    # who wrote a receipt, and when, is no part of what it says
    return {p: _content(data) if p.startswith(("receipts/", "measures/")) else data for p, data in out.items()}


def _content(data: bytes) -> bytes:
    return canonical_json(Receipt.from_json(data).content()) if data.startswith(b"{") else data


@dataclass
class Traces:
    """What an identity, or some images of it, left in a dataset: bytes that must not be found again.

    Attributes:
        images: JPEG bytes, those of whole pictures too.
        vectors: float32 bytes of embeddings, of templates and of identity vectors.
        keys: of images and of probes.
    """

    images: list[bytes] = field(default_factory=list)
    vectors: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def traces(store: Store, ordinals: Iterable[int] = (), images: Iterable[str] = ()) -> Traces:
    """Collect what is to be searched for, before it is erased."""
    who, which, out, segments = {*ordinals}, {*images}, Traces(), Segments()
    candidates = set[int]()
    for path in [*store.list("enrolled/"), *store.list("private/enrolled/")]:
        for identity in segments.read_identities(store, path)[0]:
            if identity.ordinal in who:
                candidates.add(identity.candidate)
                out.vectors += [identity.vector_D.tobytes(), identity.template_E.tobytes()]
    for name, receipt in receipts(store).items():
        if receipt.unit["stage"] == "enrol":
            for row in segments.read_rows(store, name):
                if row["candidate"] in candidates:
                    out.vectors += [row[k].tobytes() for k in ("vector", "template") if row[k] is not None]
        elif receipt.unit["stage"] == "make":
            tar, places = store.get(f"segments/{name}.tar"), segments.locate(store, name)
            mine = [
                r
                for r in segments.read_rows(store, name)
                if r["identity"] in who or (parent_of(r["key"]) or r["key"]) in which
            ]
            out.keys += [r["key"] for r in mine]
            # where no face was found it is all zeros, which lie everywhere
            out.vectors += [r["embedding"].tobytes() for r in mine if r["embedding"].any()]
            wholes = segments.read_wholes(store, name) or {}
            lies = [*places.items(), *((key, (whole.offset, whole.length)) for key, whole in wholes.items())]
            out.images += [tar[a : a + n] for k, (a, n) in lies if k in {r["key"] for r in mine}]
            found = segments.read_audit(store, name)
            out.vectors += [e.tobytes() for k, e in zip(found.keys, found.auditor_NE, strict=True) if k in out.keys]
            if store.size(f"previews/{name}.parquet") is not None:
                out.images += [p.jpeg for p in segments.read_previews(store, name) if p.key in out.keys]
    for path in store.list("measures/"):
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(store.get(path)))
            if "embedding" in table.column_names:
                rows = zip(table["key"].to_pylist(), table["embedding"].to_pylist(), strict=True)
                out.vectors += [np.float32(e).tobytes() for k, e in rows if k in out.keys and e is not None]
    assert out.images
    assert out.vectors
    assert out.keys
    return out


def found(store: Store, sought: Traces) -> list[str]:
    """Return where anything of it is found, in raw bytes and in every value of every table."""
    out = []
    for path in store.list(""):
        data = store.get(path)
        if any(image in data for image in sought.images):
            out.append(f"{path}: an image")
        if any(vector in data for vector in sought.vectors):
            out.append(f"{path}: a vector")
        # the names of probes count candidates, not identities: equal ones are of somebody else
        words = set() if path.startswith("segments/enrol-") else _words(data)
        if hits := sorted(key for key in sought.keys if key in words):
            out.append(f"{path}: {hits[0]}")
        if path.endswith(".parquet"):
            out += [f"{path}: {what}" for what in _in_table(data, sought)]
    return out


def _words(data: bytes) -> set[str]:
    """Return everything in raw bytes that has the form of a key."""
    return {m.decode() for m in re.findall(rb"i\d{8}-s\d{4}-a\d{2}(?:-t\d{2})?", data)}


def _in_table(data: bytes, sought: Traces) -> Iterator[str]:
    table = pq.read_table(io.BytesIO(data))
    for name in (n for n in table.column_names if n != "probe_keys"):
        for value in table[name].to_pylist():
            if isinstance(value, bytes) and value in sought.images:
                yield f"an image in {name}"
            elif isinstance(value, list) and value and isinstance(value[0], float):
                if np.float32(value).tobytes() in sought.vectors:
                    yield f"a vector in {name}"
            elif _words(_text(value)) & {*sought.keys}:
                yield f"a key in {name}"


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()
