"""Reading a segment of real people: what is published, joined with what lies under `private/` if that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.adapters.segments.files import altered
from pipeline.adapters.segments.reads import read_columns, read_table
from pipeline.adapters.segments.splitting import EMBEDDING, MARK, PUBLISHED
from pipeline.domain.errors import FacemintError, StoreError, UserError
from pipeline.domain.manifest import segment_path
from pipeline.domain.ports import Store
from pipeline.domain.privacy import PRIVATE as FOLDER
from pipeline.domain.privacy import private_path

_Check = Callable[[Mapping[str, str], str], None]


class LiesApartError(Exception):
    """Some of what was asked for lies under `private/`; caught by whoever asked."""

    def __init__(self, columns: frozenset[str]) -> None:
        super().__init__()
        self.columns = columns


def belonging_to(unit: str) -> _Check:
    """Return the check that a file's metadata names a unit; StoreError otherwise."""

    def check(marks: Mapping[str, str], path: str) -> None:
        if marks.get("facemint_unit") != unit:
            raise altered(path, f"it says that it belongs to unit {marks.get('facemint_unit')}")

    return check


def published_of(unit: str, columns: Sequence[str] | None) -> _Check:
    """Return the check that a file is a unit's and has all of some columns, None for every one, whole.

    It raises StoreError where the file is not the unit's, LiesApartError where a column lies under `private/`.
    """
    mine = belonging_to(unit)

    def check(marks: Mapping[str, str], path: str) -> None:
        mine(marks, path)
        apart = frozenset(json.loads(marks.get(MARK, "[]")))
        if columns is not None:
            apart &= set(columns)
        if apart:
            raise LiesApartError(apart)

    return check


def joined_columns(store: Store, unit: str, columns: Sequence[str], apart: frozenset[str]) -> dict[str, Any]:
    """Return columns as `read_columns` does, those `apart` from the private file.

    Raises:
        StoreError: the private file is missing, damaged or not that of these rows.
        UserError: this copy has no `private/`.
        ValueError: a column is unknown.
    """
    path = segment_path(unit, "parquet")
    near = list(dict.fromkeys(["key", *(name for name in columns if name not in apart)]))
    found = read_columns(store, path, near, belonging_to(unit))
    try:
        private = read_columns(store, private_path(path), ["key", *sorted(apart)], belonging_to(unit))
    except FileNotFoundError:
        raise _missing(store, private_path(path)) from None
    _require_same(found["key"], private["key"], path)
    whole = {**private, **found}
    return {name: whole[name] for name in columns}


def joined_rows(store: Store, unit: str, columns: Sequence[str] | None, apart: frozenset[str]) -> list[dict[str, Any]]:
    """Return rows as `read_table` does, with what lies apart from the private file; errors as of `joined_columns`."""
    path = segment_path(unit, "parquet")
    wanted = [*PUBLISHED, EMBEDDING] if columns is None else list(columns)
    near = list(dict.fromkeys(["key", *(name for name in wanted if name not in apart)]))
    rows = read_table(store, path, near, belonging_to(unit))[1]
    try:
        private = read_table(store, private_path(path), ["key", *sorted(apart)], belonging_to(unit))[1]
    except FileNotFoundError:
        raise _missing(store, private_path(path)) from None
    _require_same([row["key"] for row in rows], [row["key"] for row in private], path)
    wholes = ({**theirs, **ours} for ours, theirs in zip(rows, private, strict=True))
    return [{name: whole[name] for name in wanted} for whole in wholes]


def _require_same(ours: Sequence[str], theirs: Sequence[str], path: str) -> None:
    if ours != theirs:
        raise altered(private_path(path), f"its rows are not those of {path}")


def _missing(store: Store, path: str) -> FacemintError:
    if store.list(FOLDER):
        return StoreError(f"{path}: missing; restore it from a copy")
    return UserError(
        f"{store.uri}: this copy has no {FOLDER}, where embeddings and attributes of the people in it lie ({path}); "
        "work on the dataset that it was copied from"
    )
