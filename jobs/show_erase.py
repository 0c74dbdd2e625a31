"""What `facemint erase` prints: whom a face matches, what would go, and what went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jobs.live import counted
from jobs.show_lines import fact, say

ELSEWHERE = (
    "Exports, merged datasets and copies that lie elsewhere are not known here: remove them too, and retrain what was "
    "trained."
)


COMING = (
    "Photographs of them that sources bring later would come back as somebody new: keep them out of the sources, and "
    "look with --face whenever the dataset has grown."
)
UNCALIBRATED = (
    "The judge is not calibrated: no face confirms anybody. Look at whom these are, and name who is meant with "
    "--identity alone."
)
NO_THRESHOLD = "The judge's calibration gives no 1:N threshold here: no match counts."
VERSIONS_SHOWN = 10


def print_dry(facts: Mapping[str, Any]) -> None:
    """Print what an erasure would come to."""
    console = Console()
    if facts["unfinished"]:
        say(console, f"{facts['uri']}: an erasure was begun and not finished ({facts['unfinished']}).")
        say(console, f"Run `facemint erase {facts['uri']} --yes`, which finishes it; then ask again.")
        return
    if "face" in facts:
        _print_matches(console, facts["face"])
    if facts["already"]:
        say(console, f"{facts['already']} of what was asked for is erased already.")
    if not facts["tombstones"]:
        how = "; to erase somebody, name who is meant with --identity" if "face" in facts else ""
        say(console, f"Nothing would be erased{how}; nothing is written.")
        return
    say(console, f"{facts['uri']}, version {facts['version']}: what --yes would erase; nothing is written")
    console.print()
    if facts["identities"]:
        table = Table(title="Identities", title_justify="left", title_style="bold")
        for name in ("identity", "cell", "label", "images published"):
            table.add_column(name, justify="left" if name == "cell" else "right")
        for row in facts["identities"]:
            label = "-" if row["label"] is None else str(row["label"])
            table.add_row(str(row["identity"]), row["cell"], label, str(row["images"]))
        console.print(table)
    _print_files(console, facts)
    for version, images in facts["images_by_version"].items():
        fact(console, "Images", f"{counted(images, 'image')} of {version}, twins included")
    for export in facts["exports"]:
        fact(console, "Export", f"{export} is removed; those that the recipe names are written anew")
    for split in facts["splits"]:
        fact(console, "Split", f"{split} forgets them")
    fact(console, "Left", f"{_people(facts['identities_left'])}; their labels stay")
    _say_what_stays(console, facts, whole=bool(facts["identities"]))
    say(console, ELSEWHERE)


def print_erased(facts: Mapping[str, Any]) -> None:
    """Print what was erased."""
    console = Console()
    if facts["already"]:
        say(console, f"{facts['already']} of what was asked for was erased before.")
    for done in facts["erasures"]:
        what = [_people(done["identities"])] if done["identities"] else []
        what += [counted(done["images"], "single image")] if done["images"] else []
        gone = f"{counted(done['files_removed'], 'file')} ({decimal(done['bytes_removed'])}) removed"
        say(console, f"Erased {' and '.join(what) or 'a source'}: {gone}; nothing of it is left here ({done['log']}).")
    images, people = counted(facts["images"], "image"), _people(facts["identities"])
    say(console, f"{facts['uri']}: version {facts['version']}, {people}, {images}")
    say(console, f"Digest {facts['digest']}")
    if kept := facts["object_versions"]:
        say(console, f"The store still keeps {counted(len(kept), 'version')} of deleted objects; remove them there:")
        for place in kept[:VERSIONS_SHOWN]:
            say(console, f"  {place}", 4)
        if len(kept) > VERSIONS_SHOWN:
            say(console, f"  and {len(kept) - VERSIONS_SHOWN:,} more, which --json lists")
    if facts["erasures"]:
        _say_what_stays(console, facts, whole=any(done["identities"] for done in facts["erasures"]))
        say(console, ELSEWHERE)


def _say_what_stays(console: Console, facts: Mapping[str, Any], *, whole: bool) -> None:
    """Say that other images of somebody who loses single ones stay, and what may bring erased people back."""
    stay = facts["stay_with_others"]
    if stay:
        them = ", ".join(f"{one['identity']} ({counted(one['images'], 'image')})" for one in stay[:VERSIONS_SHOWN])
        more = f" and {len(stay) - VERSIONS_SHOWN:,} more" if len(stay) > VERSIONS_SHOWN else ""
        them = f"{'identity' if len(stay) == 1 else 'identities'} {them}{more}"
        say(console, f"Other images of the same people stay: {them}; --identity erases all of somebody.")
    if whole and facts["real_people"]:
        say(console, COMING)


def _rate(fmr: float | None, known: Sequence[float] | None) -> str:
    """Return an FMR, and at an end of what is calibrated that it may be beyond."""
    if fmr is None or known is None:
        return "-"
    low, high = known
    beyond = "<= " if fmr <= low * (1 + 1e-9) else ">= " if fmr >= high * (1 - 1e-9) else ""
    return f"{beyond}{fmr:.2g}"


def _people(number: int) -> str:
    return f"{number:,} {'identity' if number == 1 else 'identities'}"


def _print_files(console: Console, facts: Mapping[str, Any]) -> None:
    table = Table(title="Files", title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("files", "size"):
        table.add_column(name, justify="right")
    rewritten = facts["rewritten"]
    table.add_row("rewritten without them", str(len(rewritten)), decimal(sum(f["bytes"] for f in rewritten)))
    for folder, found in facts["removed"].items():
        table.add_row(f"removed below {folder}/", str(found["files"]), decimal(found["bytes"]))
    console.print(table)


def _print_matches(console: Console, face: Mapping[str, Any]) -> None:
    table = Table(title=f"Nearest of {face['of']} identities", title_justify="left", title_style="bold")
    for name in ("identity", "cosine", "FMR", ""):
        table.add_column(name, justify="right" if name else "left")
    for match in face["nearest"]:
        said = "reaches the 1:N threshold" if match["reaches"] else ""
        table.add_row(str(match["identity"]), f"{match['cos']:.3f}", _rate(match["fmr"], face["fmr_range"]), said)
    console.print(table)
    if face["threshold_cos"] is None:
        say(console, UNCALIBRATED if face["fmr_range"] is None else NO_THRESHOLD)
    else:
        beyond = f"; calibrated for {face['calibrated_n']} people at most" if face["calibrated_n"] else ""
        say(console, f"1:N threshold: cosine {face['threshold_cos']:.3f} at FPIR {face['fpir']:g}{beyond}")
