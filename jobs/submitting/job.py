"""What is handed over: one run of a recipe, under a name that follows from what it would make."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.domain.compute import Compute
from pipeline.domain.manifest import canonical_json

NAME_CHARS = 16
"""Of a recipe's name in a job's: KubeRay takes names of 47 characters, and numbers of tries come behind."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a recipe on somebody else's machines."""

    name: str
    """The submission's id, without the number of the try."""
    recipe: Mapping[str, Any]
    """Resolved, defaults filled in."""
    out: str
    compute: Compute
    arguments: tuple[str, ...] = ()
    """Further arguments of the verb."""
    if_busy: str = "wait"
    """What the run does where another one holds the dataset."""
    program: tuple[str, ...] = ("facemint",)
    """What runs facemint there."""

    def attempt(self, number: int) -> str:
        """Return the id of a try, counted from 1."""
        return f"{self.name}-{number}"

    def recipe_yaml(self) -> str:
        """Return the recipe as a file."""
        return yaml.safe_dump(dict(self.recipe), sort_keys=False)

    def workers(self) -> int:
        """Return how many workers the run asks for; without a number those of one node."""
        return self.compute.workers or self.compute.workers_per_node

    def words(self, recipe: str, *, address: str | None = None) -> list[str]:
        """Return the words that run it: on a Ray cluster where an address is given, else as the recipe says."""
        where = ["--executor", "ray", "--address", address, "--workers", str(self.workers())] if address else []
        verb = [str(self.recipe["kind"]), recipe, "--out", self.out]
        return [*self.program, *verb, *where, "--if-busy", self.if_busy, *self.arguments]

    def entrypoint(self, recipe: str, *, address: str) -> str:
        """Return the same for a shell, which gives way to it: what is sent to the one reaches the other."""
        return "exec " + shlex.join(self.words(recipe, address=address))


def submission_name(recipe_name: str, **identity: Any) -> str:
    """Return the id of a submission: equal for what would make the same version of the same dataset.

    Args:
        recipe_name: shown in the name, so that people recognise it.
        identity: dataset, fingerprint, plan digest, newest version and further arguments: all that decides.
    """
    digest = hashlib.sha256(canonical_json(identity)).hexdigest()[:10]
    shown = recipe_name.replace("_", "-")[:NAME_CHARS].strip("-")
    return f"facemint-{shown}-{digest}"
