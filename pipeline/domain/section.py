"""What every part of a recipe's tree is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema, model_validator


class Section(BaseModel):
    """Base of every part of the tree: immutable, no key that it does not know, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileContent(Section):
    """Base of what people write as the path of a file: where a recipe is read, the file's content takes its place."""

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError("a path has to be resolved to the content of its file; load the recipe from its own file")
        return value


PATH_OR_NOTHING = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None})
"""Of an option that holds a `FileContent` or nothing: the JSON Schema of what people write there."""
