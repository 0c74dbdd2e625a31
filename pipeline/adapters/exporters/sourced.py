"""What came with photographs from their sources, carried into exports: licence, caption, date, what marks AI-made ones.

A dataset of real people publishes these words beside each image; where an image lay is among them only if its recipe
asked for that. All images of an export tell of the same words, so that readers which infer a schema from the first few
find one: a word that an image lacks is null in tables, and empty in JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.hub import PARQUET, schema_of
from pipeline.adapters.exporters.writing import Part
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.ports import ImageFacts

MOST_WORDS = 64
"""Words that an export tells of; where sources bring more, those that most images have."""
MOST_LICENCES = 20
"""Licences that a manifest counts by name, the commonest."""
TABLE = "sourced.parquet"
COLUMN = "sourced"
LICENCE = "licence"
_ROW_GROUP = 4096
_Told = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sourced:
    """The words that came with an export's images; without `names` there are none, as of images that were made.

    Attributes:
        names: of the words, sorted.
        head: what the manifest says of them.
    """

    names: tuple[str, ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)
    _told: Mapping[str, _Told] = field(default_factory=dict, repr=False)

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Return column -> names of its words, as `hub.schema_of` takes it; nothing where there are none."""
        return {COLUMN: self.names} if self.names else {}

    def of(self, key: str) -> dict[str, str | None]:
        """Return the words of an image, None for each that it lacks."""
        return dict(zip(self.names, self._told[key], strict=True))

    def columns(self, rows: Sequence[IndexRow]) -> dict[str, list[dict[str, str | None]]]:
        """Return what `kinds` names, of these images."""
        return {COLUMN: [self.of(row.key) for row in rows]} if self.names else {}

    def json(self, key: str) -> str:
        """Return the words of an image as a member of a JSON object, with a comma before it; nothing where none are."""
        if not self.names:
            return ""
        words = {name: word or "" for name, word in self.of(key).items()}
        return f',"{COLUMN}":{json.dumps(words, ensure_ascii=False, separators=(",", ":"))}'

    def part(self, index: Sequence[IndexRow]) -> list[Part]:
        """Return `sourced.parquet`, with a row for each image by its key; nothing where there are no words."""
        return [_table(self, sorted(row.key for row in index))] if self.names else []


def sourced_of(index: Sequence[IndexRow], about: Mapping[str, Any], facts: ImageFacts | None) -> Sourced:
    """Return the words that came with the images of an export; none of images that were made.

    Memory holds them all; equal words of a segment are held once.

    Args:
        index: the rows of the export.
        about: of whose images are photographs it says so by `real_people`.
        facts: what is known of the images.

    Raises:
        ValueError: the images are photographs, and there are no facts.
    """
    if not about.get("real_people"):
        return Sourced()
    if facts is None:
        raise ValueError("export is told that these are photographs, and nothing of what came with them")
    wanted = {row.key for row in index}
    there: dict[str, Mapping[str, str]] = {}
    for segment in sorted({row.segment for row in index}):
        there |= {key: words for key, words in facts.sourced(segment).items() if key in wanted}
    known = Counter(name for words in there.values() for name in words)
    # of equally common words the first by name
    names = tuple(sorted(sorted(known, key=lambda name: (-known[name], name))[:MOST_WORDS]))
    told = {key: tuple(map(there.get(key, {}).get, names)) for key in wanted}
    return Sourced(names, _head(names, len(known), there), told) if names else Sourced()


def _head(names: Sequence[str], known: int, there: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    counts = Counter(words[LICENCE] for words in there.values() if LICENCE in words)
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_LICENCES]
    others = len(counts) - len(common)
    return {
        "sourced": list(names),
        **({"sourced_left_out": known - len(names)} if known > len(names) else {}),
        "licences": [{"licence": licence, "images": images} for licence, images in common],
        **({"other_licences": others} if others else {}),
    }


def _table(sourced: Sourced, keys: Sequence[str]) -> Part:
    def write(here: Path) -> list[FileEntry]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = schema_of({"key": "string", **sourced.kinds})
        with hashed(here / TABLE) as out, pq.ParquetWriter(out, schema, **PARQUET, compression="zstd") as writer:
            for start in range(0, len(keys), _ROW_GROUP):
                group = [{"key": key, COLUMN: sourced.of(key)} for key in keys[start : start + _ROW_GROUP]]
                writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=_ROW_GROUP)
        return [out.entry(TABLE)]

    return Part((TABLE,), write)


def sourced_lines(head: Mapping[str, Any], place: str) -> str:
    """Return a paragraph of a card on what came with the images, with an empty line before it; nothing where none did.

    Args:
        head: what the export's manifest begins with.
        place: where the words stand: "`sourced.parquet`".
    """
    if not head.get("sourced"):
        return ""
    names = ", ".join(f"`{_plain(name)}`" for name in head["sourced"])
    more = head.get("sourced_left_out")
    said = f"{place} tells, by image, what came with it from its source: {names}"
    said += f"; {more:,} rarer words are in the dataset's segments alone." if more else "."
    licences = ", ".join(f"`{_plain(one['licence'])}` ({one['images']:,})" for one in head["licences"])
    if licences:
        others = head.get("other_licences")
        said += f" Licences, with how many images each has: {licences}" + (f", and {others:,} more." if others else ".")
    said += (
        " Where an image lay is known to whoever keeps the dataset, not here: `facemint prove DATASET KEY` leads to it."
    )
    return f"\n{said}\n"


def _plain(text: str) -> str:
    """Return a word of somebody else's as it can stand between backquotes on one line."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text.replace("`", "'"))
    return " ".join(shown.split())[:120]
