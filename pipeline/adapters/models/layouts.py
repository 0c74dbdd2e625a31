"""One network, several ways of naming its tensors: the names asked for are found in files of older and newer tools.

Known differences: a group around the network (`state_dict.`, `module.`, `model_vec2face.`, `features.module.`); the
prefix `text_model.` of CLIP's text model, which transformers 5 dropped; the attention of old diffusers' VAEs (`query`
for `to_q`); `position_ids` and step counters, which some tools store and others leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.domain.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]
_RENAMED = (
    (re.compile(r"(^|\.)text_model\."), r"\1"),
    (re.compile(r"(\.attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(\.attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(\.attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(\.attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
)
_DERIVED = ("position_ids", "num_batches_tracked")
"""Leaves that hold no weights: they follow from their shape, and files may leave them out."""


def resolved(have: Shapes, wanted: Shapes, what: str) -> dict[str, str | None]:
    """Return wanted name -> the file's name of the same tensor; None where it is left out and follows from its shape.

    Args:
        have: name -> shape of what the file holds.
        wanted: name -> shape of what the network needs.
        what: how messages name the file.

    Raises:
        ModelError: a tensor is missing, of another shape, or the file holds two networks that would both fit.
    """
    mine = {plain(name): name for name in have}
    groups = [group for group in _groups(mine, wanted) if not _missing(mine, wanted, group)]
    if not groups:
        best = min(_groups(mine, wanted) or [""], key=lambda group: len(_missing(mine, wanted, group)))
        lacks = _missing(mine, wanted, best)
        raise ModelError(
            f"{what}: lacks {len(lacks):,} of the {len(wanted):,} tensors that this network has, {lacks[0]} for one; "
            "these are weights of another model, or of another size of it"
        )
    if "" in groups:
        groups = [""]
    if len(groups) > 1:
        raise ModelError(
            f"{what}: holds several networks that fit ({', '.join(g.rstrip('.') for g in groups)}); take one out: "
            f"facemint models convert {what} OUT.safetensors --section {groups[0].rstrip('.')}"
        )
    _require_no_more(mine, wanted, groups[0], what)
    found = {name: mine.get(groups[0] + plain(name)) for name in wanted}
    for name, theirs in found.items():
        if theirs is not None and tuple(have[theirs]) != tuple(wanted[name]):
            raise ModelError(
                f"{what}: {theirs} has shape {tuple(have[theirs])}, this network's has {tuple(wanted[name])}; these "
                "are weights of another size or version of the model"
            )
    return found


def _require_no_more(mine: Mapping[str, str], wanted: Shapes, group: str, what: str) -> None:
    """Refuse a file with more layers than the network: a shallow one would load from a deep one's, and be garbage."""
    asked = {plain(name) for name in wanted}
    patterns = {_unnumbered(name) for name in asked if _unnumbered(name) != name}
    for name in mine:
        inner = name.removeprefix(group)
        if name.startswith(group) and inner not in asked and not _derived(inner) and _unnumbered(inner) in patterns:
            raise ModelError(
                f"{what}: has layers that this network lacks, {mine[name]} for one; these are weights of a larger "
                "model: correct the size in the options"
            )


def _unnumbered(name: str) -> str:
    """Return a name without the numbers of its layers: `layer3.6.conv1.weight` as `layer3.#.conv1.weight`."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def plain(name: str) -> str:
    """Return the one name that we know a tensor by, whatever tool named it."""
    for pattern, ours in _RENAMED:
        name = pattern.sub(ours, name)
    return name


def _groups(mine: Mapping[str, str], wanted: Shapes) -> list[str]:
    """Return the prefixes, with their dot, under which the file has the first tensor that is asked for."""
    first = next((plain(name) for name in wanted if not _derived(name)), "")
    ends = f".{first}"
    found = [name.removesuffix(first) for name in mine if name.endswith(ends)]
    return ([""] if first in mine else []) + found


def _missing(mine: Mapping[str, str], wanted: Shapes, group: str) -> list[str]:
    return [name for name in wanted if group + plain(name) not in mine and not _derived(name)]


def _derived(name: str) -> bool:
    return name.rpartition(".")[2] in _DERIVED


__all__ = ["plain", "resolved"]
