"""What `facemint reclean` prints: what another recogniser says of a published set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.live import counted
from jobs.show_lines import fact, say
from jobs.show_refilter import print_published as print_judged

if TYPE_CHECKING:
    from jobs.live import View
    from pipeline.execute.run import Published

SHOWN = 10


def print_found(facts: Mapping[str, Any]) -> None:
    """Print what does not belong, and who look like one person."""
    console = Console()
    say(console, f"Version {facts['version']}, looked at by {facts['by']}")
    out = f"{facts['images_left_out']:,} of {counted(facts['images'], 'image')} are not of their label's main cluster"
    fact(console, "Left out", f"{out} ({facts['unreadable']:,} unreadable)")
    if facts["identities_left_out"]:
        fact(console, "People", f"{facts['identities_left_out']:,} keep too few images, and go as a whole")
    same = facts["same_cos"]
    levels = f"link {facts['link_cos']:.3f}, keep {facts['keep_cos']:.3f}"
    fact(console, "Cosines", levels + (f", same {same:.3f}" if same is not None else ""))
    if facts["alike_in_all"]:
        shown = ", ".join(f"{a} and {b} ({cos:.3f})" for a, b, cos in facts["alike"][:SHOWN])
        more = f" and {facts['alike_in_all'] - SHOWN:,} more" if facts["alike_in_all"] > SHOWN else ""
        fact(console, "Look", f"labels that it takes for one person: {shown}{more}; they stay apart")


def print_published(published: Published, uri: str, view: View) -> None:
    """Print the version that came of it."""
    print_judged([published], uri, view)
