"""Maps between spaces: two recognisers embed the same faces, an affine map is fitted, judged on others, and written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.wiring.banking import opened_place, require_said, written
from jobs.wiring.calibrating import described, recogniser_node
from jobs.wiring.labelled import open_labelled
from jobs.wiring.parts import build
from pipeline.domain.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.domain.space import Space
    from pipeline.flow.labelled import LabelledEmbeddings


def fit_space_map(
    reference: str,
    source: str,
    target: str,
    out: str,
    *,
    licence: str,
    lawful_basis: str,
    source_overrides: Sequence[str] = (),
    target_overrides: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> dict[str, Any]:
    """Fit a map to faces that both recognisers embed, write it, and return what it says of itself.

    Args:
        reference: labelled faces, as `open_labelled` takes them: images.
        source: the recogniser whose vectors there are, by name.
        target: the recogniser that the generator speaks.
        out: a local path ending in .safetensors.
        licence: of the faces.
        lawful_basis: on what ground they may be used.
        source_overrides: options of the source's recogniser, each `option=value`.
        target_overrides: options of the target's.
        skip_unreadable: of a folder per identity, leave out images that cannot be read.

    Raises:
        UserError: the faces, a recogniser or the place to write is no good, the spaces are one, or too few people.
    """
    from pipeline.adapters.machine import single_thread
    from pipeline.adapters.space_maps import map_bytes
    from pipeline.domain.banking import allows_commercial_use
    from pipeline.domain.space_map import fit_map

    require_said(licence, lawful_basis)
    path = opened_place(out)
    single_thread()
    from_space, mine, may_use = _embedded(reference, source, source_overrides, skip_unreadable)
    to_space, theirs, may_use_too = _embedded(reference, target, target_overrides, skip_unreadable)
    if from_space.weights_sha256 == to_space.weights_sha256 and from_space.norm == to_space.norm:
        raise UserError(f"--from {source} --to {target}: one space; vectors of it need no map")
    both = sorted(set(mine.names) & set(theirs.names))
    rows, same = ({name: n for n, name in enumerate(e.names)} for e in (mine, theirs))
    here, there = [rows[name] for name in both], [same[name] for name in both]
    labels = mine.labels_N[here]
    mapping = fit_map(from_space, mine.emb_NE[here], to_space, theirs.emb_NE[there], labels)
    facts = {
        "name": path.stem,
        "source": described(reference),
        "licence": licence,
        "lawful_basis": lawful_basis,
        "commercial_use": allows_commercial_use(licence) and may_use and may_use_too,
        "images": len(both),
        "identities": len(set(labels.tolist())),
        "unreadable": len(set(mine.unreadable) | set(theirs.unreadable)),
    }
    told = {**facts, "space": from_space.to_dict(), "target": to_space.to_dict(), "error": mapping.error.to_dict()}
    return written(path, map_bytes(mapping, facts), told)


def _embedded(
    reference: str, name: str, overrides: Sequence[str], skip_unreadable: bool
) -> tuple[Space, LabelledEmbeddings, bool]:
    """Return whose space it is, the embeddings of all faces, and whether the recogniser may be used commercially."""
    from pipeline.flow.labelled import embed_labelled

    node: Any = recogniser_node(name, overrides)
    reader = build("judge", node)
    source = open_labelled(reference, alignment=reader.space.alignment, skip_unreadable=skip_unreadable)
    return reader.space, embed_labelled(source, reader, node.batch), reader.card.commercial_use
