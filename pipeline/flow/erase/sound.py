"""Whether a dataset is sound enough to be erased from: looked at before anything is begun.

What is lost is mended by making it again, and that is refused while an erasure is open. So one that meets a lost file
half-way could neither end nor be made able to; it must not begin. Documents, exports, previews and side-cars are left
out: they are written anew, or are not needed.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.domain.errors import StoreError
from pipeline.domain.manifest import Manifest
from pipeline.domain.privacy import HELD
from pipeline.flow.commit import receipts
from pipeline.flow.erase.rewrite import require_whole
from pipeline.flow.parts import Parts
from pipeline.flow.verify import verify

_HELD = ("segments/", "audits/", "enrolled/", *HELD)
_NEEDED = (*_HELD, "receipts/", "recipes/")


def require_sound(parts: Parts, newest: Manifest) -> None:
    """Raise StoreError, naming the file and what to do, where something is lost that what stays rests on.

    Told from names and sizes: what would go is shown so, before anybody decides.

    Args:
        parts: the ports.
        newest: the newest version.
    """
    needed = (*_NEEDED, newest.path, f"versions/{newest.version}/index-")
    found = [p for p in verify(parts.store, parts.segments, parts.codec).problems if p.path.startswith(needed)]
    if found:
        more = f" ({len(found) - 1} more: facemint verify)" if len(found) > 1 else ""
        raise StoreError(f"nothing is erased from a damaged dataset: {found[0]}; then erase{more}")


def require_unaltered(parts: Parts, step: Callable[[], None]) -> None:
    """Raise StoreError where a file that what stays rests on has other bytes than its receipt names.

    Every file is read once: publishing reads the tables and an export the tars, so this is of the same order.

    Args:
        parts: the ports.
        step: called before each unit; may raise to end.
    """
    for _, receipt in sorted(receipts(parts.store).items()):
        step()
        for entry in receipt.files:
            if entry.path.startswith(_HELD):
                require_whole(parts, entry)
