"""Labelled faces from a reference: a folder, a dataset, a file of embeddings, or the worlds whose truth is known."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from pipeline.domain.errors import UserError
from pipeline.domain.rng import KEY_LIMIT

if TYPE_CHECKING:
    from pipeline.domain.ports import Codec, LabelledFaces
    from pipeline.flow.labelled import LabelledPairs

WORLDS = {"phantom": ("renders", "phantom-112"), "sketch": ("faces", "sketch-32")}
"""Scheme -> what its reference names, and how its faces are aligned."""
_LIMITS = {
    "identities": (1, 10_000_000),
    "images": (1, 10_000),
    "seed": (0, KEY_LIMIT - 1),
    "first": (0, KEY_LIMIT - 1),
}
_DEFAULTS = {"identities": 1000, "images": 8, "seed": 0, "first": 0}
_EMBEDDINGS = (".npz", ".npy", ".parquet")


def open_labelled(reference: str, *, alignment: str, skip_unreadable: bool | None = None) -> LabelledFaces:
    """Return the labelled faces that a reference names.

    Args:
        reference: `phantom://renders?identities=1000&images=8&seed=7` (also `first=`, so that disjoint people come
            from one seed), `sketch://faces?...`, a file of embeddings (.npz, .npy, .parquet), a published dataset (a
            folder or address that holds `versions/`), an export of one as WebDataset or RecordIO, or a folder per
            identity of aligned images.
        alignment: the recogniser's (`recogniser.space.alignment`); it says how large its crops are.
        skip_unreadable: of a folder per identity, leave out images that cannot be read instead of stopping; None
            where the verb has no such option.

    Raises:
        UserError: what is there cannot be read as labelled faces of this alignment.
    """
    scheme = urlsplit(reference).scheme if "://" in reference else ""
    if scheme in WORLDS:
        return _world(scheme, reference, alignment)
    path = Path(reference).expanduser()
    if not scheme and path.suffix == ".bin":
        raise UserError(
            f"{reference}: a verification set holds pairs and says not who is on them; give faces with identities "
            "(calibrate alone takes pairs)"
        )
    if not scheme and path.suffix in _EMBEDDINGS and not path.is_dir():
        from pipeline.adapters.labelled.embeddings import EmbeddingFile

        return EmbeddingFile(path)
    exported = _exported(reference, alignment) if scheme or (path / "manifest.json").is_file() else None
    if exported is not None:
        return exported
    if scheme or any((path / part).is_dir() for part in ("versions", "receipts")):
        return _dataset(reference, alignment)
    from pipeline.adapters.labelled.folder import FolderFaces

    return FolderFaces(path, side_px=crop_px(alignment), skip_unreadable=skip_unreadable)


def open_pairs(reference: str, *, alignment: str) -> LabelledPairs:
    """Return the pairs of a verification set (.bin); raises UserError where it is none, or not of aligned crops."""
    from pipeline.adapters.labelled.exported import MANIFEST, manifest_in
    from pipeline.adapters.labelled.verification import VerificationPairs

    path = Path(reference).expanduser()
    beside = path.with_name(MANIFEST)
    manifest = manifest_in(beside.read_bytes()) if beside.is_file() else None
    if manifest is not None and manifest.get("crop_margin"):
        raise UserError(
            f"{reference}: its images show more than recognisers read, and a verification set is not cut; name the "
            "dataset itself, from which pairs are drawn"
        )
    return VerificationPairs(path, side_px=crop_px(alignment))


def holds_pairs(reference: str) -> bool:
    """Return whether a reference names a verification set."""
    return "://" not in reference and Path(reference).suffix == ".bin"


def crop_px(alignment: str) -> int:
    """Return the side of an alignment's crops, which its name ends with: `phantom-112` -> 112."""
    match = re.search(r"-(\d{2,4})$", alignment)
    if match is None:
        raise UserError(f"alignment {alignment!r} does not say how large its crops are; its name ends in -<pixels>")
    return int(match.group(1))


def _exported(uri: str, alignment: str) -> LabelledFaces | None:
    """Return the faces of an export that is read shard by shard; None of anything else."""
    from pipeline.adapters.codec import JpegCodec
    from pipeline.adapters.labelled.exported import KINDS, ExportedFaces, export_manifest
    from pipeline.adapters.stores import open_store

    store = open_store(uri, writable=False)
    manifest = export_manifest(store)
    margin = manifest.get("crop_margin") if manifest else None
    if manifest is None or manifest["kind"] not in KINDS:
        if manifest is not None and margin:
            raise UserError(
                f"{uri}: its images show more than recognisers read, and as {manifest['kind']} they are not cut; name "
                f"the dataset itself, or an export of it as {' or '.join(KINDS)}"
            )
        return None
    codec = JpegCodec() if margin is None else inner_view(JpegCodec(), margin, alignment)
    return ExportedFaces(store, codec, side_px=crop_px(alignment))


def inner_view(codec: Codec, margin: float, alignment: str) -> Codec:
    """Return a codec that reads an alignment's crops out of images that show a margin around them."""
    from pipeline.adapters.cropping import inner_crop
    from pipeline.flow.curating.view import InnerView

    return InnerView(codec, functools.partial(inner_crop, margin=margin, side_px=crop_px(alignment)))


def _dataset(uri: str, alignment: str) -> LabelledFaces:
    from jobs.wiring.measuring import dataset_recipe
    from jobs.wiring.parts import codec_of
    from pipeline.adapters.codec import JpegCodec
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.stores import open_store
    from pipeline.execute.generations import generations
    from pipeline.flow.labelled_dataset import DatasetFaces

    store = open_store(uri, writable=False)
    codec = codec_of(dataset_recipe(store), alignment) if generations(store) else JpegCodec()
    return DatasetFaces(store, Segments(), codec, side_px=crop_px(alignment))


def _world(scheme: str, reference: str, alignment: str) -> LabelledFaces:
    from pipeline.adapters.codec import JpegCodec

    place, aligned = WORLDS[scheme]
    parts = urlsplit(reference)
    if parts.netloc + parts.path != place or parts.fragment:
        raise UserError(f"{reference}: {scheme}:// has {scheme}://{place}?identities=1000&images=8&seed=7")
    if alignment != aligned:
        raise UserError(
            f"{reference}: its faces are aligned as {aligned} where the recogniser reads {alignment}; choose a "
            f"recogniser of the {scheme} world, or another source"
        )
    asked = _numbers(parts.query, reference)
    if scheme == "phantom":
        from pipeline.adapters.phantom.labelled import PhantomRenders

        return PhantomRenders(JpegCodec(), **asked)
    from pipeline.adapters.sketch import SketchFaces

    return SketchFaces(JpegCodec(), **asked)


def _numbers(query: str, reference: str) -> dict[str, int]:
    """Return the numbers that a reference asks for, defaults filled in."""
    asked = dict(_DEFAULTS)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _LIMITS:
            raise UserError(f"{reference}: unknown {name!r}; known: {', '.join(_LIMITS)}")
        low, high = _LIMITS[name]
        if not re.fullmatch(r"\d{1,12}", value) or not low <= int(value) <= high:
            raise UserError(f"{reference}: {name}={value}; a whole number from {low} to {high} is allowed")
        asked[name] = int(value)
    if asked["first"] + asked["identities"] > KEY_LIMIT:
        raise UserError(f"{reference}: first + identities is above {KEY_LIMIT}; ask for fewer")
    return asked
