"""Galleries as the report shows them: bounded in bytes, in groups that stay together, filtered by their tags."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.domain.report import Gallery, Picture

PICTURES_bytes = 4_000_000
"""JPEG bytes that all galleries of a page hold together at most: as base64 they are 5.3 MB of the 8 that a page may
weigh. A gallery that would hold more shows evenly chosen groups of its pictures and says so."""
MOST_BUTTONS = 10
"""Values of a tag that get a button each; of more, one is chosen from a list."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in the page; `tags` are (name, value)."""

    source: str
    alt: str
    caption: str
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A gallery in the page.

    Attributes:
        name, title, chosen: the gallery's.
        groups: pictures that stand together; one alone is a group of its own.
        paired: whether a filter shows and hides whole groups.
        filters: tag -> its values, where there are two or more.
        shown, held: how many pictures the page has, and how many the gallery had.
    """

    name: str
    title: str
    chosen: str
    groups: tuple[tuple[str, tuple[Shown, ...]], ...]
    paired: bool
    filters: tuple[tuple[str, tuple[str, ...]], ...]
    shown: int
    held: int


def panels(galleries: Sequence[Gallery], most_bytes: int = PICTURES_bytes) -> dict[str, Panel]:
    """Return every gallery that has pictures, by name; together they hold at most so many bytes of JPEG.

    Each may use an equal share; what small galleries leave goes to the larger ones.
    """
    weights = {g.name: sum(len(p.jpeg) for p in g.pictures) for g in galleries if g.pictures}
    allowed: dict[str, int] = {}
    left = most_bytes
    for n, name in enumerate(sorted(weights, key=lambda name: (weights[name], name))):
        allowed[name] = min(weights[name], left // (len(weights) - n))
        left -= allowed[name]
    return {g.name: _panel(g, allowed[g.name]) for g in galleries if g.pictures}


def _panel(gallery: Gallery, most_bytes: int) -> Panel:
    groups = _evenly(list(_groups(gallery.pictures)), most_bytes)
    shown = tuple((name, tuple(_shown(p) for p in pictures)) for name, pictures in groups)
    values: dict[str, set[str]] = {}
    for _, pictures in groups:
        for picture in pictures:
            for name, value in picture.tags.items():
                values.setdefault(name, set()).add(value)
    filters = tuple((name, tuple(sorted(found))) for name, found in sorted(values.items()) if len(found) > 1)
    count = sum(len(pictures) for _, pictures in shown)
    paired = gallery.name == "most-similar"
    return Panel(
        gallery.name, gallery.title, gallery.chosen, shown, paired, filters, count, len(gallery.pictures)
    )  # fmt: skip


def _groups(pictures: Sequence[Picture]) -> Iterator[tuple[str, list[Picture]]]:
    """Yield pictures by group, groups in the order in which they begin."""
    found: dict[tuple[str, int], list[Picture]] = {}
    for n, picture in enumerate(pictures):
        found.setdefault((picture.group, -1 if picture.group else n), []).append(picture)
    for (name, _), members in found.items():
        yield name, members


def _evenly(groups: list[tuple[str, list[Picture]]], most_bytes: int) -> list[tuple[str, list[Picture]]]:
    """Return as many evenly spaced groups as weigh no more than that; the first of the order is always among them."""
    for count in range(len(groups), 0, -1):
        chosen = [groups[n * len(groups) // count] for n in range(count)]
        if sum(len(p.jpeg) for _, members in chosen for p in members) <= most_bytes:
            return chosen
    return []


def _shown(picture: Picture) -> Shown:
    source = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
    return Shown(
        source, picture.alt or picture.caption or "a face", picture.caption, tuple(sorted(picture.tags.items()))
    )
