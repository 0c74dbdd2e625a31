"""Do the parts that a recipe names fit each other? What the recipe's tree cannot see, found before any work is done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from pipeline.domain.balance import Targets, require_room
from pipeline.domain.conditions import Distribution
from pipeline.domain.cones import VECTOR_COS, names_for_generator, overlap_free_cos
from pipeline.domain.errors import CalibrationError, RecipeError, UserError
from pipeline.domain.labels import labellers, sourced
from pipeline.domain.licences import licence_of
from pipeline.domain.ports import Bank, Filter, Generator, IdentitySampler, Measurer, ModelCard, Recogniser
from pipeline.domain.recipe import Recipe


class FilterBuilder(Protocol):
    """Number of enrolled identities, and `planned` where they are yet to be -> a filter with its threshold resolved."""

    def __call__(self, enrolled: int, *, planned: bool = False) -> Filter:
        """Return the filter for so many."""
        ...


def check_use(recipe: Recipe, where: str, cards: Iterable[ModelCard]) -> None:
    """Refuse models that are not for commercial use where the dataset is, or where its licence says that it may be."""
    licence = licence_of(recipe.use.licence) if recipe.use.licence else None
    for card in cards:
        if card.commercial_use:
            continue
        if recipe.use.commercial:
            raise RecipeError(
                f"{where}: use.commercial is true, but {card.name} is licensed {card.licence}; "
                "choose another component, or set use.commercial: false"
            )
        if licence is not None and licence.commercial:
            raise RecipeError(
                f"{where}: use.licence {licence.name} allows commercial use, but {card.name} is licensed "
                f"{card.licence}; choose a licence that does not, such as CC-BY-NC-4.0, or another component"
            )


def check_models(recipe: Recipe, where: str, bank: Bank, generator: Generator, readers: dict[str, Recogniser]) -> None:
    """Refuse models whose vectors or crops do not meet, conditions that are not obeyed, roles that coincide.

    Args:
        recipe: the recipe.
        where: its name, for messages.
        bank: where identity vectors come from.
        generator: what turns them into images.
        readers: the recognisers by role, `judge` and `auditor`.
    """
    for name in names_for_generator(recipe.conditions):
        if name not in generator.condition_names:
            raise RecipeError(
                f"{where}: conditions.{name}: the {recipe.generator.use} generator does not obey it; "
                f"it obeys {', '.join(generator.condition_names)}"
            )
        able = generator.condition_ranges.get(name)
        _check_range(f"{where}: conditions.{name}", recipe.conditions[name], able, recipe.generator.use)
    check_cone(recipe, where)
    if recipe.identities.map is None:
        generator.space.require_same(bank.space, f"{where}: identities.bank")
    for role, reader in readers.items():
        if reader.space.norm != "unit":
            raise RecipeError(
                f"{where}: {role}.norm: {reader.space.name!r} keeps the lengths of its vectors, and cosines are "
                "compared of vectors of unit length; leave `norm` out"
            )
        if reader.space.weights_sha256 == generator.space.weights_sha256:
            raise RecipeError(
                f"{where}: {role}.use: {reader.space.name!r} is the recogniser that conditions the generator, which "
                f"would be its own {role}; choose another"
            )
    check_alignment(recipe, where, generator, readers)


def check_alignment(recipe: Recipe, where: str, generator: Generator, readers: Mapping[str, Recogniser]) -> None:
    """Refuse recognisers that read faces cut in another way than they come: from the generator, or from `align`."""
    reads = readers["judge"].space.alignment
    if recipe.align is None and generator.alignment is None:
        raise RecipeError(
            f"{where}: align: missing; the {recipe.generator.use} generator makes pictures of {generator.image_px} "
            f"pixels in which a face has yet to be found, and {readers['judge'].space.name!r} reads faces aligned to "
            f"{reads!r}; give align: {{detector: {{use: scrfd, path: ...}}}}"
        )
    if recipe.align is not None and recipe.align.keep_whole and generator.alignment is not None:
        raise RecipeError(
            f"{where}: align.keep_whole: the {recipe.generator.use} generator makes faces aligned to "
            f"{generator.alignment!r} already, and there is no larger picture to keep; leave it out"
        )
    comes = generator.alignment if recipe.align is None else reads
    for role, reader in readers.items():
        if reader.space.alignment != comes:
            raise RecipeError(
                f"{where}: {role}.use: {reader.space.name!r} reads faces aligned to {reader.space.alignment!r}, they "
                f"come aligned to {comes!r}; choose a recogniser of that alignment"
            )


def _check_range(path: str, asked: Distribution, able: tuple[float, float] | None, generator: str) -> None:
    """Refuse to ask a generator for what it was never made for: it would draw something, and nobody knows what."""
    low, high = asked.bounds()
    if able is not None and not (able[0] <= low and high <= able[1]):
        raise RecipeError(
            f"{path}: asks for {low:g} to {high:g}; the {generator} generator was made for {able[0]:g} to "
            f"{able[1]:g}; ask within that, or choose another generator"
        )


def check_cone(recipe: Recipe, where: str) -> None:
    """Refuse a `vector_cos` under which images of one identity could lie nearer to another's vector than to its own.

    Vectors are separated by s = `enrol.vector_separation_cos`, so cones at cos(arccos(s) / 2) or nearer never meet.
    """
    target = recipe.conditions.get(VECTOR_COS)
    if target is None:
        return
    low, high = target.bounds()
    if high > 1.0:
        raise RecipeError(f"{where}: conditions.{VECTOR_COS}: got up to {high:g}; a cosine is at most 1")
    separation = recipe.enrol.vector_separation_cos
    bound = overlap_free_cos(separation)
    if not low >= bound:
        needed = 2 * max(low, 0.0) ** 2 - 1
        ways = f"ask for {bound:.4f} or more"
        if low > 0 and needed > 0:
            ways += f", or separate the vectors: enrol.vector_separation_cos {needed:.4f} or less"
        raise RecipeError(
            f"{where}: conditions.{VECTOR_COS}: got down to {low:g}, but vectors may be as near as "
            f"enrol.vector_separation_cos {separation:g}, so below {bound:.4f} the cones of two identities can "
            f"overlap; {ways}"
        )


def check_readings(recipe: Recipe, where: str, generator: Generator) -> None:
    """Refuse filters on a condition that is seen in no picture: whatever measure was held against it would mislead.

    These are `vector_cos`, which is a cosine in the generator's space, and the generator's `unseen_conditions`, where
    it has any: a difference from how a person looks shows in none of its pictures alone.
    """
    unseen = {VECTOR_COS, *getattr(generator, "unseen_conditions", ())}
    seen = ", ".join(sorted(set(recipe.conditions) - unseen)) or "none"
    for number, node in enumerate(recipe.filters):
        for key in ("condition", "measure"):
            if (name := getattr(node, key, None)) in unseen:
                raise RecipeError(
                    f"{where}: filters.{number}.{key}: got {name!r}, which no measure reads, as one picture alone does "
                    f"not show it; conditions of this recipe that can be measured: {seen}; name another, or drop the "
                    "filter"
                )


def check_sampler(recipe: Recipe, where: str, sampler: IdentitySampler, generator: Generator) -> None:
    """Refuse a sampler of another space than the generator's, and one that cannot propose enough candidates."""
    what = "identities.sampler" if recipe.identities.map is None else "identities.map"
    generator.space.require_same(sampler.space, f"{where}: {what}")
    node = recipe.identities
    if node.bank.use == "space" and getattr(sampler, "draws_from_population", False):
        raise RecipeError(
            f"{where}: identities.sampler.use: {node.sampler.use} draws from a population, and identities.bank: "
            "{use: space} knows none; give a fitted bank (use: file), or the sampler sphere or files"
        )
    if sampler.candidates is not None and sampler.candidates < recipe.identities.count:
        raise RecipeError(
            f"{where}: identities.count: got {node.count}, but the {node.sampler.use} sampler has "
            f"{sampler.candidates} candidates in all; ask for fewer, or give it more"
        )


def check_screening(recipe: Recipe, where: str, readers: Mapping[str, Recogniser]) -> None:
    """Refuse a screening recogniser that is the judge, who screens anyway, or the auditor, who decides nothing."""
    mine = readers.get("leakage.screening")
    for role in ("judge", "auditor"):
        if mine is not None and mine.space.weights_sha256 == readers[role].space.weights_sha256:
            raise RecipeError(
                f"{where}: leakage.screening.use: {mine.space.name!r} is the {role}; screening takes a recogniser "
                "that is neither judge nor auditor, or leave it out, and the judge screens alone"
            )
    if recipe.leakage.copies is not None and not recipe.leakage.galleries:
        raise RecipeError(f"{where}: leakage.copies: there is no gallery to copy; give leakage.galleries")
    for key in ("control", "screening", "cos"):
        # whoever sets one of these believes to be screening
        if getattr(recipe.leakage, key) is not None and not recipe.leakage.galleries:
            raise RecipeError(
                f"{where}: leakage.{key}: there is no gallery to hold against; give leakage.galleries, or drop it"
            )
    for number, node in enumerate(recipe.filters):
        if node.use == "leakage" and not recipe.leakage.galleries:
            raise RecipeError(
                f"{where}: filters.{number}: leakage compares with galleries, and there is none; give "
                "leakage.galleries, or drop the filter"
            )


def check_balance(recipe: Recipe, where: str, names: Iterable[str], targets: Targets) -> None:
    """Refuse a count that leaves a share nobody, and agreement between labellers where there is one alone.

    Args:
        recipe: the recipe.
        where: its name, for messages.
        names: every measure that a sample will have.
        targets: what balance asks for.
    """
    with_path(where, partial(require_room, targets, recipe.identities.count))
    known = list(names)
    if targets.agreement != "none" and all(len(labellers(known, field)) < 2 for field, _ in targets.fields):
        fields = ", ".join(recipe.balance.by) or "nothing"
        raise RecipeError(
            f"{where}: balance.agreement: {targets.agreement!r} needs several labellers of what it balances ({fields})"
            "; each has one; add a measure with a `labeller: name`, or leave agreement out"
        )


def check_thresholds(recipe: Recipe, where: str, judge: Recogniser) -> None:
    """Refuse false match rates for enrolment and separation that the judge's calibration cannot support."""
    from pipeline.flow.enrol import consistency_cos, separation_cos

    for key, images in (("separation", recipe.enrol.probes), ("separation", recipe.identities.images_per_identity)):
        with_path(f"{where}: enrol.{key}", partial(separation_cos, recipe, judge.calibration, images))
    with_path(f"{where}: enrol.consistency", partial(consistency_cos, recipe, judge.calibration))


def check_measures(where: str, measurers: Sequence[Measurer]) -> tuple[str, ...]:
    """Return every number that a filter may read; refuse two measures that give one name."""
    from pipeline.flow.judge import NEAREST, NEAREST_ORDINAL, OWN

    names = [OWN, NEAREST, NEAREST_ORDINAL, *(n for m in measurers for n in m.names)]
    twice = _twice(names)
    if twice:
        raise RecipeError(
            f"{where}: measures: {', '.join(twice)} given by two of them; keep one, or give one a `labeller: name`, "
            f"under which {twice[0]!r} becomes {sourced(twice[0], 'name')!r}"
        )
    return tuple(names)


def check_alignments(where: str, measurers: Sequence[Measurer], alignment: str) -> None:
    """Refuse measures that look for cheeks and eyes elsewhere than the generator's crops have them."""
    for number, measurer in enumerate(measurers):
        theirs = getattr(measurer, "alignment", None)
        if theirs not in (None, alignment):
            way = f"set measures.{number}.alignment: {alignment}"
            if any(name.partition("@")[0].endswith("_percentile") for name in measurer.names):
                way = f"give percentiles of such faces: facemint quantiles ... --alignment {alignment}"
            raise RecipeError(
                f"{where}: measures.{number}: {measurer.card.name} reads faces aligned to {theirs!r}, the generator "
                f"makes them aligned to {alignment!r}; {way}"
            )


def check_twins(recipe: Recipe, where: str, side_px: int) -> None:
    """Refuse a twin of low resolution that has as many pixels as the image that it is made of."""
    for number, node in enumerate(recipe.twins):
        px = getattr(node, "px", 0) if node.use == "low-resolution" else 0
        if px >= side_px:
            raise RecipeError(
                f"{where}: twins.{number}.px: got {px}, but images are {side_px} pixels wide and would lose nothing; "
                f"give less than {side_px}"
            )


def check_filters(
    recipe: Recipe, where: str, builders: Sequence[FilterBuilder], names: Iterable[str], targets: Targets
) -> None:
    """Refuse filters whose rate is not calibrated, whose measure nobody gives, or that judge what is never asked.

    Args:
        recipe: the recipe.
        where: its name, for messages.
        builders: the recipe's filters.
        names: every measure that a sample will have.
        targets: balance targets; each cell has a reserve.
    """
    import numpy as np

    from pipeline.domain.records import Sample

    count = recipe.identities.count
    # enrolment ends with more than it must, and how many is not known yet
    many = 2 * (count + math.ceil(count * recipe.enrol.reserve) + len(targets.cells))
    alone = Sample(
        key="of this recipe",
        identity=0,
        slot=0,
        attempt=0,
        conditions=dict.fromkeys(recipe.conditions, 0.0),
        measures=dict.fromkeys(names, 0.0),
        embedding_E=np.zeros(1, np.float32),
    )
    verdicts = []
    for number, build in enumerate(builders):
        path = f"{where}: filters.{number}"
        asked = getattr(recipe.filters[number], "condition", None)
        if asked is not None and asked not in recipe.conditions:
            have = ", ".join(sorted(recipe.conditions)) or "none"
            raise RecipeError(f"{path}.condition: {asked!r} is asked of no image; conditions of this recipe: {have}")
        with_path(path, partial(build, many, planned=True))
        fits: Filter = with_path(path, partial(build, count, planned=True))
        _check_filter(recipe, number, path, fits)
        sample = replace(alone, measures={**alone.measures, **_asked_for(recipe, fits)})
        verdicts.append(with_path(path, partial(fits.judge, sample)))
    twice = _twice([v.filter for v in verdicts])
    if twice:
        raise RecipeError(f"{where}: filters: {', '.join(twice)} stands twice; a name says one verdict, so keep one")


def _check_filter(recipe: Recipe, number: int, path: str, judge: Filter) -> None:
    """Refuse a stop that can never come, and agreement with a cell, or a field of it, that nobody has."""
    node: Any = recipe.filters[number]
    if node.stop_above is not None and node.mode == "observe":
        raise RecipeError(f"{path}.stop_above: with mode: observe nothing is refused; leave one of the two out")
    if judge.judges_cell and not recipe.balance.by:
        raise RecipeError(
            f"{path}: an identity's cell is what balance.by names, which is empty here; name fields there, or drop "
            f"{node.use}"
        )
    field = getattr(node, "field", None)
    if judge.judges_cell and field is not None and field not in recipe.balance.by:
        raise RecipeError(f"{path}.field: {field!r} is not balanced; balance.by: {', '.join(recipe.balance.by)}")


def _asked_for(recipe: Recipe, judge: Filter) -> dict[str, float]:
    """Return the numbers that a sample has because this filter asks for them."""
    from pipeline.domain.records import Cell
    from pipeline.flow.judge import own_cell
    from pipeline.flow.siblings import SIBLING_MEASURES

    out = dict.fromkeys(SIBLING_MEASURES, 0.0) if judge.judges_siblings else {}
    if judge.judges_cell:
        by = recipe.balance.by
        out |= own_cell({f"{field}=": 0.0 for field in by}, by, Cell(("",) * len(by)))
    return out


def with_path(path: str, question: Callable[[], Any]) -> Any:
    """Return the answer; a mistake of the user's found on the way is raised again with the recipe's key before it."""
    try:
        return question()
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    except UserError as error:
        raise RecipeError(f"{path}: {error}") from None


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, number in Counter(names).items() if number > 1]
