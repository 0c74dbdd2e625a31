"""Proving: the lineage of one image of a dataset, by its key or by its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.wiring.local_files import LARGEST_IMAGE_bytes, UnreadableError, read_whole
from jobs.wiring.parts import full_model
from jobs.wiring.signing import sidecar_path, signature_on
from pipeline.domain.errors import StoreError, UserError
from pipeline.domain.recipe import parse_recipe

if TYPE_CHECKING:
    from pipeline.domain.manifest import Manifest
    from pipeline.domain.ports import Store
    from pipeline.flow.proving.proof import Asked, Link, Witness


def prove_image(uri: str, key: str | None, file: str | None) -> dict[str, Any]:
    """Return what `facemint prove` shows of the image with this key, or with the bytes of this file.

    Raises:
        UserError: neither or both are given, the file cannot be read, or the dataset knows no such image.
        OutputError: no dataset is there.
    """
    from pipeline.adapters.stores import open_store

    if (key is None) == (file is None):
        raise UserError("give either the KEY of an image, such as i00000012-s0007-a02, or --file with an exported one")
    return prove_on(open_store(uri, writable=False), key, _bytes_of(file) if file else b"", file or "")


def prove_on(store: Store, key: str | None, data: bytes = b"", name: str = "") -> dict[str, Any]:
    """Return the proof of an image of a dataset on a store that is open already; without a key, of these bytes."""
    from jobs.examine import require_dataset
    from pipeline.flow.proving.prove import key_of, prove

    require_dataset(store)
    witness = witness_of(store)
    found = key if key is not None else key_of(witness, data, name)
    return {"uri": store.uri, **({"file": name} if name else {}), **prove(witness, found).to_dict()}


def witness_of(store: Store) -> Witness:
    """Return what proofs of a dataset's images are made with."""
    from pipeline.adapters.codec import source_type
    from pipeline.adapters.segments import Segments
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.flow.ledger import read_ledger
    from pipeline.flow.proving.proof import Witness

    return Witness(
        store,
        Segments(),
        read_ledger(store),
        lambda generation: _asked(store, generation),
        source_type,
        lambda manifest: _signature(store, manifest),
        ParquetTables(),
    )


def _signature(store: Store, manifest: Manifest) -> Link | None:
    """Return the link of a version's signature; None where it is not signed."""
    from pipeline.flow.proving.proof import Check, Link

    path = sidecar_path(manifest.version)
    if store.size(path) is None:
        return None
    try:
        found = signature_on(store, manifest.version)
    except UserError as error:
        return Link(f"signature in {path}", {"checked": False, "why": str(error)})
    except StoreError as error:
        return Link(f"signature in {path}", {}, (Check(path, False, str(error)),))
    said = f"by {found['signer']}" if found["ok"] else "; ".join(found["failures"]) or found["state"]
    facts = {name: found[name] for name in ("state", "signer", "time")}
    return Link(f"signature in {path}", facts, (Check("signature of the manifest", found["ok"], said),))


def _asked(store: Store, generation: int) -> Asked:
    from pipeline.execute.generations import is_begun, read_step, recipe_path
    from pipeline.flow.proving.proof import Asked

    path = recipe_path(generation)
    if not is_begun(store, generation):
        raise StoreError(f"{path}: missing; restore it from a copy")
    raw = read_step(store, generation)
    return Asked(
        recipe=parse_recipe(full_model(), raw["recipe"], path),
        fingerprint=str(raw["fingerprint"]),
        plan_digest=str(raw.get("plan_digest")),
        fields=raw["fingerprint_fields"],
        plan_fields=raw["plan_fields"],
    )


def _bytes_of(file: str) -> bytes:
    try:
        return read_whole(file, LARGEST_IMAGE_bytes, "give an image file")
    except UnreadableError as error:
        raise UserError(f"--file {file}: {error}") from None
