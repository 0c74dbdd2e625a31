"""The recipe's tree: one validated value that says what a dataset is to be.

Components are nodes `{use: name, ...options}`. Their options are declared beside each adapter and filter; the
entry points hand them in as a catalogue, from which `recipe_model` assembles the full tree and its JSON Schema.
Unknown keys, wrong types and impossible numbers end in a `RecipeError` of one line each, with the nearest known key.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from pipeline.domain.compute import Compute
from pipeline.domain.conditions import MAX_CONDITIONS, AnyDistribution
from pipeline.domain.errors import RecipeError
from pipeline.domain.labels import LABELLER_PATTERN
from pipeline.domain.licences import licence_of
from pipeline.domain.percentiles import Percentiles
from pipeline.domain.recipe_errors import explained
from pipeline.domain.rng import KEY_LIMIT
from pipeline.domain.section import PATH_OR_NOTHING
from pipeline.domain.section import Section as Section  # noqa: PLC0414 - part of this tree: others take it here


class Node(Section):
    """A component by name; subclasses, declared beside the component, narrow `use` and add options."""

    rehearses: ClassVar[Mapping[str, Any]] = {}
    """What `--rehearse` sets these options to: of a published network the smallest that goes the same way. Weights are
    made up by formula without being named here."""
    use: str


class FilterNode(Node):
    """Base of every filter's options: what all filters share."""

    mode: Literal["refuse", "observe"] = "refuse"
    """`observe` writes the verdict down and refuses nothing: for trying a threshold out."""
    stop_above: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of candidates; where this filter refuses more, over the committed units in their order, the run stops."""


class MeasureNode(Node):
    """Base of every measure's options: what all measures share."""

    labeller: Annotated[str, Field(pattern=LABELLER_PATTERN)] | None = None
    """Whose answers these are, where another measure gives the same names: `shade=dark` becomes `shade@NAME=dark`."""
    percentiles: Annotated[Percentiles | None, PATH_OR_NOTHING] = None
    """A file that `facemint quantiles` wrote for this measure; gives `<score>_percentile` beside each of its scores."""


class TwinNode(Node):
    """Base of every hard-condition twin's options: what all twins share."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Of an identity's slots, stratified over them: whose image gets this twin."""


class ExportNode(Node):
    """Base of every export's options: what all exports share."""

    twins: bool = True
    """Whether hard-condition twins are exported along with the images that they were made of."""
    max_per_identity: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Of an identity with more images so many are taken, spread evenly over all; twins come along uncounted."""
    split: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = None
    """A split of the dataset, by name: every part of it is an export of its own, in a folder of its name."""
    part: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = None
    """With `split`: this part alone."""
    image_px: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side of the exported images; those of another size are resized and encoded again, the others are copied."""
    image_quality: Annotated[int, Field(ge=50, le=100)] = 95
    """JPEG quality of images that are encoded again."""
    aligned: bool = False
    """With `image_px`, of images that show more than the judge's crop: his crop alone, as trainers read it."""
    folder: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = None
    """In a recipe, where below `exports/<version>/` it is written; by default the folder is called as the kind."""

    @model_validator(mode="after")
    def _part_of_a_split(self) -> ExportNode:
        if self.part is not None and self.split is None:
            raise ValueError(f"part {self.part!r} of no split; name the `split` that it is a part of")
        return self

    @model_validator(mode="after")
    def _aligned_to_a_size(self) -> ExportNode:
        if self.aligned and self.image_px is None:
            raise ValueError("aligned crops of no size; give their side as `image_px`, 112 for most trainers")
        return self


class Use(Section):
    """What the dataset is for, and under which licence; a model whose licence forbids either stops the run."""

    commercial: bool = False
    purpose: Annotated[str, Field(min_length=3, max_length=500)] = "research"
    licence: Annotated[str, Field(max_length=500)] | None = None
    """Of the dataset: an SPDX name such as `CC-BY-NC-4.0`, or the address of its text. Documents of later versions
    state it."""

    @field_validator("licence")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        return None if value is None else licence_of(value).name

    @model_validator(mode="after")
    def _agrees(self) -> Use:
        if self.commercial and self.licence is not None and licence_of(self.licence).commercial is False:
            raise ValueError(
                f"commercial is true, but licence {self.licence} forbids commercial use; choose another licence, or "
                "set commercial: false"
            )
        return self


class Identities(Section):
    """How many people, how many images of each, and where their vectors come from."""

    count: Annotated[int, Field(ge=1, le=10_000_000)]
    images_per_identity: Annotated[int, Field(ge=1, le=10_000)]
    sampler: Node
    bank: Node
    map: Node | None = None
    """Carries vectors of the bank's space into the generator's, where these differ."""


class Threshold(Section):
    """A similarity threshold: a false match rate (turned into a cosine by the calibration) or a raw cosine."""

    fmr: Annotated[float, Field(gt=0, lt=1)] | None = None
    cos: Annotated[float, Field(gt=-1, le=1)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Threshold:
        if (self.fmr is None) == (self.cos is None):
            raise ValueError("give exactly one of `fmr` and `cos`")
        return self


class Enrol(Section):
    """How identities are admitted."""

    probes: Annotated[int, Field(ge=1, le=64)] = 4
    """Probe images per candidate; they form its template."""
    vector_separation_cos: Annotated[float, Field(gt=-1, le=1)] = 0.9
    """Candidates whose vectors are this near to an earlier one are not probed: nothing would tell them apart."""
    separation: Threshold = Threshold(fmr=1e-3)
    """Templates that match at this level collide; the later candidate gives way."""
    consistency: Threshold = Threshold(fmr=1e-2)
    """A candidate whose probes agree with its own template less than this is not a person that can be kept."""
    reserve: Annotated[float, Field(ge=0, le=5)] = 0.2
    """Identities enrolled beyond the count, as a share of it, at least one per cell."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 8
    budget: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Most candidates that are ever probed, over all generations, in whole units; without it rounds alone end it."""
    unit_candidates: Annotated[int, Field(ge=1, le=100_000)] = 24
    mode: Literal["refuse", "observe"] = "refuse"
    """`observe` measures consistency and separation of templates, of probes and of images made, and refuses nobody."""

    @model_validator(mode="after")
    def _budget_buys_a_unit(self) -> Enrol:
        if self.budget is not None and self.budget < self.unit_candidates:
            raise ValueError(
                f"budget {self.budget} is less than one unit of unit_candidates {self.unit_candidates}; give more, or "
                "smaller units"
            )
        return self


class Balance(Section):
    """Which perceived attributes are balanced, and in which shares; equal joint shares by default."""

    by: tuple[str, ...] = ()
    shares: dict[str, float] | None = None
    """Cell, as `light/feminine` in the order of `by`, -> its share; cells that are not named get nobody."""
    marginal: dict[str, dict[str, float]] | None = None
    """Field -> value -> share: every field's totals are met, the cells are free."""
    tolerance: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """By how much a cell, or a marginal total, may miss its share of all where candidates are short; 0 is exact."""
    agreement: Literal["none", "majority", "all"] = "none"
    """How many of an attribute's labellers must read the value that an identity counts under."""


class Gallery(Section):
    """Faces of real people, or of any people, whom no identity of the dataset may be."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    source: Annotated[str, Field(min_length=1)]
    """Labelled faces: a folder per identity, a dataset of ours, or embeddings in the judge's space."""
    licence: str = ""
    lawful_basis: str = ""
    """On which ground these people's faces are processed, e.g. `consent` or `legitimate interest, assessment 12`."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of what it holds. A run fills it in; given, other faces than these are refused, and once they are prepared the
    source is not read again."""

    @model_validator(mode="after")
    def _may_be_used(self) -> Gallery:
        lacking = [k for k in ("licence", "lawful_basis") if len(getattr(self, k).strip()) < 2]
        if lacking:
            raise ValueError(
                f"gallery {self.name!r} has no {' and no '.join(lacking)}; state under which licence and on which "
                "lawful basis these faces are compared, or leave the gallery out"
            )
        return self


NOT_TOLD = "private:"
"""Before a gallery's name, where a stored recipe does not tell where its faces lie."""


class Copies(Section):
    """Images that are copies of a gallery's, by perceptual hash."""

    bits: Annotated[int, Field(ge=0, le=20)] = 6
    """Hashes of 64 bits that differ in so many or fewer are those of one picture."""


class Leakage(Section):
    """Galleries of people against whom identities and images are screened."""

    galleries: tuple[Gallery, ...] = ()
    control: Annotated[str, Field(min_length=1)] | None = None
    """Labelled faces known to be of nobody in the galleries; thresholds are quantiles of how near they come."""
    control_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of what the control holds, as a gallery's."""
    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.999
    """Of the control's nearest cosines; lowered to what its size supports."""
    fpir: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    """Without a control: share of strangers that may be flagged, by the calibration's 1:N figures."""
    cos: Annotated[float, Field(gt=-1, le=1)] | None = None
    """Without a control: one cosine for every comparison, in place of the calibration."""
    screening: Node | None = None
    """A second recogniser that screens: neither judge nor auditor, nor the one that conditions the generator."""
    copies: Copies | None = None
    keep_pairs: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Nearest pairs per recogniser that are kept for review under `private/`."""
    mode: Literal["refuse", "observe"] = "refuse"
    """`observe` measures and reports, and refuses no identity."""

    @model_validator(mode="after")
    def _fits(self) -> Leakage:
        names = [g.name for g in self.galleries]
        if twice := [n for n in names if names.count(n) > 1]:
            raise ValueError(f"two galleries are called {twice[0]!r}; give each a name of its own")
        if taken := [n for n in names if n in ("control", "limits")]:
            raise ValueError(f"a gallery is called {taken[0]!r}, a name that is taken; choose another")
        if self.control is not None and self.cos is not None:
            raise ValueError("give `control` or `cos`: both say where the thresholds lie")
        return self


class Align(Section):
    """How the generator's pictures are cut to the judge's alignment, where they are not made in it."""

    detector: Node
    """Finds the face by which a picture is cut; a picture in which it finds none is refused."""
    choice: Literal["largest", "central", "only"] = "largest"
    """Which face of a picture with several is meant; `only` refuses such a picture."""
    keep_whole: bool = False
    """Stores the picture, as it was before it was cut, beside each accepted crop; its alignment is none."""


class UnitShape(Section):
    """The size of a unit of work. It is fingerprinted: what shares a batch with what follows from it."""

    identities: Annotated[int, Field(ge=1, le=100_000)] = 10
    window: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Identities that are open at once; bounds memory."""
    lookahead: Annotated[int, Field(ge=1, le=16)] = 2
    """Batch n is formed from the verdicts of batches up to n - lookahead; 1 generates and measures in turn."""


class Previews(Section):
    """Refused images that are kept for people to look at; changes nothing about the dataset."""

    per_reason: Annotated[int, Field(ge=0, le=50)] = 2
    """How many a unit keeps for each reason, the first that it made; 0 keeps none."""


class Recipe(Section):
    """A dataset to be minted."""

    source_options: ClassVar[tuple[type[Node], ...]] = ()
    """The sources that a recipe of `kind: curate` can name."""

    kind: Literal["generate"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=KEY_LIMIT)]
    use: Use = Use()
    identities: Identities
    enrol: Enrol = Enrol()
    balance: Balance = Balance()
    generator: Node
    align: Align | None = None
    judge: Node
    auditor: Node
    measures: tuple[Node, ...] = ()
    filters: tuple[Node, ...] = ()
    attempts: Annotated[int, Field(ge=1, le=99)] = 4
    rounds: Annotated[int, Field(ge=1, le=100)] = 4
    """Rounds of making: each replaces the identities that could not fill by the next reserves."""
    conditions: Annotated[dict[str, AnyDistribution], Field(max_length=MAX_CONDITIONS)] = {}
    twins: Annotated[tuple[Node, ...], Field(max_length=32)] = ()
    """Harder versions of accepted images, made of their pixels; they count towards nothing that is promised."""
    leakage: Leakage = Leakage()
    unit: UnitShape = UnitShape()
    encoding: Node
    previews: Previews = Previews()
    exports: tuple[Node, ...] = ()
    compute: Compute = Compute()
    rehearsal: bool = False
    """Set by `--rehearse` alone: a small run with made-up weights, whose dataset is worth nothing."""

    @model_validator(mode="after")
    def _exports_apart(self) -> Recipe:
        folders = [export_folder(node) for node in self.exports]
        if twice := [f for f in folders if folders.count(f) > 1]:
            raise ValueError(f"two exports are written to the folder {twice[0]!r}; give one of them another `folder`")
        return self


def export_folder(node: Node) -> str:
    """Return the folder of a recipe's export below `exports/<version>/`."""
    return getattr(node, "folder", None) or node.use


Catalogue = Mapping[str, Sequence[type[Node]]]
"""Slot (`generator`, `judge`, `measures`, `identities.sampler`, ...) -> the option models it accepts."""


def recipe_model(catalogue: Catalogue) -> type[Recipe]:
    """Return the full recipe model: every node narrowed to the components of the catalogue."""
    mapping = one_of(catalogue["identities.map"])
    identities = create_model(
        "Identities",
        __base__=Identities,
        sampler=(one_of(catalogue["identities.sampler"]), ...),
        bank=(one_of(catalogue["identities.bank"]), ...),
        map=(mapping | None, None),
    )
    screening = one_of(catalogue["judge"])
    leakage = create_model("Leakage", __base__=Leakage, screening=(screening | None, None))
    fields: dict[str, Any] = {"identities": (identities, ...), "leakage": (leakage, leakage())}
    for slot in ("generator", "judge", "auditor", "encoding"):
        fields[slot] = (one_of(catalogue[slot]), ...)
    align = create_model("Align", __base__=Align, detector=(one_of(catalogue["detector"]), ...))
    fields["align"] = (align | None, None)
    for slot in ("measures", "filters", "twins", "exports"):
        fields[slot] = (tuple[one_of(catalogue[slot]), ...], ())  # type: ignore[misc]
    whole = create_model("Recipe", __base__=Recipe, **fields)
    whole.source_options = tuple(catalogue.get("sources", ()))
    return whole


def parse_recipe(model: type[Recipe], raw: object, where: str) -> Recipe:
    """Return the validated recipe.

    Raises:
        RecipeError: one line that names the first mistake, what is allowed, and how many more there are.
    """
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: got {type(raw).__name__} where a mapping of recipe keys is expected")
    if raw.get("kind") == "curate":
        from pipeline.domain.curation import curated_model

        model = curated_model(model)
    if raw.get("kind") == "merge":
        from pipeline.domain.merged_recipe import merged_model

        model = merged_model(model)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RecipeError(f"{where}: {explained(model, problems[0])}{more}") from None


def one_of(options: Sequence[type[Node]]) -> Any:
    """Return the type of a node that is one of these, told apart by `use`."""
    if len(options) == 1:
        return options[0]
    return Annotated[typing.Union[tuple(options)], Field(discriminator="use")]  # noqa: UP007 - built at run time
