"""Recipe files as a person writes them: strict YAML from a path or a shipped name, and `--set` overrides."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.domain.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with facemint."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def find(reference: str) -> Path:
    """Return the file of a recipe given by path or shipped name; raises RecipeError where there is none."""
    path = Path(reference)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    shipped = RECIPES / f"{reference}.yaml"
    if not shipped.is_file():
        raise RecipeError(f"{reference}: neither a file nor a shipped recipe; shipped: {', '.join(shipped_recipes())}")
    return shipped


class _StrictLoader(yaml.SafeLoader):
    """YAML without silent overwriting: a key given twice is a mistake."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise RecipeError(f"line {key_node.start_mark.line + 1}: a {type(key).__name__} as key; a key is a word")
        if key in seen:
            raise RecipeError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; keep one")
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> Any:
    """Return what a YAML file holds; raises RecipeError where it cannot be read or says a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; give a path or one of: {', '.join(shipped_recipes())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.__class__.__name__}); a recipe is a UTF-8 YAML file"
        ) from None
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path.name}:{where} not valid YAML: {getattr(error, 'problem', error)}") from None


def read_recipe(path: Path) -> Any:
    """Return the recipe that a file is, or, where it is a step of a dataset (`recipes/g1.yaml`), the recipe in it."""
    raw = read(path)
    is_step = isinstance(raw, dict) and "fingerprint" in raw and isinstance(raw.get("recipe"), dict)
    return raw["recipe"] if is_step else raw


def override(raw: Any, text: str) -> None:
    """Apply one `a.b=value` to a raw recipe in place; raises RecipeError where the path leads nowhere."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise RecipeError(f"--set {text}: got no `=`; it reads --set a.b=value")
    if value.strip().startswith("+"):
        raise RecipeError(f"--set {text}: a step needs a dataset that it adds to; give it to generate, plan or submit")
    node = raw
    *parents, last = name.split(".")
    for part in parents:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise RecipeError(f"--set {name}: {part!r} leads nowhere; keys are joined by dots, list items by number")
    try:
        parsed = yaml.load(value, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except RecipeError as error:
        raise RecipeError(f"--set {name}: {error}") from None
    except yaml.YAMLError:
        raise RecipeError(
            f"--set {name}: {value!r} is not valid YAML; inside [ ] and {{ }} put text with signs such as ? in quotes"
        ) from None
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise RecipeError(f"--set {name}: {last!r} leads nowhere; keys are joined by dots, list items by number")
