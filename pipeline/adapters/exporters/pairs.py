"""Pairs export: verification lists over a version's images, in the forms that evaluations read.

- `pairs.parquet`, `triplets.parquet`: every pair and triplet with keys, identities, cell and fold;
- `pairs.txt` beside `images/<name>/<name>_0001.jpg`: as LFW writes its list for view 2 (folds, then for each fold its
  mated and its non-mated lines);
- `pairs.bin`: an InsightFace verification set, a pickle of (encoded images, two per pair; list of bool).

Folds share no identity, in the `.bin` too, which evaluations cut into ten equal runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

from pydantic import Field

from pipeline.adapters.exporters.files import hashed
from pipeline.adapters.exporters.hub import PARQUET
from pipeline.adapters.exporters.images import with_images
from pipeline.adapters.exporters.notes import bytes_line, choice_lines, people
from pipeline.adapters.exporters.resizing import resized
from pipeline.adapters.exporters.sourced import Sourced, sourced_lines, sourced_of
from pipeline.adapters.exporters.verification_bin import write_bin
from pipeline.adapters.exporters.writing import MANIFEST, Part, Writing, head_of
from pipeline.domain.errors import UserError
from pipeline.domain.manifest import FileEntry, IndexRow
from pipeline.domain.pairs import Lists, Pair, Triplet, draw_lists
from pipeline.domain.ports import ImageFacts, Store
from pipeline.domain.recipe import ExportNode

TABLES = ("pairs.parquet", "triplets.parquet", "images.parquet")
OURS = re.compile(r"images/[^/]+/[^/]+\.jpg")
ROW_GROUP = 4096


class PairsOptions(ExportNode):
    """How many pairs are drawn, and over which images."""

    use: Literal["pairs"] = "pairs"
    twins: bool = False
    """Whether hard-condition twins are drawn too; an image and its own twin are never a pair."""
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    """Evaluations of the field cut a list into 10."""
    per_fold: Annotated[int, Field(ge=1, le=100_000)] = 300
    """Mated pairs in each fold, and as many non-mated; fewer where images run out. LFW has 300."""
    max_images: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """More files are refused: one object per image is slow and dear on every store."""


class _Named(NamedTuple):
    """An image under the name that LFW would give it."""

    row: IndexRow
    name: str
    number: int

    @property
    def file(self) -> str:
        return f"images/{self.name}/{self.name}_{self.number:04d}.jpg"


class PairsExporter:
    """Writes `pairs.*`, `triplets.*`, `images/`, `images.parquet`, `README.md`, and last `manifest.json`.

    Images are stored once as files and once more for each of their pairs in `pairs.bin`, as its format has it. The
    temporary directory holds that file and the images, memory what is being fetched.
    """

    kind = "pairs"

    def __init__(self, options: PairsOptions | None = None) -> None:
        self.options = options or PairsOptions()

    def export(
        self,
        source: Store,
        index: Sequence[IndexRow],
        target: Store,
        about: Mapping[str, Any],
        facts: ImageFacts | None = None,
    ) -> dict[str, Any]:
        """Write the export into `target`, which holds nothing else; return its manifest.

        `num_images` of the manifest counts the images that are in a list. Where a manifest of the same version and
        options exists and all its files have their sizes, nothing is written. `about` holds name, version, digest (of
        the dataset) and seed (of the run).

        Raises:
            ValueError: `about` lacks one of these.
            UserError: too few people or images for so many folds, or more files than allowed.
            OutputError: no image, or `target` holds an export of another dataset or kind.
            StoreError: an image is not where the index says.
        """
        head_of(self.kind, index, about)
        lists = draw_lists(index, folds=self.options.folds, per_fold=self.options.per_fold, run_seed=about["seed"])
        named = _named(index, lists)
        if len(named) > self.options.max_images:
            raise UserError(
                f"{len(named):,} images, each an object of its own; pairs writes up to {self.options.max_images:,}: "
                "draw fewer with per_fold, or raise the export's max_images"
            )
        shown = [named[n].row for n in sorted(named)]
        sourced = sourced_of(shown, about, facts)
        head = head_of(self.kind, shown, about, **_said(lists), **sourced.head)
        writing = Writing(target, head)
        if writing.finished is not None:
            return writing.finished
        for part in (
            _tables(lists, index, named, sourced),
            _text("pairs.txt", _lfw(lists, named)),
            _triplets(lists, named),
        ):
            writing.add(part)
        with resized(source, shown, self.options, about) as (images, rows):
            names = {item.row.key: item.file for item in named.values()}
            for row, image in with_images(images, rows):
                writing.put(names[row.key], image)
            writing.add(_bin(images, rows, [(index[p.a].key, index[p.b].key, p.mated) for p in lists.pairs]))
        return writing.finish(_card(head), "images/", OURS)


def _said(lists: Lists) -> dict[str, Any]:
    return {
        "folds": lists.folds,
        "mated_per_fold": lists.per_fold,
        "pairs": len(lists.pairs),
        "triplets": len(lists.triplets),
        "mated_by_cell": lists.mated_by_cell(),
    }


def _named(index: Sequence[IndexRow], lists: Lists) -> dict[int, _Named]:
    """Return place in the index -> its image's name, for every image in a list, numbered from 1 by key per identity."""
    used = {n for p in lists.pairs for n in (p.a, p.b)} | {t.negative for t in lists.triplets}
    named: dict[int, _Named] = {}
    counts: dict[int, int] = {}
    for place in sorted(used, key=lambda n: (index[n].identity, index[n].key)):
        row = index[place]
        counts[row.identity] = counts.get(row.identity, 0) + 1
        named[place] = _Named(row, f"i{row.identity:08d}", counts[row.identity])
    return named


def _lfw(lists: Lists, named: Mapping[int, _Named]) -> Iterator[str]:
    """Yield the lines of `pairs.txt`: folds and pairs per fold; a name and two numbers, or two names and numbers."""
    yield f"{lists.folds}\t{lists.per_fold}"
    for pair in lists.pairs:
        a, b = named[pair.a], named[pair.b]
        yield f"{a.name}\t{a.number}\t{b.number}" if pair.mated else f"{a.name}\t{a.number}\t{b.name}\t{b.number}"


def _triplets(lists: Lists, named: Mapping[int, _Named]) -> Part:
    """Return `triplets.txt`: files of anchor, positive and negative by tabs."""
    return _text(
        "triplets.txt",
        (f"{named[t.anchor].file}\t{named[t.positive].file}\t{named[t.negative].file}" for t in lists.triplets),
    )


def _text(path: str, lines: Iterable[str]) -> Part:
    def write(here: Path) -> list[FileEntry]:
        with hashed(here / path) as out:
            for line in lines:
                out.write(line.encode() + b"\n")
        return [out.entry(path)]

    return Part((path,), write)


def _tables(lists: Lists, index: Sequence[IndexRow], named: Mapping[int, _Named], sourced: Sourced) -> Part:
    """Return the three tables; an image is named by its file, key and identity."""
    fold_of = {index[n].identity: p.fold for p in lists.pairs for n in (p.a, p.b)}
    fold_of |= {index[t.negative].identity: t.fold for t in lists.triplets}

    def write(here: Path) -> list[FileEntry]:
        pairs = ({"fold": p.fold, "mated": p.mated, "cell": p.cell, **_columns(p, named)} for p in lists.pairs)
        triplets = ({"fold": t.fold, "cell": t.cell, **_three(t, named)} for t in lists.triplets)
        images = (
            {**_who("", named[n]), "name": named[n].name, "number": named[n].number}
            | {"cell": named[n].row.cell, "fold": fold_of[named[n].row.identity]}
            | {column: words[0] for column, words in sourced.columns([named[n].row]).items()}
            for n in sorted(named, key=lambda n: named[n].file)
        )
        three = (f"{side}_{what}" for side in _SIDES for what in _WHAT)
        two = (f"{what}_{side}" for side in ("a", "b") for what in _WHAT)
        columns = (
            ("fold", "mated", "cell", *two),
            ("fold", "cell", *three),
            ("file", "key", "identity", "name", "number", "cell", "fold", *sourced.kinds),
        )
        return [
            _table(here, path, of_table, rows, sourced)
            for path, of_table, rows in zip(TABLES, columns, (pairs, triplets, images), strict=True)
        ]

    return Part(TABLES, write)


_SIDES = ("anchor", "positive", "negative")
_WHAT = ("file", "key", "identity")


def _three(triplet: Triplet, named: Mapping[int, _Named]) -> dict[str, Any]:
    sides = ((side, named[getattr(triplet, side)]) for side in _SIDES)
    return {name: value for side, image in sides for name, value in _who(side, image).items()}


def _columns(pair: Pair, named: Mapping[int, _Named]) -> dict[str, Any]:
    sides = {"a": named[pair.a], "b": named[pair.b]}
    return {f"{what}_{side}": value for side, image in sides.items() for what, value in _who("", image).items()}


def _who(side: str, image: _Named) -> dict[str, Any]:
    before = f"{side}_" if side else ""
    return {f"{before}file": image.file, f"{before}key": image.row.key, f"{before}identity": image.row.identity}


def _table(
    here: Path, path: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], sourced: Sourced
) -> FileEntry:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"fold": pa.int32(), "number": pa.int32(), "mated": pa.bool_()}
    kinds |= {name: pa.struct([(word, pa.string()) for word in words]) for name, words in sourced.kinds.items()}
    known = [(c, kinds.get(c, pa.int64() if "identity" in c else pa.string())) for c in columns]
    schema, remaining = pa.schema(known), iter(rows)
    with hashed(here / path) as out, pq.ParquetWriter(out, schema, **PARQUET, compression="zstd") as writer:
        while group := list(islice(remaining, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=ROW_GROUP)
    return out.entry(path)


def _bin(source: Store, rows: Sequence[IndexRow], pairs: Sequence[tuple[str, str, bool]]) -> Part:
    """Return `pairs.bin`. Images are fetched once, into a local file from which each pair takes its two."""

    def write(here: Path) -> list[FileEntry]:
        places: dict[str, tuple[int, int]] = {}
        with (here / "pool").open("w+b") as pool:
            for row, image in with_images(source, rows):
                places[row.key] = (pool.tell(), len(image))
                pool.write(image)
            with hashed(here / "pairs.bin") as out:
                found = (_read(pool, *places[key]) for a, b, _ in pairs for key in (a, b))
                write_bin(out, found, [mated for *_, mated in pairs])
        return [out.entry("pairs.bin")]

    return Part(("pairs.bin",), write)


def _read(pool: BinaryIO, place: int, length: int) -> bytes:
    pool.seek(place)
    return pool.read(length)


def _card(head: Mapping[str, Any]) -> str:
    source, each = head["source"], head["mated_per_fold"]
    words = ", sourced," if head.get("sourced") else ""
    cells = "\n".join(f"| {cell} | {count:,} | {count:,} |" for cell, count in head["mated_by_cell"].items())
    return f"""---
configs:
- config_name: pairs
  default: true
  data_files: pairs.parquet
- config_name: triplets
  data_files: triplets.parquet
- config_name: images
  data_files: images.parquet
---

# {source["name"]} {source["version"]} as verification pairs

{head["pairs"]:,} pairs and {head["triplets"]:,} triplets over {head["num_images"]:,} images of {head["num_classes"]:,}
{people(head)}, in {head["folds"]} folds of {each:,} mated and {each:,} non-mated pairs. Dataset digest
`{source["digest"]}`; the digest of every file is in `{MANIFEST}`.
{choice_lines(head)}
- No identity is in two folds.
- The two people of a non-mated pair are of one cell (perceived attributes), as are those of a triplet.
- No two images are paired twice, and no image with its own hard-condition twin.

| cell | mated | non-mated |
|---|---|---|
{cells}

| file | content |
|---|---|
| `pairs.parquet` | fold, mated, cell, and of both images file, key and identity |
| `triplets.parquet`, `triplets.txt` | anchor and positive of one identity, negative of another |
| `pairs.txt` | the pairs as LFW lists them, over `images/<name>/<name>_<number>.jpg` |
| `images.parquet` | file, key, identity, name, number, cell and fold{words} of every image |
| `images/` | faces, RGB, {bytes_line(head)} |
| `pairs.bin` | the pairs as InsightFace reads them: its evaluation takes `{{folder}}/pairs.bin` as a target |
{sourced_lines(head, "The column `sourced` of `images.parquet`")}
```python
from collections import Counter

import pyarrow.parquet as pq
from PIL import Image

pairs = pq.read_table("pairs.parquet").to_pylist()
first, second = Image.open(pairs[0]["file_a"]), Image.open(pairs[0]["file_b"])
print(Counter((pair["fold"], pair["mated"]) for pair in pairs))
```

`pairs.bin` is a pickle, because readers of the format unpickle it: check its digest before you let one do so.
Overlap with what a model was trained on inflates its figures: evaluate models that have not seen this version, or use a
part of a split that was held out.
"""
