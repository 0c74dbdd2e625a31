"""What a user asks to be erased, and the numbers and keys that it stands for in the dataset."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.domain.errors import UserError
from pipeline.domain.privacy import SOURCES, holds_people

if TYPE_CHECKING:
    from pipeline.domain.ports import Store
    from pipeline.domain.recipe import Recipe
    from pipeline.flow.erase.plan import Wanted


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """What is asked to be erased, as it was typed.

    Attributes:
        identities: by their stable numbers.
        images: by their keys.
        sources: by their numbers; of photographs by path, or by a folder of them (ending in `/`), too.
        labels: of photographs, the names that their sources gave them.
        face: a file with a face: it shows whom it matches, and confirms whom `identities` name.
    """

    identities: Sequence[int] = ()
    images: Sequence[str] = ()
    sources: Sequence[str] = ()
    labels: Sequence[str] = ()
    face: str | None = None

    def __bool__(self) -> bool:
        """Return whether anything is asked for."""
        return bool(self.identities or self.images or self.sources or self.labels or self.face is not None)


def wanted_of(store: Store, recipe: Recipe, asked: ErasureRequest) -> Wanted:
    """Return what is asked for, as numbers and keys.

    Raises:
        UserError: the dataset has no sources or labels, or none that is named so.
    """
    from pipeline.flow.erase.plan import Wanted

    found = _inputs(store, asked) if holds_people(recipe) else _vectors(recipe, asked)
    return Wanted(tuple(asked.identities), tuple(asked.images), found)


def _vectors(recipe: Recipe, asked: ErasureRequest) -> tuple[int, ...]:
    """Return the rows of the file from which a minted dataset took its identity vectors."""
    sampler = recipe.identities.sampler
    if asked.labels:
        raise UserError(
            f"--label {asked.labels[0]}: images were made here, and no source gave them a name; give --identity, "
            "--image or --face"
        )
    if asked.sources and sampler.use != "files":
        raise UserError(
            f"--source {asked.sources[0]}: this dataset has no sources, its identity vectors are drawn by "
            f"{sampler.use!r} and of nobody; give --identity, --image or --face"
        )
    if odd := [s for s in asked.sources if not s.isdecimal()]:
        raise UserError(
            f"--source {odd[0]}: the sources of this dataset are rows of {getattr(sampler, 'path', 'a file')}, by "
            "their number from 0"
        )
    return tuple(int(s) for s in asked.sources)


def _inputs(store: Store, asked: ErasureRequest) -> tuple[int, ...]:
    """Return the numbers of a curated dataset's inputs that are named: by number, path, folder or label."""
    numbers = {int(s) for s in asked.sources if s.isdecimal()}
    at: dict[str, set[int]] = {s: set() for s in asked.sources if not s.isdecimal()}
    # sources give labels in this normal form
    under: dict[str, set[int]] = {unicodedata.normalize("NFC", label): set() for label in asked.labels}
    for row, place, label in _listed(store) if at or under else ():
        if label in under:
            under[label].add(row)
        for name, rows in at.items():
            if place == name or (name.endswith("/") and place.startswith(name)):
                rows.add(row)
    if nowhere := [name for name, rows in at.items() if not rows]:
        raise UserError(
            f"--source {nowhere[0]}: no input lies there; give its path below the source, a folder of it with a `/` "
            "behind, or the number that it has under private/sources/"
        )
    if unknown := [label for label, rows in under.items() if not rows]:
        raise UserError(
            f"--label {unknown[0]}: no source has an image under this name; give it as the source does, or the path of "
            "an image with --source"
        )
    return tuple(sorted(numbers.union(*at.values(), *under.values())))


def _listed(store: Store) -> Iterator[tuple[int, str, str]]:
    """Yield number, place below its source (`file`, or `file/member`) and label of every input."""
    from pipeline.adapters.segments.plain import ParquetTables

    for listing in store.list(SOURCES):
        listed = ParquetTables().read(store, listing, ["row", "path", "member", "label"])
        columns = (listed["row"].tolist(), listed["path"], listed["member"], listed["label"])
        for row, path, member, label in zip(*columns, strict=True):
            yield row, path.decode("utf-8", "surrogateescape") + (f"/{member}" if member else ""), label
