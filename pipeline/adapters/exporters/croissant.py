"""Croissant 1.1 of an export: `croissant.json`, whose record sets mlcroissant iterates in the export's folder.

`labels` says whose each label is, in every export that has the table. `images` is key, label and picture, of the forms
whose files programs can look into: Parquet shards, WebDataset tars, a folder of images. mlcroissant unpacks tars whole
and remembers what it unpacked by content URL alone, so the URL of a tar leads through a folder that is named by the
export's digest and holds the list of digests; with and without that folder it means the same place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.domain.croissant_terms import CONTEXT, extract, record_set
from pipeline.domain.licences import licence_of
from pipeline.domain.manifest import FileEntry, sha256_hex

NAME = "croissant.json"
SUMS = "files.sha256"
LABELS = "labels.parquet"
"""As `notes` has it, which imports what imports this."""
MOST_FILES = 1000
"""Exports of more files describe them by patterns, and tars, which would all be unpacked, not as images."""
_KINDS = {
    "parquet": "application/x-parquet",
    "tar": "application/x-tar",
    "jpg": "image/jpeg",
    "json": "application/json",
}
_KEY = ("sc:Text", "Name of the image, unique within the dataset")
_LABEL = ("sc:Integer", "Class label of the export, 0 upwards")
_IMAGE = ("sc:ImageObject", "The face, RGB")
_MADE, _PERSON = "Number of the synthetic identity at enrolment", "Number of the person at enrolment"
_LABEL_COLUMNS = {
    "label": _LABEL,
    "identity": ("sc:Integer", _MADE),
    "version_label": ("sc:Integer", "Label of that identity in the version"),
    "cell": ("sc:Text", "Perceived attributes of the identity, estimated by a model"),
    "images": ("sc:Integer", "How many images of it the export has"),
}


def croissant_of(head: Mapping[str, Any], entries: Sequence[FileEntry]) -> dict[str, bytes]:
    """Return path -> bytes of what describes an export to programs; equal arguments give equal bytes.

    Args:
        head: what the export's manifest begins with; `licence`, where the dataset states one.
        entries: its files.
    """
    source, stated = head["source"], head.get("licence")
    files = sorted(entries)
    lines = "".join(f"{f.sha256}  {f.path}\n" for f in files).encode()
    folder = sha256_hex(lines)[:16]
    objects, sets, out = _described(head["kind"], files, folder, wholes=bool(head.get("whole_pictures")))
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{source['name']} {source['version']} as {head['kind']}",
        "description": (
            f"{head['num_images']} face images of {head['num_classes']} synthetic identities, with dense labels, "
            f"exported from the dataset with digest {source['digest']}. Every image was generated."
        ),
        "conformsTo": ["http://mlcommons.org/croissant/1.1"],
        "version": f"{int(source['version'].removeprefix('v'))}.0.0",
        "license": licence_of(stated).url if stated else "not stated by its maker",
        "keywords": ["face recognition", "synthetic", "image classification"],
        "isLiveDataset": False,
        "distribution": objects,
        "recordSet": sets,
    }
    if head.get("real_people"):
        described["description"] = (
            f"{head['num_images']} photographs of the faces of {head['num_classes']} real people, with dense labels, "
            f"exported from the dataset with digest {source['digest']}."
        )
        described["keywords"] = ["face recognition", "image classification"]
    said = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    text = (said.replace(_MADE, _PERSON) if head.get("real_people") else said).encode()
    return {NAME: text, **({f"{folder}/{SUMS}": lines} if out else {})}


def _described(
    kind: str, files: Sequence[FileEntry], folder: str, *, wholes: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """Return file objects and sets, record sets, and whether a URL leads through the folder of digests."""
    paths = {f.path for f in files}
    tars = [f for f in files if f.path.endswith(".tar")] if kind == "webdataset" else []
    shown = files if len(files) <= MOST_FILES else [f for f in files if f.path in (LABELS, "metadata.parquet")]
    objects = [_object(f, folder if f in tars else "") for f in shown]
    sets: list[dict[str, Any]] = []
    if kind == "hf":
        objects.append(_set("shards", "data/train-*.parquet", "parquet", "Shards of images with their labels"))
        sets.append(_of_shards())
    elif kind == "webdataset" and tars and len(files) <= MOST_FILES:
        for name, glob, suffix, text in _members(wholes=wholes):
            contained = {"containedIn": [{"@id": f.path} for f in tars]}
            objects.append(_set(name, glob, suffix, text) | contained)
        sets += _joined(_from_name("classes", "cls"), {"fileSet": {"@id": "classes"}, **_content()})
        sets += [_whole_pictures()] if wholes else []
    elif kind == "imagefolder":
        objects.append(_set("jpegs", "*/*.jpg", "jpg", "The images, a folder for each label"))
        table = {name: extract("fileObject", "metadata.parquet", "column", name) for name in ("key", "label")}
        sets += _joined(table["key"], table["label"])
    if LABELS in paths:
        columns = {n: (*about, extract("fileObject", LABELS, "column", n)) for n, about in _LABEL_COLUMNS.items()}
        table = record_set("labels", "Whose each label is", columns)
        sets.append(table | {"key": {"@id": "labels/label"}})
    # mlcroissant could not make `images` after `files` from one object, and checkers read record sets in their order
    sets.sort(key=lambda one: one["name"] == "files")
    return objects, sets, bool(tars) and shown is files


def _members(*, wholes: bool) -> list[tuple[str, str, str, str]]:
    """Return name, glob, suffix and description of the sets of files in a WebDataset tar."""
    # a key ends in a digit, and so not as a whole picture's name does before its last suffix
    images = "*[0-9].jpg" if wholes else "*.jpg"
    sets = [("jpegs", images, "jpg", "The images"), ("classes", "*.cls", "cls", "Their labels in decimal")]
    return [*sets, *([("wholes", "*.whole.jpg", "jpg", "What they were cut from")] if wholes else [])]


def _whole_pictures() -> dict[str, Any]:
    key = extract("fileSet", "wholes", "fileProperty", "filename") | {"transform": {"regex": "^(.+)\\.whole\\.jpg$"}}
    whole = ("sc:ImageObject", "The picture that the face was cut from, RGB, of no alignment")
    columns = {"key": (*_KEY, key), "image": (*whole, {"fileSet": {"@id": "wholes"}, **_content()})}
    return record_set("whole_pictures", "The picture that each image was cut from", columns)


def _object(entry: FileEntry, folder: str) -> dict[str, Any]:
    suffix = entry.path.rpartition(".")[2]
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": f"{folder}/../{entry.path}" if folder else entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": _KINDS.get(suffix, "application/octet-stream"),
        "sha256": entry.sha256,
    }


def _set(name: str, glob: str, suffix: str, text: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": f"{text}; manifest.json has the digest of each file",
        "encodingFormat": _KINDS.get(suffix, "text/plain"),
        "includes": glob,
    }


def _of_shards() -> dict[str, Any]:
    columns = {"key": _KEY, "label": _LABEL, "identity": _LABEL_COLUMNS["identity"], "cell": _LABEL_COLUMNS["cell"]}
    fields = {n: (*about, extract("fileSet", "shards", "column", n)) for n, about in columns.items()}
    picture = extract("fileSet", "shards", "column", "image") | {"transform": {"jsonPath": "bytes"}}
    return record_set("images", "Images with whose they are", {**fields, "image": (*_IMAGE, picture)})


def _joined(key: dict[str, Any], label: dict[str, Any]) -> list[dict[str, Any]]:
    """Return `images`, joined from the keys with their labels and the pictures by name, and the two it is made of."""
    classes = record_set("classes_by_key", "The label of each image", {"key": (*_KEY, key), "label": (*_LABEL, label)})
    picture = {"fileSet": {"@id": "jpegs"}, **_content()}
    files = record_set(
        "files", "The picture of each image", {"key": (*_KEY, _from_name("jpegs", "jpg")), "image": (*_IMAGE, picture)}
    )
    images = record_set(
        "images",
        "Images with their labels",
        {
            "key": (*_KEY, {"field": {"@id": "classes_by_key/key"}}),
            "label": (*_LABEL, {"field": {"@id": "classes_by_key/label"}}),
            "image": (*_IMAGE, {"field": {"@id": "files/image"}}),
        },
    )
    images["field"][0]["references"] = {"field": {"@id": "files/key"}}
    return [images, classes, files]


def _from_name(files: str, suffix: str) -> dict[str, Any]:
    return extract("fileSet", files, "fileProperty", "filename") | {"transform": {"regex": f"^(.+)\\.{suffix}$"}}


def _content() -> dict[str, Any]:
    return {"extract": {"fileProperty": "content"}}
