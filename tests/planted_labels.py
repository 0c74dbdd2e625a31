"""Label noise with a known truth: photographs of known people, with faults planted that a crawl has.

Legend: a file is named by its path below the root.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps


@dataclass(slots=True)
class Planted:
    """What was planted.

    Attributes:
        person: file -> who is really on it.
        moved: file -> the folder's person, of images that lie in a wrong folder.
        copies: file -> the file that it is a copy of.
        split: person -> the second folder in which some of the images lie.
        joined: person -> the person in whose folder all the images lie.
        junk: files that are no photographs of anybody.
    """

    person: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    split: dict[str, str] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)
    junk: set[str] = field(default_factory=set)


def plant(faces: Path, people: list[str], root: Path, seed: int) -> Planted:
    """Copy the photographs of people below `root`, a folder for each, and plant faults; return the truth.

    5 % of the images lie in wrong folders, 3 % are copies (bytes, another quality, mirrored, another size), two people
    have two folders, two others share one, and some files are junk.
    """
    draw, truth = random.Random(seed), Planted()
    many = sorted(people, key=lambda p: (-len(list((faces / p).glob("*.jpg"))), p))
    twice, guests, hosts = many[:2], many[2:4], many[4:6]
    files: list[str] = []
    for person in sorted(people):
        pictures = sorted((faces / person).glob("*.jpg"))
        for n, picture in enumerate(pictures):
            folder = person
            if person in twice and n >= len(pictures) // 2:
                folder = truth.split.setdefault(person, f"{person}_again")
            if person in guests[:1]:
                folder = truth.joined.setdefault(person, hosts[0])
            files.append(_put(root, folder, picture.name, picture.read_bytes()))
            truth.person[files[-1]] = person
    settled = {*truth.split, *truth.joined, *truth.joined.values()}
    able = [f for f in files if truth.person[f] not in settled]
    for name in draw.sample(able, round(0.05 * len(files))):
        folder = draw.choice([p for p in people if p != truth.person[name] and p not in settled])
        there = (root / name).rename(root / folder / f"stray-{Path(name).name}")
        files[files.index(name)] = moved = str(there.relative_to(root))
        truth.person[moved], truth.moved[moved] = truth.person.pop(name), folder
    kinds = ("bytes", "quality", "mirrored", "size")
    for n, name in enumerate(draw.sample([f for f in files if f not in truth.moved], round(0.03 * len(files)))):
        data = _copied((root / name).read_bytes(), kinds[n % 4])
        copy = _put(root, Path(name).parent.name, f"copy-{kinds[n % 4]}-{Path(name).name}", data)
        truth.person[copy], truth.copies[copy] = truth.person[name], name
    first = (root / files[0]).read_bytes()
    junk = {"page.jpg": b"<html>not found</html>", "cut.jpg": first[: len(first) // 2], "empty.jpg": b"", "notes": b"x"}
    junk["grey.jpg"] = _encoded(Image.new("RGB", (250, 250), (90, 90, 90)), 90)
    for n, (name, data) in enumerate(junk.items()):
        truth.junk.add(_put(root, many[6 + n % 3], name, data))
    return truth


def _put(root: Path, folder: str, name: str, data: bytes) -> str:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"{folder}/{name}"


def _copied(data: bytes, kind: str) -> bytes:
    if kind == "bytes":
        return data
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if kind == "quality":
        return _encoded(picture, 60)
    if kind == "mirrored":
        return _encoded(ImageOps.mirror(picture), 92)
    return _encoded(picture.resize((180, 180), Image.Resampling.LANCZOS), 92)


def _encoded(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Score:
    """Of one kind of fault: how many were planted, how many of these were dealt with, how many were taken for one."""

    planted: int
    found: int
    taken: int
    right: int

    @property
    def recall(self) -> float:
        """Return the share of what was planted that was dealt with."""
        return self.found / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Return the share of what was taken for such a fault that was one."""
        return self.right / self.taken if self.taken else 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: its label in the published version, or why it has none."""

    label: int | None
    reason: str


COPY_REASONS = ("duplicate_bytes", "near_duplicate", "same_picture_elsewhere")
JUNK_REASONS = ("not_an_image", "truncated", "corrupt", "empty", "no_face", "bad_header", "format_not_allowed")
STRAY_REASONS = ("not_of_its_label", "label_without_cluster", "further_person_of_label")


def person_of_labels(truth: Planted, found: dict[str, Outcome]) -> dict[int, str]:
    """Return label -> the person whom most of its images show."""
    held: dict[int, dict[str, int]] = {}
    for name, outcome in found.items():
        if outcome.label is not None:
            of = held.setdefault(outcome.label, {})
            of[truth.person.get(name, "junk")] = of.get(truth.person.get(name, "junk"), 0) + 1
    return {label: max(sorted(of), key=lambda p: of[p]) for label, of in held.items()}


def scores(truth: Planted, found: dict[str, Outcome]) -> dict[str, Score]:
    """Return the score of each kind of fault; a moved image is dealt with where it is not under the wrong person."""
    whose = person_of_labels(truth, found)
    wrong = {n for n, o in found.items() if o.label is not None and whose[o.label] != truth.person.get(n)}
    folder = {n: Path(n).parent.name for n in found}
    moved_away = {
        n for n, o in found.items()
        if o.reason in STRAY_REASONS or (o.label is not None and whose[o.label] != _of(truth, folder[n]))
    }  # fmt: skip
    # images of somebody else, in whichever way they came into this folder
    foreign = {n for n in truth.person if truth.person[n] != _of(truth, folder[n])}
    copies = {n for n, o in found.items() if o.reason in COPY_REASONS}
    # of a pair of copies either may go
    pairs = {frozenset((a, b)) for a, b in truth.copies.items()}
    apart = sum(bool(pair & copies) for pair in pairs)
    twins = {n for pair in pairs for n in pair}
    junk = {n for n, o in found.items() if o.reason in JUNK_REASONS}
    together = [len({found[n].label for n in truth.person if truth.person[n] == p and found[n].label is not None}) == 1
                for p in truth.split]  # fmt: skip
    separate = [_alone(truth, found, guest, host) for guest, host in truth.joined.items()]
    return {
        "moved": Score(
            len(truth.moved), sum(n not in wrong for n in truth.moved), len(moved_away), len(moved_away & foreign)
        ),
        "copies": Score(len(truth.copies), apart, len(copies), len(copies & twins)),
        "split": Score(len(together), sum(together), len(together), sum(together)),
        "joined": Score(len(separate), sum(separate), len(separate), sum(separate)),
        "junk": Score(len(truth.junk), len(truth.junk & junk), len(junk), len(junk & truth.junk)),
    }


def label_noise(truth: Planted, found: dict[str, Outcome]) -> float:
    """Return the share of published images that are not of the person whom most of their label show."""
    whose = person_of_labels(truth, found)
    held = [n for n, o in found.items() if o.label is not None]
    return sum(whose[found[n].label or 0] != truth.person.get(n) for n in held) / len(held)


def good_lost(truth: Planted, found: dict[str, Outcome]) -> list[str]:
    """Return the images without any fault that are not published; of a pair of copies one has to be."""
    pairs = dict(truth.copies) | {b: a for a, b in truth.copies.items()}
    good = [n for n in truth.person if n not in truth.moved and n not in truth.copies]
    return sorted(n for n in good if found[n].label is None and (n not in pairs or found[pairs[n]].label is None))


def _of(truth: Planted, folder: str) -> str:
    """Return whose a folder is."""
    return next((p for p, second in truth.split.items() if second == folder), folder)


def _alone(truth: Planted, found: dict[str, Outcome], guest: str, host: str) -> bool:
    """Return whether two people who shared a folder have no label in common, and both have one."""
    labels = [{found[n].label for n in truth.person if truth.person[n] == p} - {None} for p in (guest, host)]
    return all(labels) and not labels[0] & labels[1]
