"""What `facemint calibrate` prints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.show_lines import say as say_wrapped

NO_BETTER = 0.25
"""Equal error rate above which labels or crops are more likely at fault than the recogniser; 0.5 is a coin toss."""


@contextmanager
def status(*, quiet: bool) -> Iterator[Callable[[str], object]]:
    """Give a function that shows, on standard error, what is being done now."""
    if quiet:
        yield lambda _: None
        return
    with Console(stderr=True).status("starting") as line:
        yield line.update


def print_calibration(content: Mapping[str, Any], out: str) -> None:
    """Print thresholds and error rates by comparison, the genuine pairs, and the 1:N figures."""
    console = Console()
    say = functools.partial(say_wrapped, console, indent=2)
    space, measured = content["space"], content["measured"]
    people = f"{measured['identities']:,} identities, " if "identities" in measured else ""
    say(f"{content['recogniser']['name']} on {content['source']}: {people}{measured['images']:,} images")
    say(
        f"Alignment {space['alignment']}, weights {space['weights_sha256'][:16]}..., faces {measured['digest'][:16]}..."
    )
    left_out = measured["unreadable"] + measured.get("skipped", 0)
    if left_out:
        say(f"Left out, as they could not be read or embedded: {left_out:,}")
    pairs = content["pairs"]
    tables = {
        "Cosine at FMR, and by how many % the FMR may be off": _levels(pairs, _cosine),
        "FNMR at FMR in %, and by how many points it may be off": _levels(pairs, _fnmr),
        "Pairs: mean and lowest 1 % of the genuine cosines, mean of the others'": _pairs(pairs),
    }
    if content["one_to_many"]:
        title = "1:N: cosine at which that share of searches finds somebody else among N"
        tables[title] = _one_to_many(content["one_to_many"])
    for title, table in tables.items():
        console.print(f"\n{title}", style="bold", highlight=False)
        console.print(table)
    for line in _insufficient(pairs):
        say(line)
    for kind, why in measured["not_measured"].items():
        say(f"Not measured: {kind}, because {why}")
    say("Too few: fewer than 30 errors are expected there.")
    for kind, pair in pairs.items():
        if pair["eer"] > NO_BETTER:
            say(
                f"Careful: at an EER of {100 * pair['eer']:.0f} % ({kind}) this recogniser hardly tells these people "
                "apart; look at the labels, and at how the crops are aligned, before any threshold is taken from here."
            )
    say("Intervals are Wilson's at 95 % and take pairs as independent, which pairs that share a face are not.")
    say(f"Written to {out}; a recipe takes it by --set judge.calibration={out} (or auditor.calibration)")


def _levels(pairs: Mapping[str, Any], cell: Callable[[Mapping[str, Any], int], str]) -> Table:
    """Return a table of comparisons by levels; a level that no comparison supports has no column."""
    table = _table()
    levels = sorted({fmr for pair in pairs.values() for fmr in pair["fmr"]}, reverse=True)
    table.add_column("comparison", no_wrap=True)
    for fmr in levels:
        table.add_column(f"{fmr:.0e}", justify="right", no_wrap=True)
    for kind, pair in pairs.items():
        cells = [cell(pair, pair["fmr"].index(f)) if f in pair["fmr"] else "[dim]too few[/dim]" for f in levels]
        table.add_row(kind, *cells)
    return table


def _cosine(pair: Mapping[str, Any], level: int) -> str:
    off = (pair["fmr_high"][level] - pair["fmr_low"][level]) / 2 / pair["fmr"][level]
    return f"{pair['cos'][level]:.4f}\n[dim]±{100 * off:.2g}[/dim]"


def _fnmr(pair: Mapping[str, Any], level: int) -> str:
    off = (pair["fnmr_high"][level] - pair["fnmr_low"][level]) / 2
    return f"{100 * pair['fnmr'][level]:.2f}\n[dim]±{100 * off:.2f}[/dim]"


def _insufficient(pairs: Mapping[str, Any]) -> list[str]:
    """Return one line per comparison that says which levels its impostor pairs cannot support."""
    return [
        f"{kind}: insufficient data for FMR {', '.join(f'{f:.0e}' for f in pair['insufficient'])} "
        f"({pair['n_impostor']:,} impostor pairs; {pair['insufficient'][0]:.0e} needs "
        f"{round(30 / pair['insufficient'][0]):,})"
        for kind, pair in pairs.items()
        if pair["insufficient"]
    ]


def _pairs(pairs: Mapping[str, Any]) -> Table:
    table = _table()
    for name in ("comparison", "genuine", "impostor", "EER", "mean", "1 %", "others"):
        table.add_column(name, justify="left" if name == "comparison" else "right", no_wrap=True)
    for kind, pair in pairs.items():
        quantiles = dict(zip(pair["genuine_quantile"], pair["genuine_cos"], strict=True))
        table.add_row(
            kind,
            f"{pair['n_genuine']:,}",
            f"{pair['n_impostor']:,}",
            f"{100 * pair['eer']:.2f} %",
            f"{pair['genuine_mean_cos']:.3f}",
            f"{quantiles[0.01]:.3f}",
            f"{pair['impostor_mean_cos']:.3f}",
        )
    return table


def _one_to_many(kinds: Mapping[str, Any]) -> Table:
    rates = (0.1, 0.05, 0.01, 0.001)
    table = _table()
    for name in ("comparison", "N", "searches", *(f"{100 * r:g} %" for r in rates)):
        table.add_column(name, justify="left" if name == "comparison" else "right", no_wrap=True)
    for kind, blocks in kinds.items():
        first = kind
        for block in blocks:
            at = dict(zip((round(1 - q, 6) for q in block["quantile"]), block["cos"], strict=True))
            shown = (f"{at[r]:.4f}" if r in at else "[dim]too few[/dim]" for r in rates)
            table.add_row(first, f"{block['n']:,}", f"{block['n_probes']:,}", *shown)
            first = ""
        table.add_section()
    return table


def _table() -> Table:
    """Return an empty table whose narrow borders let six levels fit a terminal of 80 columns."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)
