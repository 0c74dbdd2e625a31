"""What a validation error of a recipe says in one line: the path as it was written, what was got, what is allowed."""

from __future__ import annotations

import difflib
import typing
from typing import Any

from pydantic import BaseModel


def explained(model: type[BaseModel], problem: Any) -> str:
    """Return one line for a pydantic problem: path, what was got, what is allowed."""
    known, path, here = _walk(model, problem["loc"])
    name = ".".join(path)
    kind, context, got = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{name}: unknown key; {hint}known keys: {', '.join(sorted(known))}"
    if kind == "missing":
        return f"{name}: missing; it must be given"
    if kind.startswith("union_tag"):
        # the tag itself is at fault, so the allowed names are worth more than pydantic's sentence
        expected = context.get("expected_tags") or _names(here)
        asked = context.get("tag")
        if asked is None:
            return f"{name}: a component needs `use: NAME`; known names: {expected}"
        near = difflib.get_close_matches(asked, [t.strip(" '") for t in expected.split(",")], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{name}.use: unknown {asked!r}; {hint}known names: {expected}"
    if kind in ("model_type", "model_attributes_type"):
        # pydantic speaks of objects and instances here
        names = _names(here)
        wanted = f"a component as {{use: NAME, ...}} is expected; known names: {names}" if names else _keys(here)
        return f"{name}: got {_shown(got)}; {wanted}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{name}: got {_shown(got)}; {message[0].lower() + message[1:]}"


def _shown(got: object) -> str:
    return repr(got) if len(repr(got)) <= 60 else type(got).__name__


def _names(models: list[Any]) -> str:
    """Return the names of the components that could stand here."""
    return ", ".join(repr(tag) for m in models for tag in _tags(m))


def _keys(models: list[Any]) -> str:
    return f"keys are expected: {', '.join(sorted({k for m in models for k in m.model_fields}))}"


def _walk(model: Any, loc: tuple[int | str, ...]) -> tuple[list[str], list[str], list[Any]]:
    """Return the keys known beside the last part of `loc`, `loc` without union tags, and the models that fit there."""
    known: list[str] = []
    path: list[str] = []
    current: list[Any] = [model]
    for part in loc:
        if isinstance(part, int):
            path.append(str(part))
            continue
        tagged = [m for m in current if part in _tags(m)]
        if len(current) > 1 and tagged:
            current = tagged
            continue
        fields = {k: f for m in current for k, f in m.model_fields.items()}
        known = list(fields)
        path.append(part)
        current = _models(fields[part].annotation) if part in fields else current
    return known, path, current


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get("use")
    return typing.get_args(field.annotation) if field is not None else ()


def _models(annotation: Any) -> list[Any]:
    """Return every pydantic model inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in typing.get_args(annotation) for m in _models(arg)]
