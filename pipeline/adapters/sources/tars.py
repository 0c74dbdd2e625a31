"""WebDataset tars, and what img2dataset writes: samples of adjacent members with one key.

A key is a member's name up to the first dot after its last slash, as WebDataset splits names. Members with an image's
extension, or with none, are inputs; the others say what comes with them. A key that comes again later in the same tar,
which WebDataset would silently make a second sample of, is a fault. Of a parquet with a column `key` beside a tar, as
img2dataset leaves it, the other columns come with the image of that key; what the sample itself says counts first.
Source: webdataset.github.io/webdataset, img2dataset's README (output format).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import BinaryIO, Literal

from pipeline.adapters.sources.beside import rows_beside
from pipeline.adapters.sources.facts import LARGEST_NOTE_bytes, columns_of, label_of
from pipeline.adapters.sources.files import Files, Found, fault_of
from pipeline.adapters.sources.tar_walk import TarMember, walk_tar
from pipeline.domain.intake import Fault, Input, SourceNode, Unreadable

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img", "image")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar.lz4")


class TarOptions(SourceNode):
    """A folder of WebDataset tars, or of what img2dataset wrote."""

    use: Literal["webdataset"] = "webdataset"
    label: str = "cls"
    """Where the label stands: the member `<key>.<label>`, or that key of `<key>.json`; `none` for no label."""


class TarSource:
    """Implements `Source` over tars."""

    def __init__(self, options: TarOptions, files: Files) -> None:
        self.name = files.name
        self._options, self._files = options, files

    def listing(self) -> Iterator[Input]:
        """Yield every image of every tar, in the order of files and members."""
        found = list(self._files.walk())
        archives = {f.path.removesuffix(".tar") for f in found if f.path.endswith(".tar")}
        tables = {f.path.removesuffix(".parquet"): f for f in found if f.path.endswith(".parquet") and f.fault is None}
        for one in found:
            if one.fault is not None:
                yield Input(one.path, stamp=one.stamp, fault=one.fault)
            elif one.path.endswith(".tar"):
                yield from self._archive(one, tables.get(one.path.removesuffix(".tar")))
            elif not _is_companion(one.path, archives):
                what = "a compressed tar; unpack it" if one.path.endswith(_COMPRESSED) else "no tar"
                yield Input(one.path, length=one.bytes, stamp=one.stamp, fault=Unreadable(Fault.BAD_ARCHIVE, what))

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield each member's bytes; an archive that has changed since is not read at all."""
        for one in inputs:
            yield one.fault or self._files.read(one.path, one.offset, one.length, one.stamp)

    def _archive(self, archive: Found, table: Found | None) -> Iterator[Input]:
        beside = rows_beside(self._files, table) if table is not None else {}
        if table is not None and isinstance(beside, Unreadable):
            # what it would have said of the images is lost, which must not go unseen
            yield Input(table.path, length=table.bytes, stamp=table.stamp, fault=beside)
            beside = {}
        stream = self._files.open(archive.path, archive.stamp)
        if isinstance(stream, Unreadable):
            yield Input(archive.path, stamp=archive.stamp, fault=stream)
            return
        with stream:
            seen: set[str] = set()
            try:
                for key, members in groupby(walk_tar(stream, archive.bytes), key=lambda m: _split(m.name)[0]):
                    told = {} if isinstance(beside, Unreadable) else beside.get(key.rpartition("/")[2], {})
                    yield from self._sample(archive, stream, list(members), told, again=key in seen)
                    seen.add(key)
            except OSError as error:
                yield Input(archive.path, stamp=archive.stamp, fault=fault_of(error))

    def _sample(
        self,
        archive: Found,
        stream: BinaryIO,
        members: Sequence[TarMember],
        told: Mapping[str, str],
        *,
        again: bool,
    ) -> Iterator[Input]:
        columns = dict(told)
        label: str | None = None
        names: set[str] = set()
        for member in members:
            extension = _split(member.name)[1]
            if member.fault is None and not _is_image(extension) and member.length <= LARGEST_NOTE_bytes:
                stream.seek(member.offset)
                text = stream.read(member.length).decode("utf-8", "replace")
                if extension == "json":
                    columns |= columns_of(text)
                elif extension in ("txt", "caption"):
                    columns["caption"] = text.strip()
                if extension == self._options.label:
                    label = label_of(text.strip()) or None
        if self._options.label != "none" and label is None and self._options.label in columns:
            label = label_of(columns[self._options.label]) or None
        columns = self._options.passed(columns)
        inputs = [m for m in members if m.fault is not None or _is_image(_split(m.name)[1])]
        if not inputs:
            there = ", ".join(_split(m.name)[1] for m in members)
            fault = Unreadable(Fault.NO_IMAGE, f"a sample of {there}")
            yield Input(archive.path, members[0].name, stamp=archive.stamp, label=label, columns=columns, fault=fault)
        for one in inputs:
            fault_or_none = one.fault
            if fault_or_none is None and (again or one.name in names):
                fault_or_none = Unreadable(Fault.DUPLICATE_KEY, f"{_split(one.name)[0]!r} came before in this archive")
            names.add(one.name)
            yield Input(
                archive.path, one.name, one.offset, one.length, archive.stamp, label, columns, fault_or_none
            )  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    """Return a member's key and its extension in lower case, as WebDataset splits names."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    if not key:
        # a dot file has no key by that rule, and would vanish
        return name, ""
    return f"{folder}{slash}{key}", extension.lower()


def _is_image(extension: str) -> bool:
    return not extension or extension.rpartition(".")[2] in IMAGES


def _is_companion(path: str, archives: set[str]) -> bool:
    """Return whether a file is what img2dataset leaves beside a tar: `00000.parquet`, `00000_stats.json`."""
    return any(path.endswith(end) and path.removesuffix(end) in archives for end in (".parquet", "_stats.json"))
