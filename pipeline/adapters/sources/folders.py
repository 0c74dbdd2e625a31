"""Folders of image files: one per identity, or flat.

Every file is an input, whatever its name: what is no image is refused as such when it is decoded, and counted. What
stands beside an image under its name with `.txt` or `.json` is its caption and its facts, not an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from pipeline.adapters.sources.facts import LARGEST_NOTE_bytes, columns_of, label_of
from pipeline.adapters.sources.files import Files, Found
from pipeline.domain.intake import Input, SourceNode, Unreadable


class FolderOptions(SourceNode):
    """A folder of image files, local or at an address."""

    use: Literal["folder"] = "folder"
    label: Literal["folder", "none"] = "folder"
    """`folder`: the name of the folder that a file lies in says whose face it is; a file at the top has no label."""
    notes: bool = True
    """Whether `<name>.txt` and `<name>.json` beside an image are its caption and facts."""
    links_out: bool = False
    """Whether links may lead out of the folder."""


class FolderSource:
    """Implements `Source` over files."""

    def __init__(self, options: FolderOptions, files: Files) -> None:
        self.name = files.name
        self._options, self._files = options, files

    def listing(self) -> Iterator[Input]:
        """Yield every file but captions and facts, in the order of paths."""
        # a folder at a time: what belongs to an image lies beside it
        for _, found in groupby(self._files.walk(), key=lambda f: f.path.rpartition("/")[0]):
            yield from self._folder(list(found))

    def read(self, inputs: Sequence[Input]) -> Iterator[bytes | Unreadable]:
        """Yield each file's bytes."""
        for one in inputs:
            yield one.fault or self._files.read(one.path, 0, -1, one.stamp)

    def _folder(self, found: Sequence[Found]) -> Iterator[Input]:
        notes = {f.path: f for f in found if self._options.notes and _is_note(f)}
        stems = {f.path.rpartition(".")[0] for f in found if f.path not in notes}
        # a note without an image is an input like any other: it must not vanish
        notes = {path: f for path, f in notes.items() if path.rpartition(".")[0] in stems}
        for one in found:
            if one.path in notes:
                continue
            columns: dict[str, str] = {}
            for suffix in (".txt", ".json"):
                note = notes.get(one.path.rpartition(".")[0] + suffix)
                if note is not None:
                    columns |= self._columns(note, suffix)
            yield Input(
                one.path, "", 0, one.bytes, one.stamp, self._label(one.path), self._options.passed(columns), one.fault
            )

    def _columns(self, note: Found, suffix: str) -> dict[str, str]:
        data = self._files.read(note.path, 0, -1, note.stamp)
        if isinstance(data, Unreadable):
            return {}
        text = data.decode("utf-8", "replace")
        return {"caption": text.strip()} if suffix == ".txt" else columns_of(text)

    def _label(self, path: str) -> str | None:
        if self._options.label == "none" or "/" not in path:
            return None
        return label_of(path.split("/")[-2])


def _is_note(found: Found) -> bool:
    return found.fault is None and found.bytes <= LARGEST_NOTE_bytes and found.path.endswith((".txt", ".json"))
