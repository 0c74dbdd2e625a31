"""`facemint models`: what is known of published weights, what is here, how it comes here and is made safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import recipe_file
from jobs.wiring.models import cache_folder
from pipeline.domain.errors import ModelError, UserError
from pipeline.domain.model_cards import PUBLISHED, PublishedModel, card_of, published
from pipeline.domain.ports import ModelCard
from pipeline.domain.weights import WeightsRef

if TYPE_CHECKING:
    from pipeline.domain.recipe import Recipe


def known_models(name: str | None = None) -> dict[str, Any]:
    """Return the cards of published models, or one of them, and what of them lies in this machine's cache.

    Raises:
        ModelError: no model of that name is known.
    """
    from pipeline.adapters.models.cache import ModelCache

    cache = ModelCache(cache_folder())
    fetched = cache.addresses()
    cards = [published(name)] if name else list(PUBLISHED.values())
    return {
        "cache": str(cache.root),
        "models": [card.to_dict() | {"here": _here(card, fetched)} for card in cards],
        "fetched": list(fetched.values()),
    }


def _here(card: PublishedModel, fetched: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the digests of what was fetched of a model."""
    refs = (WeightsRef(uri=uri, sha256=facts["sha256"]) for uri, facts in fetched.items())
    return sorted({str(ref.sha256) for ref in refs if card_of(ref) == card})


def fetch_models(
    references: Sequence[str], sha256: str | None = None, say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Fetch what addresses and recipes name into this machine's cache, and return what is here now.

    Args:
        references: addresses, models by name and commit (`arc2face-unet@COMMIT`), recipes.
        sha256: which bytes the one address must hold.
        say: is told what is being brought.

    Raises:
        ModelError: one cannot be had; what came before it is kept.
    """
    from pipeline.adapters.models import ModelWeights
    from pipeline.adapters.models.places import is_formula, local_path, shown

    refs = [ref for reference in references for ref in _named(reference)]
    if sha256 is not None:
        if len(refs) != 1:
            raise UserError("--sha256: states the bytes of one file; give one address with it")
        refs = [_pinned(refs[0].uri, sha256)]
    weights = ModelWeights(cache_folder(), may_fetch=True)
    # what has to be brought by hand is missed after all that can be fetched
    refs.sort(key=lambda ref: local_path(ref.uri) is not None)
    fetched = []
    for ref in refs:
        if not is_formula(ref.uri):
            say(f"bringing {shown(ref.uri)}")
            fetched.append(_fetched(weights, ref))
    return {"cache": str(cache_folder()), "fetched": fetched}


def _fetched(weights: Any, ref: WeightsRef) -> dict[str, Any]:
    path = weights.path(ref)
    found = WeightsRef(uri=ref.uri, sha256=weights.sha256(ref))
    return {"uri": ref.uri, "sha256": found.sha256, "bytes": path.stat().st_size, "path": str(path), **_terms(found)}


def _terms(ref: WeightsRef) -> dict[str, Any]:
    card = card_of(ref)
    if card is None:
        return {"model": None, "licence": None, "commercial": None}
    return {"model": card.name, "licence": card.licence, "commercial": card.commercial}


def check_models(references: Sequence[str]) -> dict[str, Any]:
    """Read everything that the cache keeps, or what addresses and recipes name, and return how each was found.

    Nothing is fetched. `state` is `sound`, `missing`, `altered` or `refused`, and `said` tells more.
    """
    from pipeline.adapters.models import ModelWeights

    weights = ModelWeights(cache_folder())
    refs = [ref for reference in references for ref in _named(reference)]
    rows = [_checked(weights, ref) for ref in refs] if references else list(_kept(weights.cache))
    bad = sum(row["state"] != "sound" for row in rows)
    return {"cache": str(cache_folder()), "checked": rows, "problems": bad}


def _kept(cache: Any) -> Iterator[dict[str, Any]]:
    """Yield one row for everything that the cache keeps."""
    uris: dict[str, list[str]] = {}
    for uri, facts in cache.addresses().items():
        uris.setdefault(facts["sha256"], []).append(uri)
    for digest, altered in cache.altered().items():
        said = "its bytes are others now; it is fetched again when it is next asked for" if altered else ""
        state = "altered" if altered else "sound"
        yield {"uri": ", ".join(uris.get(digest, [])) or None, "sha256": digest, "state": state, "said": said}


def _checked(weights: Any, ref: WeightsRef) -> dict[str, Any]:
    from pipeline.adapters.models import describe
    from pipeline.adapters.models.places import is_formula

    row: dict[str, Any] = {"uri": ref.uri, "sha256": ref.sha256}
    if is_formula(ref.uri):
        return row | {"state": "sound", "said": "made up by formula; there is no file"}
    try:
        path = weights.path(ref)
        found = WeightsRef(uri=ref.uri, sha256=weights.cache.digest(path, afresh=True))
    except ModelError as error:
        return row | {"state": "altered" if "SHA-256" in str(error) else "missing", "said": str(error)}
    if (ref.sha256 or weights.cache.digest_at(ref.uri)) not in (None, found.sha256):
        said = f"has SHA-256 {found.sha256} now, though its size and time are as they were"
        return row | {"state": "altered", "said": said}
    row |= {"sha256": found.sha256, "bytes": path.stat().st_size, **_terms(found)}
    card = card_of(found)
    if card is not None and card.form not in ("safetensors", "torch"):
        return row | {"state": "sound", "said": f"{card.form}, known by its digest"}
    try:
        holds = describe(path, ref.uri)
    except ModelError as error:
        return row | {"state": "refused", "said": str(error)}
    said = f"{holds['tensors']:,} tensors" + ("" if ref.sha256 else "; the recipe or command pins no digest")
    return row | holds | {"state": "sound", "said": said}


def convert_model(source: str, target: str, *, section: str = "", ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Write the tensors of a pickle as safetensors, read in a process of its own; return what came of it.

    The source is a path, or the address of something that was fetched.
    """
    from pipeline.adapters.models import ModelWeights, convert_file

    weights = ModelWeights(cache_folder())
    path = Path(target).expanduser()
    read = weights.path(WeightsRef(uri=source)) if "://" in source else Path(source).expanduser()
    answer = convert_file(read, path, section=section, ignore=ignore)
    digest = weights.sha256(WeightsRef(uri=str(path)))
    return {"source": source, "path": str(path), "sha256": digest, **answer}


def known_weights(recipe: Recipe) -> list[ModelCard]:
    """Return a card for every reference of a recipe whose publication is known here, for the check of licences.

    A part that states a licence of its own with `commercial: true` speaks for its weights itself.
    """
    found = []
    for ref in _references(recipe.model_dump(mode="json")):
        card = card_of(ref)
        if card is not None:
            found.append(
                ModelCard(
                    card.name, ref.sha256 or "", card.licence, card.source, card.commercial,
                    row_independent=True, epoch=0,
                )
            )  # fmt: skip
    return found


def _references(raw: Any, *, spoken_for: bool = False) -> Iterator[WeightsRef]:
    """Yield the references to weights in a part of a recipe as YAML or JSON has it."""
    if isinstance(raw, Mapping):
        if isinstance(raw.get("uri"), str) and set(raw) <= set(WeightsRef.model_fields):
            if not spoken_for:
                yield WeightsRef.model_validate(raw)
            return
        spoken_for = spoken_for or (raw.get("commercial") is True and bool(raw.get("licence")))
        for value in raw.values():
            yield from _references(value, spoken_for=spoken_for)
    elif isinstance(raw, list | tuple):
        for value in raw:
            yield from _references(value, spoken_for=spoken_for)


def _named(reference: str) -> list[WeightsRef]:
    """Return what a user names: an address, a model with a commit, a file of weights, or a recipe with all in it."""
    name, _, commit = reference.partition("@")
    if "://" in reference or reference.startswith("formula:"):
        return [WeightsRef(uri=reference)]
    if name in PUBLISHED:
        return [WeightsRef(uri=_address(published(name), commit))]
    path = Path(reference).expanduser()
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        return [WeightsRef(uri=reference)]
    refs = list(dict.fromkeys(_everything(recipe_file.read_recipe(recipe_file.find(reference)))))
    if not refs:
        raise ModelError(f"{reference}: names no weights; give an address, or a recipe of a published generator")
    return refs


def _everything(raw: Any) -> Iterator[WeightsRef]:
    return _references(_silent(raw))


def _silent(raw: Any) -> Any:
    """Return a recipe without what its parts say of licences, so that every reference in it is found."""
    if isinstance(raw, Mapping):
        return {k: _silent(v) for k, v in raw.items() if k != "commercial"}
    return [_silent(v) for v in raw] if isinstance(raw, list) else raw


def _address(card: PublishedModel, commit: str) -> str:
    if not card.address:
        raise ModelError(f"{card.name}: no address of its file is known here; get it from {card.source}")
    if not commit:
        raise ModelError(
            f"{card.name}: which commit of {card.repository}? Give {card.name}@COMMIT with the 40 hexadecimal digits "
            f"that {card.source} shows under its history"
        )
    return card.address.replace("COMMIT", commit)


def _pinned(uri: str, sha256: str) -> WeightsRef:
    from pydantic import ValidationError

    try:
        return WeightsRef(uri=uri, sha256=sha256.lower())
    except ValidationError:
        raise UserError(f"--sha256 {sha256}: is no SHA-256; it has 64 hexadecimal digits") from None


__all__ = ["check_models", "convert_model", "fetch_models", "known_models", "known_weights"]
