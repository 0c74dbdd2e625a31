"""How every export comes to stand: claimed, written part by part, resumed after a kill, its manifest last.

`progress.json` lies there while an export is unfinished: it says of which version, and which files are complete. A run
that finds it keeps every file that still has its digest and makes the others. `manifest.json`, written last, is the
digest list: an export without one is not finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.adapters.exporters.croissant import croissant_of
from pipeline.adapters.exporters.files import HashedFile, growing, scratch, stands
from pipeline.domain.errors import OutputError
from pipeline.domain.manifest import SCHEMA_VERSION, FileEntry, IndexRow, canonical_json, sha256_hex
from pipeline.domain.ports import Store
from pipeline.domain.seal import sealed

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
README = "README.md"
KEYS = ("name", "version", "digest", "seed")
"""What an export must be told about the version that it is of."""


class Part(NamedTuple):
    """Files that are made together."""

    paths: tuple[str, ...]
    """Where they will be stored."""
    write: Callable[[Path], Sequence[FileEntry]]
    """Makes them in a local directory, each under the last part of its path; returns their entries."""


class Stream(NamedTuple):
    """Files that are made together, each from its beginning to its end: they grow where they will stand."""

    paths: tuple[str, ...]
    write: Callable[[Sequence[HashedFile]], None]
    """Makes them, in the order of their paths."""
    about_bytes: int
    """Roughly how large the largest becomes."""


def head_of(kind: str, index: Sequence[IndexRow], about: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Return the part of a manifest that is known beforehand: equal heads give equal bytes.

    Args:
        kind: the exporter's.
        index: what is exported.
        about: name, version, digest (of the dataset) and seed (of the run); `chosen`, where images were chosen;
            `licence`, where the dataset states one; `real_people`, where its images are photographs of some;
            `crop_margin`, where they show more than the judge's crop; `whole_pictures`, how many images of the dataset
            have theirs stored.
        options: what else the bytes depend on; `whole_pictures`, how many of these an export carries.

    Raises:
        ValueError: `about` lacks one of these.
        OutputError: there is no image.
    """
    missing = [name for name in KEYS if name not in about]
    if missing:
        raise ValueError(f"export is told nothing of {', '.join(missing)}; it needs {', '.join(KEYS)}")
    if not index:
        raise OutputError("no image to export; publish a version with images, or choose others")
    return {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "source": {name: about[name] for name in KEYS},
        **({"licence": about["licence"]} if about.get("licence") else {}),
        **({"real_people": True} if about.get("real_people") else {}),
        **_margin(about),
        **about.get("chosen", {}),
        **({"whole_pictures": 0} if about.get("whole_pictures") else {}),
        **options,
        "num_classes": len({row.label for row in index}),
        "num_images": len(index),
    }


def _margin(about: Mapping[str, Any]) -> dict[str, float]:
    """Return what images show beyond the aligned crop; nothing where they are that crop, or are cut to it."""
    margin = about.get("crop_margin")
    return {} if margin is None or about.get("chosen", {}).get("aligned") else {"crop_margin": margin}


class Writing:
    """One export in the making.

    Args:
        target: holds this export and nothing else.
        head: see `head_of`.

    Raises:
        OutputError: `target` holds, finished or not, an export of another dataset or of another kind.
    """

    def __init__(self, target: Store, head: Mapping[str, Any]) -> None:
        self._target, self._head = target, dict(head)
        self._known: dict[str, FileEntry] = {}
        """Files that were complete when they were written; whether they still are is asked before they are kept."""
        self._entries: list[FileEntry] = []
        self._sizes: dict[str, int] | None = None
        manifest, progress = self._read(MANIFEST), self._read(PROGRESS)
        self.finished = self._whole(manifest)
        """The manifest of this very export where it stands already, every file with its size; else None."""
        if self.finished is None:
            self._known = {e.path: e for found in (progress, manifest) for e in self._files(found)}
            # from here on the old manifest, if any, would describe files that are being replaced
            target.delete(MANIFEST)
            self._note()

    def add(self, part: Part) -> Sequence[FileEntry]:
        """Make a part, unless its files stand as they were written; return their entries."""
        entries = self._kept(part.paths)
        if entries is None:
            with scratch(part.paths[0]) as here:
                entries = list(part.write(here))
                for entry in entries:
                    # one of several may stand; a store's failure is its own, not that of the temporary directory
                    if not stands(self._target, entry):
                        self._target.put_file(entry.path, here / entry.path.rpartition("/")[2])
            self._known.update({e.path: e for e in entries})
            self._note()
        self._entries += entries
        return entries

    def stream(self, part: Stream) -> Sequence[FileEntry]:
        """Make a part without a temporary copy, unless its files stand as they were written; return their entries."""
        entries = self._kept(part.paths)
        if entries is None:
            with ExitStack() as stack:
                files = [stack.enter_context(growing(self._target, p, part.about_bytes)) for p in part.paths]
                part.write(files)
            entries = [file.entry(path) for file, path in zip(files, part.paths, strict=True)]
            self._known.update({e.path: e for e in entries})
            self._note()
        self._entries += entries
        return entries

    def put(self, path: str, data: bytes) -> FileEntry:
        """Store one small file, unless it stands there already; for exports of many, no note is kept of each."""
        entry = FileEntry(path, sha256_hex(data), len(data))
        if self._sizes is None:
            # one listing instead of a question for each
            self._sizes = {e.path: e.bytes for e in self._target.entries("")}
        if self._sizes.get(path) != entry.bytes or self._target.get(path) != data:
            self._target.put(path, data)
        self._entries.append(entry)
        return entry

    def finish(self, card: str, prefix: str, ours: re.Pattern[str]) -> dict[str, Any]:
        """Write card, Croissant and manifest, and remove what an earlier export left; return the manifest.

        Args:
            card: README.md.
            prefix: of the paths that are looked through.
            ours: a path that it matches in full, and that is not of this export, is removed.
        """
        named = {e.path for e in self._entries}
        for path in self._target.list(prefix):
            if path not in named and ours.fullmatch(path):
                self._target.delete(path)
        for path, data in {README: card.encode(), **croissant_of(self._head, self._entries)}.items():
            entry = FileEntry(path, sha256_hex(data), len(data))
            if not stands(self._target, entry):
                self._target.put(path, data)
            self._entries.append(entry)
        manifest = sealed(self._head | _digest_list(self._entries))
        self._target.delete(PROGRESS)
        self._target.put(MANIFEST, canonical_json(manifest))
        return manifest

    def _read(self, path: str) -> Mapping[str, Any] | None:
        """Return what a manifest or a note of progress says; None where there is none, or it is torn.

        Raises:
            OutputError: it is that of something else.
        """
        data = self._target.get_many([path]).get(path)
        try:
            found = json.loads(data) if data is not None else None
        except ValueError:
            return None
        if not isinstance(found, Mapping):
            return None
        source = found.get("source")
        digest = source.get("digest") if isinstance(source, Mapping) else None
        wanted = self._head["source"]["digest"]
        if found.get("kind") == self._head["kind"] and digest == wanted:
            return found
        what = f"{found.get('kind', 'something else')}, dataset digest {str(digest)[:12]}"
        raise OutputError(
            f"{self._target.uri}: {path} is of another export ({what}), and this is one of {self._head['kind']}, "
            f"dataset digest {wanted[:12]}; name another place, or remove that export first"
        )

    def _same(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and all(found.get(name) == value for name, value in self._head.items())

    def _whole(self, manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if manifest is None or not self._same(manifest):
            return None
        files = self._files(manifest)
        if not files or len(files) > 1000:
            there = {e.path: e.bytes for e in self._target.entries("")}
            whole = bool(files) and all(there.get(e.path) == e.bytes for e in files)
        else:
            whole = all(self._target.size(e.path) == e.bytes for e in files)
        return dict(manifest) if whole else None

    def _files(self, found: Mapping[str, Any] | None) -> list[FileEntry]:
        """Return the files that a manifest or a note of this very export lists."""
        if found is None or not self._same(found):
            return []
        try:
            return [FileEntry(f["path"], f["sha256"], f["bytes"]) for f in found["files"]]
        except (KeyError, TypeError):
            return []

    def _kept(self, paths: Sequence[str]) -> list[FileEntry] | None:
        """Return the entries of a part whose files all stand as they were written, else None."""
        known = [self._known[p] for p in paths if p in self._known]
        return known if len(known) == len(paths) and all(stands(self._target, e) for e in known) else None

    def _note(self) -> None:
        files = _digest_list(list(self._known.values()))["files"]
        note = canonical_json(self._head | {"unfinished": True, "files": files})
        if self._target.get_many([PROGRESS]).get(PROGRESS) != note:
            self._target.put(PROGRESS, note)


def _digest_list(entries: Sequence[FileEntry]) -> dict[str, Any]:
    ordered = sorted(entries)
    lines = "".join(f"{e.path} {e.sha256}\n" for e in ordered)
    return {
        "files": [{"path": e.path, "sha256": e.sha256, "bytes": e.bytes} for e in ordered],
        "digest": sha256_hex(lines.encode()),
    }
