"""Do the parts that a recipe names fit each other? What the recipe's tree cannot see, found before any work is done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from pipeline.domain.balance import Targets
from pipeline.domain.errors import CalibrationError, RecipeError, UserError
from pipeline.domain.ports import Bank, Filter, Generator, Measurer, Recogniser
from pipeline.domain.recipe import Recipe

FilterBuilder = Callable[[int], Filter]
"""Number of enrolled identities -> a filter with its threshold resolved."""


def check_models(recipe: Recipe, where: str, bank: Bank, generator: Generator, readers: dict[str, Recogniser]) -> None:
    """Refuse models whose vectors or crops do not meet, conditions that are not obeyed, roles that coincide.

    Args:
        recipe: the recipe.
        where: its name, for messages.
        bank: where identity vectors come from.
        generator: what turns them into images.
        readers: the recognisers by role, `judge` and `auditor`.
    """
    for name in recipe.conditions:
        if name not in generator.condition_names:
            raise RecipeError(
                f"{where}: conditions.{name}: the {recipe.generator.use} generator does not obey it; "
                f"it obeys {', '.join(generator.condition_names)}"
            )
    generator.space.require_same(bank.space, f"{where}: identities.bank")
    for role, reader in readers.items():
        if reader.space.weights_sha256 == generator.space.weights_sha256:
            raise RecipeError(
                f"{where}: {role}.use: {reader.space.name!r} is the recogniser that conditions the generator, which "
                f"would be its own {role}; choose another"
            )
        if reader.space.alignment != generator.space.alignment:
            raise RecipeError(
                f"{where}: {role}.use: {reader.space.name!r} reads faces aligned to {reader.space.alignment!r}, the "
                f"generator makes them aligned to {generator.space.alignment!r}; choose a recogniser of that alignment"
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
        raise RecipeError(f"{where}: measures: {', '.join(twice)} given by two of them; keep one")
    return tuple(names)


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
    sample = Sample(
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
        with_path(path, partial(build, many))
        fits: Filter = with_path(path, partial(build, count))
        verdicts.append(with_path(path, partial(fits.judge, sample)))
    twice = _twice([v.filter for v in verdicts])
    if twice:
        raise RecipeError(f"{where}: filters: {', '.join(twice)} stands twice; a name says one verdict, so keep one")


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
