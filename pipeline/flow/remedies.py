"""What to do about a file that is lost, by where it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.domain.manifest import Manifest
from pipeline.domain.previews import PREFIX as PREVIEWS
from pipeline.domain.privacy import HELD, SOURCES
from pipeline.domain.revisions import parsed
from pipeline.domain.splits import FOLDER as SPLITS
from pipeline.flow.sidecars import FOLDERS as SIDE_CARS

RUN_AGAIN = "run the same generate command again: its unit alone is made again"
MEASURE_AGAIN = "run the same measure command again: it alone is made again"
DELETE_AND_RUN = f"delete it, then {RUN_AGAIN}"
RESTORE = "restore it from a copy"
_KEPT = ("segments/", "enrolled/")
_UNIT = re.compile(r"receipts/(?P<stage>.+)-g(?P<generation>\d+)(?:-\d+)?(?:\.r\d+)?\.json")


def remedy_of(path: str, *, altered: bool = False) -> str:
    """Return what to do about a named file that is missing or has another size, or, with the right size, is altered."""
    stem, _, suffix = path.rpartition(".")
    if path.startswith(SOURCES) or (path.startswith((*_KEPT, *HELD)) and parsed(stem)[1] and suffix != "tar"):
        # what it was made of was erased, or is out of our hands; images alone can be made again, from the rows beside
        return RESTORE
    if path.startswith((*_KEPT, "audits/", PREVIEWS, *HELD)):
        return RUN_AGAIN.replace(" again:", " again with --deep:") if altered else RUN_AGAIN
    if path.startswith(SIDE_CARS):
        return f"delete it, then {MEASURE_AGAIN}" if altered else MEASURE_AGAIN
    if path.startswith(SPLITS):
        return f"{RESTORE}, or delete both files of this split and run the same split command again"
    if path.startswith("exports/"):
        anew = "run the same generate command again: the export of the newest version is written anew"
        return f"{RESTORE}, or {'delete it and ' if altered else ''}{anew}"
    if not altered and path.startswith("versions/") and not path.endswith("manifest.json"):
        return f"{RESTORE}, or run the same generate command again: what the newest version lacks is written again"
    return RESTORE


def remedy_of_receipt(path: str, manifests: Mapping[str, Manifest]) -> str:
    """Return what to do about a receipt that is missing or damaged.

    A unit that no version holds is simply worked again, and an audit repeated. What is published follows from its
    receipts: only those of the newest generation's images come out of a plan again.
    """
    match = _UNIT.fullmatch(path)
    published = {m.generation for m in manifests.values()}
    if match is None or parsed(path.removesuffix(".json"))[1]:
        return RESTORE
    stage, generation = match["stage"], int(match["generation"])
    if stage.startswith("audit") or generation not in published:
        return DELETE_AND_RUN
    if stage == "make" and generation == max(published):
        return f"{RESTORE}, or {DELETE_AND_RUN}"
    return RESTORE
