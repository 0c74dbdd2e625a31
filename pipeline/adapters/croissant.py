"""Croissant 1.1 with its RAI vocabulary: `croissant.json` of a version, which tells programs what is where.

Record sets: `index` is the index itself, a row per published image with the place of its bytes; `images` is key,
label, identity, cell and the picture, joined from `index` and `files`. mlcroissant iterates them in a dataset's folder.
It knows of no byte ranges: it unpacks every tar and holds every picture in memory. So `images` and a file object per
file stand in versions of up to `MOST_FILES` files; larger ones have globs and `index`, and leave pictures to exports.
Either way `manifest.json` has the digest of every file.

Two things about mlcroissant 1.1.1. It remembers what it has unpacked by content URL alone, and the segments of two
datasets have equal paths: it would hand out the pictures of the one as those of the other. So the URL of a tar leads
through a folder that is named by the dataset's digest and holds the list of digests; with and without that folder the
URL means the same place. And a `Dataset` object of it gives either `images` or `files`, once: make a new one for more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.domain.manifest import FileEntry

MOST_FILES = 1000
"""Versions of more files get no file object per file and no record set `images`."""
NAME = "croissant.json"
SUMS = "files.sha256"
_PARQUET, _TAR, _JPEG = "application/x-parquet", "application/x-tar", "image/jpeg"
_WHO = {
    "key": ("sc:Text", "Name of the image, unique within the dataset"),
    "label": ("sc:Integer", "Class label, dense; no later version changes it"),
    "identity": ("sc:Integer", "Number of the synthetic identity at enrolment"),
    "cell": ("sc:Text", "Perceived attributes of the identity, estimated by a model; all where none were asked for"),
}
_WHERE = {
    "segment": ("sc:Text", "The tar that holds the image: segments/<segment>.tar"),
    "offset": ("sc:Integer", "First byte of the JPEG within the tar"),
    "length": ("sc:Integer", "Bytes of the JPEG"),
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of Croissant 1.1, word for word, and the prefix of RAI 1.0."""


def croissant(facts: Mapping[str, Any], files: Sequence[FileEntry]) -> dict[str, bytes]:
    """Return file name below the version's folder -> bytes: `croissant.json` and, for small versions, `files.sha256`.

    Equal arguments give equal bytes; there is no time in them.

    Args:
        facts: fields of the manifest, as `card.dataset_card` takes them.
        files: segments and index of the version.
    """
    here = f"versions/{facts['version']}/"
    (index,) = (f for f in files if f.path.startswith(f"{here}index-"))
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{facts['name']} {facts['version']}",
        "description": _description(facts),
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "version": f"{int(facts['version'].removeprefix('v'))}.0.0",
        "license": facts["licence"],
        "keywords": ["face recognition", "synthetic", "image classification"],
        "isLiveDataset": False,
        **{f"rai:{name}": value for name, value in _rai(facts).items()},
    }
    distribution = [_file(index, PurePosixPath(index.path).name, _PARQUET)]
    out: dict[str, bytes] = {}
    small = len(files) <= MOST_FILES
    if small:
        folder = facts["digest"][:16]
        out[f"{folder}/{SUMS}"] = _sums(sorted(files))
        distribution += _objects([f for f in sorted(files) if f != index], folder)
    else:
        distribution += _globs()
    described |= {"distribution": distribution, "recordSet": _record_sets(index, small)}
    return {NAME: json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n", **out}


def _description(facts: Mapping[str, Any]) -> str:
    counts = facts["counts"]
    return (
        f"{counts['images']} face images of {counts['identities']} synthetic identities, with dense labels. Every "
        f"identity was sampled and every image generated by facemint. Dataset digest {facts['digest']}."
    )


# --------------------------------------------------------------------------------------------------------- files


def _file(entry: FileEntry, url: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": _id(entry),
        "name": _id(entry),
        "contentUrl": url,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": encoding,
        "sha256": entry.sha256,
    }


def _id(entry: FileEntry) -> str:
    return PurePosixPath(entry.path).name


def _objects(files: Sequence[FileEntry], folder: str) -> list[dict[str, Any]]:
    """Return a file object for every segment, and the set of the images in the tars."""
    tars = [f for f in files if f.path.endswith(".tar")]
    tables = [f for f in files if f.path.endswith(".parquet")]
    out = [_file(f, f"{folder}/../../../{f.path}", _TAR) for f in tars]
    out += [_file(f, f"../../{f.path}", _PARQUET) for f in tables]
    images = {
        "@type": "cr:FileSet",
        "@id": "jpegs",
        "name": "jpegs",
        "description": "Every accepted image, published or not: the index says which are",
        "containedIn": [{"@id": _id(f)} for f in tars],
        "encodingFormat": _JPEG,
        "includes": "*.jpg",
    }
    return [*out, images]


def _globs() -> list[dict[str, Any]]:
    sets = (
        ("tars", "../../segments/make-*.tar", _TAR, "Accepted images as WebDataset tars, without labels"),
        ("candidates", "../../segments/*.parquet", _PARQUET, "A row per candidate, the refused too: numbers, verdicts"),
    )
    return [
        {
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "description": f"{text}; manifest.json has the name and digest of each",
            "encodingFormat": encoding,
            "includes": glob,
        }
        for name, glob, encoding, text in sets
    ]


def _sums(files: Sequence[FileEntry]) -> bytes:
    """Return digests and paths below the dataset's root, as `sha256sum --check` reads them."""
    return "".join(f"{f.sha256}  {f.path}\n" for f in files).encode()


# ------------------------------------------------------------------------------------------------------- records


def _record_sets(index: FileEntry, with_images: bool) -> list[dict[str, Any]]:
    columns = _WHO | _WHERE
    sets = [_record_set("index", "Published images: whose each is and where its bytes are", {
        name: (*kind, _extract("fileObject", _id(index), "column", name)) for name, kind in columns.items()
    })]  # fmt: skip
    if not with_images:
        return sets
    names = _extract("fileSet", "jpegs", "fileProperty", "filename")
    files = _record_set("files", "Accepted images by key, those that are not published too", {
        "key": ("sc:Text", _WHO["key"][1], names | {"transform": {"regex": "^(.+)\\.jpg$"}}),
        "image": ("sc:ImageObject", "The face, RGB", _extract("fileSet", "jpegs", "fileProperty", "content")),
    })  # fmt: skip
    joined = {name: (*_WHO[name], {"field": {"@id": f"index/{name}"}}) for name in _WHO}
    images = _record_set("images", "Published images with whose they are and the picture", {
        **joined, "image": ("sc:ImageObject", "The face, RGB", {"field": {"@id": "files/image"}})
    })  # fmt: skip
    # mlcroissant joins from index to files: a file that the index does not name is left out
    images["field"][0]["references"] = {"field": {"@id": "files/key"}}
    # `files` comes last: checkers read record sets in their order, and after it mlcroissant could not make `images`
    return [*sets, images, files]


def _record_set(name: str, text: str, fields: Mapping[str, tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a record set keyed by `key`, of fields by name: type, description, source."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": text,
        "key": {"@id": f"{name}/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field}",
                "name": field,
                "description": about,
                "dataType": kind,
                "source": source,
            }
            for field, (kind, about, source) in fields.items()
        ],
    }


def _extract(kind: str, whence: str, how: str, what: str) -> dict[str, Any]:
    return {kind: {"@id": whence}, "extract": {how: what}}


# ----------------------------------------------------------------------------------------------- responsible AI


def _rai(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of RAI 1.0 that this run can fill truly; what is not known is said or left out."""
    counts, figures, models, use = facts["counts"], facts["figures"], facts["models"], facts["use"]
    make = counts["make"]
    attributes = ", ".join(figures.get("balance_fields", [])) or "none"
    leakage = figures.get("leakage", "not measured")
    sources = "; ".join(dict.fromkeys(f"{card['name']}: {card['source']}" for card in models.values()))
    grown = f"It grew from {facts['parent']}. " if facts["parent"] else ""
    return {
        "dataCollection": (
            f"Nothing was collected. Vectors were drawn from {models['bank']['name']}, kept apart, and enrolled "
            f"on probe images; {models['generator']['name']} made the images of each under stratified conditions."
        ),
        "dataCollectionType": ["Others"],
        "dataCollectionMissingData": (
            f"{counts['images']} of {counts['images_expected']} images and {counts['identities']} of "
            f"{counts['identities_expected']} identities that were asked for; {make['off_target']} images "
            f"missed their conditions and are marked; {len(counts['identities_short'])} identities are short of images."
        ),
        "dataPreprocessingProtocol": [
            f"{make['candidates']} candidate images were measured and judged as stored JPEG.",
            f"Refused: {make['refused']} ({_reasons(make['reasons'])}).",
            "Every candidate's numbers and verdicts are in the segments.",
        ],
        "dataAnnotationProtocol": [
            "A label is the identity that an image was made of; nobody assigned it.",
            f"Perceived attributes ({attributes}) are a model's estimates of appearance from probe images.",
        ],
        "machineAnnotationTools": [
            f"{role}: {card['name']}, SHA-256 {card['sha256']}" for role, card in models.items() if role != "bank"
        ],
        "dataBiases": _biases(figures.get("balance", [])),
        "dataLimitations": [
            "Identities are distinct under the recognisers named here; another may find two of them alike.",
            "Accuracy of a recogniser trained on this dataset: not measured.",
            f"Models reproduce the limits of what they were trained on. {sources}.",
        ],
        "dataUseCases": [
            f"As its maker states it: {use['purpose']}.",
            f"Made for commercial use: {'yes' if use['commercial'] else 'no'}.",
        ],
        "dataSocialImpact": "Not assessed. What is trained on synthetic faces can be used on real people.",
        "personalSensitiveInformation": [
            "None of real people: every identity was sampled and every image generated.",
            "Every image says so itself: IPTC digital source type trainedAlgorithmicMedia.",
            f"Likeness to real people (leakage): {leakage if isinstance(leakage, str) else 'screened'}.",
        ],
        "dataReleaseMaintenancePlan": (
            f"This is generation {facts['generation']}. {grown}A version never changes; a dataset grows by versions, "
            "which keep every label."
        ),
    }


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in reasons.items()) or "no reason"


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def _biases(balance: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence per cell, with the interval and the share adjusted for the reader's errors."""
    cells = [row for row in balance if row["cell"] != "all"]
    if not cells:
        return ["Shares of perceived attributes: not asked for and not measured."]
    said = []
    for row in cells:
        share, low, high, adjusted = map(_percent, (row["share"], *row["share_95"], row["adjusted_share"]))
        said.append(
            f"{row['cell']}: {row['reached']} identities of {row['asked']} asked for, {share} of all "
            f"(95 % interval {low} to {high}; adjusted for the attribute model's errors: {adjusted})"
        )
    return said
