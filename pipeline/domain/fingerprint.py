"""Fingerprint and plan digest: what may never change inside a dataset, and what may only grow.

The fingerprint covers whatever can change a sample's bytes or its verdicts: components with their options, weights
digests and epochs, seed, attempts, conditions, batch shapes, unit size and window, encoding. The plan digest adds
counts and targets. Name, use, auditor, exports, previews, compute and our package version are in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.domain.manifest import canonical_json, sha256_hex
from pipeline.domain.recipe import Recipe

NOT_FINGERPRINTED = (
    "kind", "name", "use", "auditor", "exports", "previews", "compute", "balance", "rounds",
    "identities.count", "identities.images_per_identity", "enrol.reserve", "enrol.rounds", "enrol.budget",
    "identities.bank.path", "identities.sampler.path",  # their digests are, as those of components
    "identities.map.path", "align.detector.path", "align.detector.licence", "align.detector.commercial",
    "sources", "curate.review",
    "identities.sampler.licence", "identities.sampler.real_people", "identities.sampler.lawful_basis",
)  # fmt: skip
NO_BYTES = (".stop_above", ".device")
"""Options that say when a run stops, and on what a model computes: the device kind, which receipts state, says that."""
ABSENT: Mapping[str, Any] = {
    "twins": [], "align": None, "align.keep_whole": False, "identities.map": None, "enrol.mode": "refuse",
    "rehearsal": False, "generator.optimise.yaw": None,
}  # fmt: skip
"""What keys say that recipes did not always have, where they change nothing: left out, so that what was made before
there were any keeps its fingerprint."""
SCREENED_BY = ("source", "licence", "lawful_basis", "control", "keep_pairs")
"""Of `leakage`: where galleries lie and what is kept. What they hold is fingerprinted, by digest."""
NAMED_BY_DIGEST = (".calibration.file", ".calibration.content")
"""Of a recogniser's calibration file: its digest, which is beside them, is fingerprinted instead."""
PLANNED = (
    "identities.count", "identities.images_per_identity", "balance", "rounds", "enrol.reserve", "enrol.rounds",
    "enrol.budget",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prints:
    """The two digests, with the flat fields they were computed from so that a difference can be named."""

    fingerprint: str
    plan_digest: str
    fields: Mapping[str, Any]
    plan_fields: Mapping[str, Any]


def prints_of(recipe: Recipe, components: Mapping[str, Any]) -> Prints:
    """Return fingerprint and plan digest.

    Args:
        recipe: the resolved recipe, defaults filled in.
        components: per component role: weights digest and epoch, as the cards state them.
    """
    flat = _flatten(recipe.model_dump(mode="json"))
    fields = {k: v for k, v in flat.items() if not _under(k, NOT_FINGERPRINTED) and not k.endswith(NO_BYTES)}
    fields = {k: v for k, v in fields.items() if _decides(k, screens=bool(recipe.leakage.galleries))}
    fields = {k: v for k, v in fields.items() if not _names_calibration(k, v) and not _states_percentiles(k)}
    fields = {k: v for k, v in fields.items() if k not in ABSENT or v != ABSENT[k]}
    fields = {k: v for k, v in fields.items() if not _names_weights(k, flat)}
    fields |= {f"model.{k}": v for k, v in _flatten(components).items()}
    fingerprint = sha256_hex(canonical_json(fields))
    plan_fields = {k: v for k, v in flat.items() if _under(k, PLANNED)}
    plan = sha256_hex(canonical_json({"fingerprint": fingerprint, "plan": plan_fields}))
    return Prints(fingerprint, plan, fields, plan_fields)


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return one phrase per field that differs: `generator.steps 8 instead of 4`."""
    names = sorted(mine.keys() | theirs.keys())
    return [
        f"{name} {_show(mine.get(name))} instead of {_show(theirs.get(name))}"
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _show(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text[:16] + "..." if len(text) > 24 else text


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}{name}.").items()}
    if isinstance(value, list | tuple) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flatten(inner, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): value}


def _decides(name: str, *, screens: bool) -> bool:
    """Return whether a field of `leakage` decides anything; without a gallery only that there is none does."""
    if not name.startswith("leakage."):
        return True
    return name.rpartition(".")[2] not in SCREENED_BY if screens else name == "leakage.galleries"


def _names_calibration(name: str, value: Any) -> bool:
    """Return whether a field says where a calibration came from, or that a recogniser has the one it ships with."""
    inside = any(part in name + "." for part in (f"{end}." for end in NAMED_BY_DIGEST))
    return inside or (name.endswith(".calibration") and value is None)


def _states_percentiles(name: str) -> bool:
    """Return whether a field is of a measure's percentiles: the digest on its card covers the quantiles."""
    slot, _, rest = name.partition(".")
    return slot == "measures" and rest.partition(".")[2].partition(".")[0] == "percentiles"


def _names_weights(name: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a field says where weights lie, or which they are: the digest on their component's card does."""
    root, _, leaf = name.rpartition(".")
    return leaf in ("uri", "sha256") and f"{root}.uri" in flat and f"{root}.sha256" in flat


def _under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)
