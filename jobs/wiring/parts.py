"""Names -> parts: a recipe is read, its components are found and assembled into the ports of one process.

Building a part reads its card and nothing heavy; weights load in the process that first computes with them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs import recipe_check, recipe_file
from jobs.components import COMPONENTS, PHOTOGRAPHS
from jobs.wiring import models, scoring
from jobs.wiring.labelled import crop_px, inner_view
from jobs.wiring.library import known_weights
from jobs.wiring.percentile_files import ranked, resolve_percentiles
from jobs.wiring.pinning import pinned
from pipeline.domain.errors import RecipeError, UserError
from pipeline.domain.privacy import holds_people, publishes_attributes
from pipeline.domain.recipe import MeasureNode, Node, Recipe, parse_recipe, recipe_model

if TYPE_CHECKING:
    from pipeline.domain.ports import Codec, Store
    from pipeline.flow.leakage import Screen
    from pipeline.flow.parts import Parts


def load(entry: str) -> Any:
    """Return what a `module:name` entry of the table of components stands for."""
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def full_model() -> type[Recipe]:
    """Return the recipe model with every component's options."""
    catalogue: dict[str, list[type[Node]]] = {}
    for slot, components in COMPONENTS.items():
        named = (options for use, (options, _) in components.items() if use not in PHOTOGRAPHS)
        catalogue[slot] = list(dict.fromkeys(load(options) for options in named))
    catalogue["auditor"] = catalogue["judge"]
    return recipe_model(catalogue)


def load_recipe(
    reference: str, overrides: Sequence[str] = (), *, rehearse: bool = False, unfetched: bool = False
) -> Recipe:
    """Return the validated recipe at a path or of a shipped name, with `a.b=value` overrides applied.

    Args:
        reference: a path, or the name of a shipped recipe.
        overrides: `a.b=value`.
        rehearse: return what it becomes as a rehearsal; where it runs is as `overrides` say.
        unfetched: check it although weights that it names are not on this machine.

    Raises:
        RecipeError: one line: what was got, what is allowed.
    """
    from jobs.wiring.calibration_files import resolve_calibrations

    path = recipe_file.find(reference)
    raw = recipe_file.read_recipe(path)
    for text in overrides:
        recipe_file.override(raw, text)
    if rehearse:
        from jobs.wiring.rehearsing import rehearsed

        return rehearsed(raw, path.name, [text for text in overrides if text.startswith("compute.")])
    resolve_calibrations(raw, path.name)
    resolve_percentiles(raw, path.name)
    recipe = parse_recipe(full_model(), raw, path.name)
    whole = pinned(recipe.model_dump(mode="json"), path.name, unfetched=unfetched)
    if holds_people(recipe):
        return _curated(whole, recipe, path.name)
    recipe = parse_recipe(full_model(), whole, path.name)
    with models.unfetched() if unfetched else contextlib.nullcontext():
        check_parts(recipe, path.name)
    return recipe


def _curated(raw: dict[str, Any], recipe: Recipe, where: str) -> Recipe:
    """Return the recipe of a curation, completed and checked."""
    from jobs.wiring.curating import check_curation, completed

    whole = parse_recipe(full_model(), completed(raw, recipe), where)
    check_curation(whole, where)
    return whole


def build(slot: str, node: Node, *extra: Any) -> Any:
    """Return the part that a recipe's node names; `extra` is what parts of its slot are handed besides options.

    A part whose constructor has a parameter `weights` is handed what brings weights too, and what optimises for goals
    the networks that score them.
    """
    make = load(COMPONENTS[slot][node.use][1])
    part = make(node, *extra, **scoring.handed(make, node))
    if isinstance(node, MeasureNode):
        part = ranked(part, node)
    labeller = getattr(node, "labeller", None)
    if labeller is None:
        return part
    from pipeline.adapters.measures.sourced import Sourced

    return Sourced(part, labeller)


def check_parts(recipe: Recipe, where: str, added: Sequence[str] = ()) -> None:
    """Refuse what the tree cannot see: licences, parts that do not fit each other, rates that are not calibrated.

    `added` are measures that a dataset has beside those of its recipe.
    """
    if holds_people(recipe):
        from jobs.wiring.curating import check_curation

        check_curation(recipe, where, added)
        return
    recipe_check.check_use(recipe, where, [*component_cards(recipe).values(), *known_weights(recipe)])
    judge = build("judge", recipe.judge)
    readers = {"judge": judge, "auditor": build("judge", recipe.auditor)} | _screening(recipe)
    if readers["auditor"].space.weights_sha256 == judge.space.weights_sha256:
        raise RecipeError(
            f"{where}: auditor.use: got {recipe.auditor.use!r}, which is the judge; the auditor is a recogniser that "
            "no filter uses"
        )
    bank, generator = _bank(recipe), build("generator", recipe.generator)
    sampler = sampler_of(recipe, bank)
    recipe_check.check_models(recipe, where, bank, generator, readers)
    recipe_check.check_readings(recipe, where, generator)
    scoring.require_apart(generator, readers, where)
    scoring.require_asked(recipe.generator, recipe.conditions, where)
    recipe_check.check_sampler(recipe, where, sampler, generator)
    screen = screen_of(recipe)
    recipe_check.check_screening(recipe, where, readers)
    measurers = [build("measures", node) for node in recipe.measures]
    recipe_check.check_alignments(where, measurers, judge.space.alignment)
    names = recipe_check.check_measures(where, measurers)
    names += (*(screen.measures if screen else ()), *(n for n in added if n not in names))
    if recipe.twins:
        recipe_check.check_twins(recipe, where, crop_px(judge.space.alignment))
    targets = targets_of(recipe)
    recipe_check.check_balance(recipe, where, names, targets)
    recipe_check.check_thresholds(recipe, where, judge)
    check_filters_of(recipe, where, judge, names, screen)


def check_filters_of(recipe: Recipe, where: str, judge: Any, names: Sequence[str], screen: Screen | None) -> None:
    """Refuse filters whose rate is not calibrated, or whose measure nobody gives; `names` are those of a sample."""
    # thresholds against galleries follow when these are prepared; here they only have to be asked for
    limits = dict.fromkeys(screen.measures, 1.0) if screen else {}
    recipe_check.check_filters(recipe, where, filter_builders(recipe, judge, lambda: limits), names, targets_of(recipe))


def codec_of(recipe: Recipe, alignment: str) -> Codec:
    """Return what turns crops into stored bytes, and stored bytes into what models read."""
    from pipeline.domain.curation import margin_of

    codec: Codec = build("encoding", recipe.encoding)
    margin = margin_of(recipe)
    return codec if margin is None else inner_view(codec, margin, alignment)


def filter_builders(recipe: Recipe, judge: Any, gallery_limits: Callable[[], Mapping[str, float]]) -> list[Any]:
    """Return, per filter of the recipe, what builds it from the number of enrolled identities."""
    from filters.observing import Observing
    from pipeline.domain.ports import FilterContext

    def builder(node: Node) -> Any:
        part = load(COMPONENTS["filters"][node.use][1])
        observes = node.mode == "observe"  # type: ignore[attr-defined]

        def build(enrolled: int, *, planned: bool = False) -> Any:
            limits = gallery_limits() if node.use == "leakage" else {}
            context = FilterContext(judge.calibration, recipe.enrol.probes, enrolled, limits, planned)
            built = part.build(node, context)
            return Observing(built) if observes else built

        return build

    return [builder(node) for node in recipe.filters]


def component_cards(recipe: Recipe) -> dict[str, Any]:
    """Return the model card of every component, by role."""
    cards = {
        **({} if holds_people(recipe) else _made_by(recipe)),
        "judge": build("judge", recipe.judge).card,
        "auditor": build("judge", recipe.auditor).card,
        **{role: part.card for role, part in _screening(recipe).items()},
    }
    if recipe.align is not None:
        cards["align"] = _detector(recipe.align.detector).card
    for node in recipe.measures:
        labeller = getattr(node, "labeller", None)
        cards[f"measure {node.use} as {labeller}" if labeller else f"measure {node.use}"] = build("measures", node).card
    return cards


def _made_by(recipe: Recipe) -> dict[str, Any]:
    """Return the cards of what makes identities and images."""
    bank = _bank(recipe)
    sampler = sampler_of(recipe, bank)
    cards = {"bank": bank.card, "generator": build("generator", recipe.generator).card}
    if sampler.card != bank.card:
        cards["sampler"] = sampler.card
    if recipe.identities.map is not None:
        cards["map"] = build("identities.map", recipe.identities.map).card
    return cards


def _screening(recipe: Recipe) -> dict[str, Any]:
    """Return the screening recogniser by its role; nothing where the recipe has none, or no gallery."""
    node = recipe.leakage.screening
    return {"leakage.screening": build("judge", node)} if node is not None and recipe.leakage.galleries else {}


def screen_of(recipe: Recipe, store: Store | None = None, built: Mapping[str, Any] | None = None) -> Screen | None:
    """Return what faces are screened against; None where the recipe names no gallery. `built` are parts by role."""
    from pipeline.adapters.stores import MemoryStore
    from pipeline.flow.leakage import Reader, Screen

    if not recipe.leakage.galleries:
        return None
    readers = [
        Reader(role, (built or {}).get(role) or build("judge", node), node.batch)  # type: ignore[attr-defined]
        for role, node in (
            ("judge", recipe.judge),
            ("screening", recipe.leakage.screening),
            ("auditor", recipe.auditor),
        )
        if node is not None
    ]
    sizes = (recipe.enrol.probes, recipe.identities.images_per_identity)
    return Screen(store or MemoryStore("no galleries"), recipe.leakage, readers, sizes)


def _bank(recipe: Recipe) -> Any:
    node = recipe.identities.bank
    if node.use == "space" and getattr(node, "name", None) is None:
        return build("identities.bank", node, build("generator", recipe.generator).space)
    return build("identities.bank", node)


def sampler_of(recipe: Recipe, bank: Any) -> Any:
    """Return the recipe's sampler over a bank; one that packs starts from the run's seed, and a map carries over."""
    sampler = build("identities.sampler", recipe.identities.sampler, bank, recipe.seed)
    mapping = recipe.identities.map
    return sampler if mapping is None else build("identities.map", mapping).sampler(sampler, bank)


def aligner_of(recipe: Recipe, alignment: str) -> Any:
    """Return what cuts the generator's pictures to an alignment; None where the recipe says that nothing does."""
    from pipeline.adapters.cropping import aligned_crop
    from pipeline.domain.landmarks import alignment as template
    from pipeline.flow.aligning import FaceAligner

    if recipe.align is None or holds_people(recipe):
        return None
    return FaceAligner(_detector(recipe.align.detector), template(alignment), recipe.align.choice, aligned_crop)


def _detector(node: Node) -> Any:
    """Return a detector; where a plan is made whose file is not here, one that has a card and finds nothing."""
    try:
        return build("detector", node)
    except UserError as error:
        if not models.is_unfetched():
            raise
        return models.UnfetchedDetector(node.use, str(error))


def targets_of(recipe: Recipe) -> Any:
    """Return the balance targets, with the values that the recipe's measures can estimate."""
    from pipeline.domain import balance

    known = {k: v for node in recipe.measures for k, v in build("measures", node).attributes.items()}
    asked = recipe.balance
    return balance.targets_of(
        asked.by, known, asked.shares, asked.marginal, tolerance=asked.tolerance, agreement=asked.agreement
    )


def prints_of(recipe: Recipe) -> Any:
    """Return fingerprint and plan digest, weights and epochs included."""
    from pipeline.domain import fingerprint

    components: dict[str, Any] = {
        role: {"sha256": card.sha256, "epoch": card.epoch}
        for role, card in component_cards(recipe).items()
        if role != "auditor"
    }
    # parts without weights have no card; what can change is their code, which their epoch stands for
    plain = [("filters", node) for node in recipe.filters]
    plain += [("twins", node) for node in recipe.twins]
    plain += [("encoding", recipe.encoding), ("identities.sampler", recipe.identities.sampler)]
    if recipe.leakage.galleries:
        from pipeline.flow.leakage import EPOCH

        components["leakage"] = {"epoch": EPOCH}
    for slot, node in plain:
        components[f"{slot} {node.use}"] = {"epoch": load(COMPONENTS[slot][node.use][1]).epoch}
    return fingerprint.prints_of(recipe, components)


def build_parts(recipe: Recipe, store: Store, lease_number: int | None, run: str) -> Parts:
    """Assemble the ports of a process. Light: models load when they first compute."""
    from pipeline.adapters.machine import SystemClock, device_kind, holder
    from pipeline.adapters.segments import Segments
    from pipeline.flow.lease import guard_of
    from pipeline.flow.parts import Parts

    judge = build("judge", recipe.judge)

    auditor = build("judge", recipe.auditor)
    screen = screen_of(recipe, store, {"judge": judge, "auditor": auditor})
    builders = filter_builders(recipe, judge, screen.filter_limits if screen else dict)
    who = holder(run)
    return Parts(
        recipe=recipe,
        prints=prints_of(recipe),
        targets=targets_of(recipe),
        store=store,
        segments=Segments(
            judge.space.dimensions, private=holds_people(recipe), attributes=publishes_attributes(recipe)
        ),
        codec=codec_of(recipe, judge.space.alignment),
        aligner=aligner_of(recipe, judge.space.alignment),
        twins=tuple(build("twins", node, judge.space.alignment) for node in recipe.twins),
        sampler=sampler_of(recipe, _bank(recipe)),
        generator=build("generator", recipe.generator),
        judge=judge,
        auditor=auditor,
        measurers=tuple(build("measures", node) for node in recipe.measures),
        filters=lambda enrolled: tuple(build(enrolled) for build in builders),
        generator_batch=recipe.generator.batch,  # type: ignore[attr-defined]
        judge_batch=recipe.judge.batch,  # type: ignore[attr-defined]
        auditor_batch=recipe.auditor.batch,  # type: ignore[attr-defined]
        clock=SystemClock(),
        guard=guard_of(store, lease_number) if lease_number is not None else lambda: None,
        run_facts={
            "run": run,
            "host": who["host"],
            "pid": who["pid"],
            "lease": lease_number,
            "device_kind": device_kind(_computing(recipe)),
        },
        screen=screen,
        product=fastest_product,
    )


def _computing(recipe: Recipe) -> tuple[str, ...]:
    """Return the modules that compute for this recipe beside those that compute for every one."""
    slots = [("judge", recipe.judge), ("judge", recipe.auditor), *(("measures", node) for node in recipe.measures)]
    if recipe.align is not None:
        slots.append(("detector", recipe.align.detector))
    onnx = any(".onnx." in COMPONENTS[slot][node.use][1] for slot, node in slots)
    return ("onnxruntime", "cv2") if onnx else ()


def fastest_product() -> Any:
    """Return what compares many vectors with many on this machine; torch is imported only by those who compare."""
    from pipeline.adapters import products

    return products.fastest_product()


def open_dataset(uri: str) -> Store:
    """Return a dataset's store, open for writing; a mistyped place is not created.

    Raises:
        OutputError: no dataset of ours is there.
    """
    from jobs.examine import require_dataset
    from pipeline.adapters.stores import open_store

    require_dataset(open_store(uri, writable=False))
    return open_store(uri)
