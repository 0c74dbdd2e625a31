"""Where a reference's bytes lie: on this machine, at an fsspec address, on a hub at a commit, or nowhere at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.models.formula import SCHEME as FORMULA
from pipeline.domain.errors import ModelError

HUB = "hf://"
_HUB_FORM = re.compile(r"hf://(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)@(?P<revision>[^/]+)/(?P<file>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at a commit."""

    repository: str
    commit: str
    file: str


def is_formula(uri: str) -> bool:
    """Return whether a reference is to weights that are made up by formula."""
    return uri.startswith(FORMULA)


def local_path(uri: str) -> Path | None:
    """Return the path of this machine that a reference names, or None where it names another place."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri or is_formula(uri) else Path(uri).expanduser()


def hub_file(uri: str) -> HubFile:
    """Return what an `hf://` address names.

    Raises:
        ModelError: it is not of the form, or names a branch or a tag: what these hold can change, a commit cannot.
    """
    found = _HUB_FORM.fullmatch(uri)
    if found is None or ".." in found["file"].split("/"):
        raise ModelError(f"{uri}: is no file of a hub; the form is hf://owner/name@COMMIT/path/of/file")
    if not _COMMIT.fullmatch(found["revision"]):
        raise ModelError(
            f"{uri}: {found['revision']!r} is no commit, and what it names can change; give the commit's 40 "
            "hexadecimal digits, which the repository's page shows under its history"
        )
    return HubFile(f"{found['owner']}/{found['name']}", found["revision"], found["file"])


def shown(uri: str) -> str:
    """Return an address as messages may show it: without a password, a token or a signed query."""
    if "://" not in uri:
        return uri
    scheme, rest = uri.split("://", 1)
    place, slash, path = rest.partition("/")
    if "@" in place and not uri.startswith(HUB):
        place = place.rpartition("@")[2]
    return f"{scheme}://{place}{slash}{path.partition('?')[0]}"


__all__ = ["HUB", "HubFile", "hub_file", "is_formula", "local_path", "shown"]
