"""Merging: sources are opened and held against each other, and the recipe of what they become is put together."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.components import COMPONENTS
from jobs.wiring.parts import build, full_model
from jobs.wiring.sessions import session_on
from jobs.wiring.sets import open_side
from pipeline.domain.errors import OutputError, SpaceMismatchError, StoreError, UserError
from pipeline.domain.merged_recipe import merged_of
from pipeline.domain.privacy import holds_people
from pipeline.domain.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from pipeline.domain.ports import Observer, Store
    from pipeline.execute.run import Published
    from pipeline.execute.stop import Stop
    from pipeline.flow.diff import Side
    from pipeline.flow.merging.merge import Source

OF_THE_FIRST = ("balance", "conditions", "twins")
"""Sections that a merged recipe has where all sources have the same; else as if they were not given."""


@dataclasses.dataclass(frozen=True, slots=True)
class MergeRequest:
    """How to merge.

    Attributes:
        name: of the merged dataset; None for the names of the sources, joined.
        judge: the recogniser that all sources have, as judge or added; None where their judges are one.
        on_collision: what becomes of the later of two identities that collide: drop, keep or refuse.
        copy_bits: in how many bits the perceptual hashes of copies differ at most.
    """

    name: str | None = None
    judge: str | None = None
    on_collision: str = "drop"
    copy_bits: int = 2


def merge_datasets(
    uris: Sequence[str], out: str, wanted: MergeRequest, observer: Observer, *, stop: Stop | None = None
) -> Published:
    """Merge the datasets at `uris`, each `URI` or `URI@v000001`, into one at `out`.

    Raises:
        UserError: the sources do not fit each other.
        LeaseHeldError: a run is at work at `out`.
    """
    from pipeline.adapters.stores import open_store

    sides = [open_side(uri) for uri in uris]
    place = _real(open_store(out, writable=False).uri)
    if same := [s.uri for s in sides if _real(s.store.uri) == place]:
        raise OutputError(f"--out {out}: is the source {same[0]} itself; name a place of its own")
    if near := [s.uri for s in sides if _one_in_the_other(_real(s.store.uri), place)]:
        # whoever erases from the outer one, or deletes it, would mean the inner one too, or miss it
        raise OutputError(f"--out {out}: lies inside the source {near[0]}, or around it; name a place of its own")
    return merge_on(sides, open_store(out), wanted, observer, stop=stop)


def _real(uri: str) -> str:
    """Return a folder's address without links and dots; any other address as it is."""
    return str(Path(uri).resolve()) if Path(uri).is_absolute() else uri


def _one_in_the_other(one: str, other: str) -> bool:
    short, long = sorted((f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"), key=len)
    return long.startswith(short)


def merge_on(
    sides: Sequence[Side], store: Store, wanted: MergeRequest, observer: Observer, *, stop: Stop | None = None
) -> Published:
    """Do as `merge_datasets` does, on stores that are open already."""
    from pipeline.adapters.segments.plain import ParquetTables
    from pipeline.execute.inline import InlineExecutor
    from pipeline.execute.merging import Merging, merge
    from pipeline.execute.stop import Stop
    from pipeline.flow.erase.journal import require_none_unfinished
    from pipeline.flow.merging.copying import CopyingWorker
    from pipeline.flow.quarantine import Quarantine

    if len(sides) < 2:
        raise UserError("merge: needs two datasets or more; name them one after the other, the one that stays first")
    for side in sides:
        # whoever is half erased is still in its newest version
        require_none_unfinished(side.store)
    recipes = [_recipe_of(side) for side in sides]
    if real := [side.uri for side, recipe in zip(sides, recipes, strict=True) if holds_people(recipe)]:
        raise UserError(
            f"merge: {real[0]} holds photographs of real people, whose labels are compared where they are curated; "
            "name the sources of all of them in one recipe of kind: curate"
        )
    _require_alike(sides, recipes)
    _require_wholes_of_all(sides)
    judges, judge = _judges(sides, recipes, wanted.judge)
    raw = _merged_recipe(sides, recipes, judges, judge, wanted)
    recipe = parse_recipe(full_model(), raw, "merge")
    sources = _sources(sides, judges, twins=bool(recipe.twins), cells=bool(recipe.balance.by))
    added, said = _additions(sides, sources)
    asked = stop or Stop()
    session = session_on(recipe, store, observer, stop=asked)
    try:
        tables = ParquetTables()
        worker = functools.partial(CopyingWorker, session.parts, sources, tables, added)
        executor = InlineExecutor(worker, stop=asked, quarantine=Quarantine(store, session.parts.clock))
        session = dataclasses.replace(session, executor=executor)
        settings = merged_of(recipe)
        assert settings is not None
        models = _models(sides, session.models)
        run = Merging(session, sources, settings, tables, said, models)
    except BaseException:
        session.lease.release()
        raise
    return merge(run)


def _recipe_of(side: Side) -> Recipe:
    return parse_recipe(full_model(), side.step["recipe"], f"the recipe of {side.uri}")


def _require_wholes_of_all(sides: Sequence[Side]) -> None:
    """Refuse a source that has whole pictures of some images only, as what was merged of several may."""
    from pipeline.flow.wholes import KEPT

    for side in sides:
        kept, images = int(side.manifest.counts.get(KEPT, 0)), int(side.manifest.counts["images"])
        if 0 < kept < images:
            raise UserError(
                f"{side.uri}: keeps the whole pictures of {kept:,} of its {images:,} images, and a source has those of "
                "all or of none; merge the datasets that it was merged from instead"
            )


def _require_alike(sides: Sequence[Side], recipes: Sequence[Recipe]) -> None:
    """Refuse images that no one recogniser could read: of other sizes, or aligned otherwise."""
    from pipeline.adapters.segments import Segments
    from pipeline.domain.manifest import segment_path
    from pipeline.flow.versions import image_rows

    shapes: list[tuple[int, ...]] = []
    for side, recipe in zip(sides, recipes, strict=True):
        first = image_rows(Segments(), side.store, side.manifest)[0]
        path = segment_path(first.segment, "tar")
        try:
            data = side.store.get_range(path, first.offset, first.length)
            shapes.append(build("encoding", recipe.encoding).decode(data).shape)
        except FileNotFoundError:
            raise StoreError(f"{side.uri}: {path}: missing; look with `facemint verify`") from None
        except ValueError as error:
            raise StoreError(f"{side.uri}: {first.key}: {error}; look with `facemint verify --deep`") from None
    spaces = [build("judge", r.judge).space for r in recipes]
    for n in range(1, len(sides)):
        if shapes[n] != shapes[0]:
            sizes = [f"{shape[1]} x {shape[0]} px" for shape in (shapes[n], shapes[0])]
            raise UserError(
                f"{sides[n].uri}: its images are {sizes[0]}, those of {sides[0].uri} {sizes[1]}; one dataset has one "
                "size: export one of them in the other's size and use the exports side by side"
            )
        if spaces[n].alignment != spaces[0].alignment:
            raise UserError(
                f"{sides[n].uri}: its faces are aligned to {spaces[n].alignment!r}, those of {sides[0].uri} to "
                f"{spaces[0].alignment!r}; one dataset has one alignment"
            )


def _judges(sides: Sequence[Side], recipes: Sequence[Recipe], name: str | None) -> tuple[list[str], Mapping[str, Any]]:
    """Return the side-car that each source's embeddings come from, "" for its own judge's, and the common judge.

    Raises:
        UserError: the sources have no recogniser in common.
    """
    from pipeline.adapters.segments import Segments
    from pipeline.flow.sidecars import additions

    own = [build("judge", r.judge).space for r in recipes]
    if name is None and all(_same(own[0], space) for space in own):
        return [""] * len(sides), recipes[0].judge.model_dump(mode="json")
    wanted = name or recipes[0].judge.use
    if wanted not in COMPONENTS["judge"]:
        raise UserError(f"--judge {wanted}: no such recogniser; known: {', '.join(sorted(COMPONENTS['judge']))}")
    added = [additions(Segments(), s.store).get(wanted) for s in sides]
    lacking = [
        s.uri
        for s, r, a in zip(sides, recipes, added, strict=True)
        if r.judge.use != wanted and not (a or {}).get("space")
    ]
    if lacking:
        theirs = ", ".join(f"{s.uri}: {r.judge.use}" for s, r in zip(sides, recipes, strict=True))
        why = "not every source was read by that recogniser" if name else "the sources have no judge in common"
        raise UserError(f"{why} ({theirs}); run `facemint measure {lacking[0]} --add {wanted}`, then merge again")
    spaces = [
        space.to_dict() if r.judge.use == wanted else dict((a or {})["space"])
        for r, space, a in zip(recipes, own, added, strict=True)
    ]
    odd = [s.uri for s, space in zip(sides, spaces, strict=True) if {**space, "name": ""} != {**spaces[0], "name": ""}]
    if odd:
        raise UserError(
            f"{odd[0]}: its {wanted} has other weights than that of {sides[0].uri}; add the same to both with "
            f"`facemint measure ... --add {wanted} --replace`"
        )
    nodes = [
        r.judge.model_dump(mode="json") if r.judge.use == wanted else dict((a or {})["options"])
        for r, a in zip(recipes, added, strict=True)
    ]
    return ["" if r.judge.use == wanted else wanted for r in recipes], nodes[0]


def _same(one: Any, other: Any) -> bool:
    try:
        one.require_same(other, "")
    except SpaceMismatchError:
        return False
    return True


def _merged_recipe(
    sides: Sequence[Side],
    recipes: Sequence[Recipe],
    judges: Sequence[str],
    judge: Mapping[str, Any],
    wanted: MergeRequest,
) -> dict[str, Any]:
    """Return the first source's recipe as far as the others agree with it, and what is merged."""
    from pipeline.domain.merging import strictest_use

    every = [r.model_dump(mode="json") for r in recipes]
    first = every[0]
    raw = {k: v for k, v in first.items() if k not in ("exports", "leakage", "compute", "merged")}
    raw |= {"kind": "merge", "judge": dict(judge), "use": strictest_use([r["use"] for r in every])}
    raw["name"] = wanted.name or "-".join(dict.fromkeys(r["name"] for r in every))[:64].rstrip("-_")
    counts = [int(s.manifest.counts["identities"]) for s in sides]
    images = max(int(r["identities"]["images_per_identity"]) for r in every)
    raw["identities"] = {**first["identities"], "count": sum(counts), "images_per_identity": images}
    alike = {k: all(r[k] == first[k] for r in every) for k in (*OF_THE_FIRST, "measures")}
    raw["measures"] = [m for m in first["measures"] if all(m in r["measures"] for r in every)]
    for name in OF_THE_FIRST:
        if not alike[name]:
            raw.pop(name)
    # cells are those of one reading of one set of attributes, or nobody's
    by = [r["balance"]["by"] for r in every]
    raw["balance"] = _balance(sides, by[0]) if by[0] and alike["measures"] and all(b == by[0] for b in by) else {}
    common = [f for f in first["filters"] if all(f in r["filters"] for r in every)]
    # galleries stay with their sources, and a filter of cells has nothing to say where there are none
    silent = {"leakage"} if raw["balance"] else {"leakage", "cell-agreement"}
    # thresholds are those of the judge by whom the verdicts were given
    raw["filters"] = [] if any(judges) else [f for f in common if f["use"] not in silent]
    auditor = next((r["auditor"] for r in every if r["auditor"]["use"] != judge["use"]), None)
    if auditor is None:
        raise UserError(
            f"--judge {judge['use']}: is the auditor of every source, and an auditor decides nothing; choose another"
        )
    raw["auditor"] = auditor
    raw["compute"] = {"executor": "inline"}
    raw["merged"] = {
        "sources": [
            {"name": s.manifest.name, "version": s.manifest.version, "digest": s.manifest.digest, "judge": judge_}
            for s, judge_ in zip(sides, judges, strict=True)
        ],
        "on_collision": wanted.on_collision,
        "copy_bits": wanted.copy_bits,
    }
    return raw


def _balance(sides: Sequence[Side], by: Sequence[str]) -> dict[str, Any]:
    """Return what is asked of cells: as many of each as the sources have together."""
    reached: Counter[str] = Counter()
    for side in sides:
        reached.update({row["cell"]: int(row["reached"]) for row in side.manifest.figures["balance"]["cells"]})
    total = reached.total()
    return {"by": list(by), "shares": {cell: n / total for cell, n in sorted(reached.items()) if n}}


def _sources(sides: Sequence[Side], judges: Sequence[str], *, twins: bool, cells: bool) -> list[Source]:
    """Return the sources; ordinals of each begin where those of the one before end."""
    from pipeline.adapters.segments import Segments
    from pipeline.flow.commit import enrolled_paths
    from pipeline.flow.merging.merge import Source
    from pipeline.flow.versions import image_rows, published_rows

    out, offset = [], 0
    for side, judge in zip(sides, judges, strict=True):
        segments, read = Segments(), published_rows if twins else image_rows
        rows = read(segments, side.store, side.manifest)
        if not cells:
            rows = [dataclasses.replace(r, cell="all") for r in rows]
        out.append(Source(side.store, segments, side.manifest, tuple(rows), offset, judge))
        members = (
            m
            for path in enrolled_paths(side.store, side.manifest.generation + 1)
            for m in segments.read_members(side.store, path)
        )
        # those in reserve keep their numbers, so that nobody here has one that the source may yet publish
        offset += 1 + max((m.ordinal for m in members), default=-1)
    return out


def _additions(sides: Sequence[Side], sources: Sequence[Source]) -> tuple[frozenset[str], list[dict[str, Any]]]:
    """Return the measures that were added to every source, and per source what is left out of what it has."""
    from pipeline.flow.sidecars import additions, stored_measures

    added = [{m for about in additions(s.segments, s.store).values() for m in about["measures"]} for s in sources]
    stored = []
    for source in sources:
        try:
            stored.append(set(stored_measures(source.segments, source.store)))
        except FileNotFoundError as error:
            raise StoreError(f"{source.store.uri}: {error}: missing; look with `facemint verify`") from None
    common = frozenset.intersection(*(frozenset(a | b) for a, b in zip(added, stored, strict=True)))
    said = [
        {
            "measures_left_out": sorted(a - common),
            "twins_left_out": int(side.manifest.counts.get("twins", 0)) - (len(s.rows) - len(s.images)),
        }
        for side, s, a in zip(sides, sources, added, strict=True)
    ]
    return common, said


def _models(sides: Sequence[Side], mine: Mapping[str, Any]) -> dict[str, Any]:
    """Return every model that had a part: under its role where it is the merged recipe's, else named per source."""
    out = dict(mine)
    names = [s.manifest.name for s in sides]
    for side in sides:
        manifest = side.manifest
        name = manifest.name if names.count(manifest.name) == 1 else f"{manifest.name} {manifest.digest[:8]}"
        for role, card in manifest.models.items():
            if out.get(role) != card:
                out[f"{role} of {name}"] = card
    return out
