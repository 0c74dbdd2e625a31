"""What differs between two published versions, of one dataset or of two: recipe, numbers, people, images.

Indexes are read by columns and compared as sorted arrays: some hundred bytes per image, no object per row. The bytes of
an image are read only where key and place leave open whether they are the same, one tar of each side at a time.

Legend: N rows of an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.domain.errors import OutputError, StoreError
from pipeline.domain.manifest import Manifest, segment_path, sha256_hex
from pipeline.domain.plain_tables import PlainTables
from pipeline.domain.storage import Store

LISTED = 20
"""Ordinals and keys that are named of each kind; all are counted."""
COLUMNS = ("label", "key", "identity", "segment", "offset", "length")
KINDS = ("added", "removed", "relabelled", "changed")
"""How the people and images of two versions can differ."""
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions.

    Attributes:
        uri: as the user named it.
        store: its dataset.
        manifest: the version.
        step: the file of its generation: recipe, fields of the fingerprint and of the plan.
    """

    uri: str
    store: Store
    manifest: Manifest
    step: Mapping[str, Any] = field(repr=False)


def diff(a: Side, b: Side, tables: PlainTables) -> dict[str, Any]:
    """Return what differs, JSON-ready: every difference has a name and the values of both sides, None where absent.

    Raises:
        OutputError: a version has no index any more, because somebody was erased from it.
        StoreError: an index or a tar is damaged.
    """
    mine, theirs = _Index.read(a, tables), _Index.read(b, tables)
    said: dict[str, list[dict[str, Any]]] = {
        "recipe": _recipe(a, b),
        "counts": _leaves(_counts(a), _counts(b)),
        "refusals": _leaves(_refusals(a), _refusals(b)),
        "balance": _leaves(*(s.manifest.figures.get("balance", {}) for s in (a, b))),
        "figures": _leaves(_figures(a), _figures(b)),
        "models": _leaves(a.manifest.models, b.manifest.models),
        "use": _leaves(a.manifest.use, b.manifest.use),
    }
    people: tuple[dict[str, Any], ...] = (_identities(mine, theirs), _images(mine, theirs))
    same = not any(said.values())
    same = same and not any(v for facts in people for k, v in facts.items() if k in KINDS)
    return {"a": _who(a), "b": _who(b), "equal": same, **said, "identities": people[0], "images": people[1]}


def _who(side: Side) -> dict[str, Any]:
    manifest = side.manifest
    return {"uri": side.uri, "name": manifest.name, "version": manifest.version, "digest": manifest.digest}


def _recipe(a: Side, b: Side) -> list[dict[str, Any]]:
    """Return the keys of the recipes that differ, and what each decides: samples, the plan, or neither."""
    mine, theirs = _keys(a.step["recipe"]), _keys(b.step["recipe"])
    decides: dict[str, str] = {}
    for of, name in (("plan", "plan_fields"), ("samples", "fingerprint_fields")):
        for side in (a, b):
            decides |= dict.fromkeys(side.step[name], of)
    for side, fields in ((a, mine), (b, theirs)):
        fields |= {k: v for k, v in side.step["fingerprint_fields"].items() if k.startswith("model.")}
    return [
        {"name": name, "a": mine.get(name), "b": theirs.get(name), "decides": decides.get(name, "nothing of a sample")}
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _refusals(side: Side) -> dict[str, Any]:
    counts = side.manifest.counts
    return {
        "enrolment": counts.get("candidates_refused_at_enrolment", {}),
        "making": counts.get("make", {}).get("reasons", {}),
        "identities": counts.get("identities_failed", {}),
    }


def _counts(side: Side) -> dict[str, Any]:
    told = dict(side.manifest.counts)
    for name in ("candidates_refused_at_enrolment", "identities_failed"):
        told.pop(name, None)
    for stage in ("enrol", "make"):
        told[stage] = {k: v for k, v in told.get(stage, {}).items() if not k.startswith("reasons")}
    return told


def _figures(side: Side) -> dict[str, Any]:
    return {k: v for k, v in side.manifest.figures.items() if k not in ("balance", "funnel")}


def _leaves(mine: Any, theirs: Any) -> list[dict[str, Any]]:
    """Return the leaves of two trees that differ."""
    a, b = _flat(mine), _flat(theirs)
    return [
        {"name": name, "a": a.get(name), "b": b.get(name)}
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return path -> leaf; the entries of a list are called by the words that they hold, or by their number."""
    if isinstance(value, Mapping):
        inner: Sequence[tuple[str, Any]] = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in value):
        names = [_name_of(v) for v in value]
        plain = len(set(names)) < len(names) or "" in names
        inner = [(str(n) if plain else names[n], v) for n, v in enumerate(value)]
    else:
        return {prefix: list(value) if isinstance(value, list | tuple) else value}
    return {k: v for name, one in inner for k, v in _flat(one, f"{prefix}.{name}" if prefix else name).items()}


def _keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return path -> leaf as overrides and fingerprints name a recipe's keys: entries of lists by their number."""
    if not isinstance(value, Mapping | list | tuple) or not value:
        return {prefix: value}
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {k: v for name, one in inner for k, v in _keys(one, f"{prefix}.{name}" if prefix else str(name)).items()}


def _name_of(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    words = (v if isinstance(v, list) else [v] for v in value.values())
    return " ".join(w for ws in words for w in ws if isinstance(w, str))


@dataclass(frozen=True, slots=True)
class _Index:
    """An index sorted by key.

    Attributes:
        key_N: bytes.
        segment_N: which of `segments` each row lies in.
    """

    side: Side
    key_N: npt.NDArray[np.bytes_]
    identity_N: Int64
    label_N: Int64
    segment_N: Int64
    offset_N: Int64
    length_N: Int64
    segments: tuple[str, ...]
    digests: Mapping[str, str]

    @classmethod
    def read(cls, side: Side, tables: PlainTables) -> _Index:
        """Return the index of a side."""
        manifest = side.manifest
        path = next((f.path for f in manifest.files if f.path.startswith(f"versions/{manifest.version}/index-")), None)
        if path is None:
            raise StoreError(f"{side.uri}: {manifest.path} names no index; restore it from a copy")
        try:
            found = tables.read(side.store, path, COLUMNS)
        except FileNotFoundError:
            raise OutputError(
                f"{side.uri}: version {manifest.version} has no index any more: somebody was erased from it, or the "
                "file is lost; compare a newer version, or look with `facemint verify`"
            ) from None
        segments, where = np.unique(np.array(found["segment"], "S"), return_inverse=True)
        key_N = np.array(found["key"], "S")
        order = np.argsort(key_N, kind="stable")
        plain = {k: np.asarray(found[k], np.int64)[order] for k in ("identity", "label", "offset", "length")}
        return cls(
            side=side,
            key_N=key_N[order],
            identity_N=plain["identity"],
            label_N=plain["label"],
            segment_N=where.astype(np.int64)[order],
            offset_N=plain["offset"],
            length_N=plain["length"],
            segments=tuple(s.decode() for s in segments.tolist()),
            digests={f.path: f.sha256 for f in manifest.files},
        )

    def people(self) -> tuple[Int64, Int64]:
        """Return the ordinals, rising, and their labels."""
        who, first = np.unique(self.identity_N, return_index=True)
        return who, self.label_N[first]


def _identities(a: _Index, b: _Index) -> dict[str, Any]:
    (mine, labels), (theirs, others) = a.people(), b.people()
    _, here, there = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    moved = mine[here[labels[here] != others[there]]]
    return {
        "a": len(mine),
        "b": len(theirs),
        **_listed("added", np.setdiff1d(theirs, mine, assume_unique=True).tolist()),
        **_listed("removed", np.setdiff1d(mine, theirs, assume_unique=True).tolist()),
        **_listed("relabelled", moved.tolist()),
    }


def _images(a: _Index, b: _Index) -> dict[str, Any]:
    both, here, there = np.intersect1d(a.key_N, b.key_N, assume_unique=True, return_indices=True)
    changed = sorted(_changed(a, b, here, there))
    return {
        "a": len(a.key_N),
        "b": len(b.key_N),
        **_listed("added", _words(np.setdiff1d(b.key_N, both, assume_unique=True))),
        **_listed("removed", _words(np.setdiff1d(a.key_N, both, assume_unique=True))),
        **_listed("changed", changed),
    }


def _changed(a: _Index, b: _Index, here: Int64, there: Int64) -> Iterator[str]:
    """Yield the keys whose JPEG bytes differ."""
    same_length = a.length_N[here] == b.length_N[there]
    yield from _words(a.key_N[here[~same_length]])
    here, there = here[same_length], there[same_length]
    twins = {
        (i, j)
        for i, one in enumerate(a.segments)
        for j, other in enumerate(b.segments)
        if (digest := a.digests.get(segment_path(one, "tar"))) and digest == b.digests.get(segment_path(other, "tar"))
    }
    pairs = np.stack([a.segment_N[here], b.segment_N[there]], axis=1) if len(here) else np.empty((0, 2), np.int64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    mine, theirs = _Tars(a.side.store), _Tars(b.side.store)
    for n in order.tolist():
        one, other = int(here[n]), int(there[n])
        pair = (int(pairs[n, 0]), int(pairs[n, 1]))
        if pair in twins and a.offset_N[one] == b.offset_N[other]:
            continue
        if mine.digest(a, one) != theirs.digest(b, other):
            yield a.key_N[one].decode()


class _Tars:
    """Images of a dataset, by way of the tar that was read last."""

    def __init__(self, store: Store) -> None:
        self._store, self._name, self._data = store, "", b""

    def digest(self, index: _Index, row: int) -> str:
        """Return the SHA-256 of a row's JPEG."""
        name = index.segments[int(index.segment_N[row])]
        if name != self._name:
            path = segment_path(name, "tar")
            try:
                self._name, self._data = name, self._store.get(path)
            except FileNotFoundError:
                raise StoreError(f"{index.side.uri}: {path}: missing; look with `facemint verify`") from None
        start = int(index.offset_N[row])
        return sha256_hex(self._data[start : start + int(index.length_N[row])])


def _listed(what: str, values: list[Any]) -> dict[str, Any]:
    return {what: len(values), f"{what}_listed": values[:LISTED]}


def _words(keys: npt.NDArray[np.bytes_]) -> list[str]:
    return [k.decode() for k in keys.tolist()]
