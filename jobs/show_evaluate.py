"""What `facemint evaluate` shows: a bar with the time that is left while it trains, and tables at the end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from jobs.show_lines import say as say_wrapped

Say = Callable[[str, int, int | None, str], object]
LINE_EVERY_S = 60.0
_WORDS = {"accuracy": "accuracy", "tar": "TAR", "fmr": "FMR"}
_DECIMALS = {"accuracy": 1, "tar": 1, "fmr": 2}


@contextmanager
def progress(check: Callable[[], object], *, quiet: bool, console: Console | None = None) -> Iterator[Say]:
    """Give a function that shows, on standard error, what is being done; `check` is asked first, and may raise."""
    console = console or Console(stderr=True)
    if quiet:
        yield lambda *_: check()
    elif console.is_terminal:
        with _bar(console) as bar:
            yield functools.partial(_on_bar, bar, check, {})
    else:
        yield functools.partial(_in_lines, console, check, {})


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        # a name may be long; what is left of the time may not be cut for it
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16, table_column=Column(min_width=16)),
        TaskProgressColumn(table_column=Column(min_width=4)),
        TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(min_width=9, no_wrap=True)),
        console=console,
        transient=True,
        expand=True,
    )


def _on_bar(
    bar: Progress,
    check: Callable[[], object],
    shown: dict[str, Any],
    doing: str,
    done: int,
    total: int | None,
    note: str,
) -> None:
    check()
    if doing not in shown:
        for task in bar.task_ids:
            bar.remove_task(task)
        shown.clear()
        shown[doing] = bar.add_task(doing, total=total, note=note)
    bar.update(shown[doing], completed=done, total=total, note=note or (f"{done:,}" if done and not total else ""))


def _in_lines(
    console: Console, check: Callable[[], object], told: dict[str, float], doing: str, done: int, total: int | None,
    note: str,
) -> None:  # fmt: skip
    """Print a line when something else begins, and one a minute: for logs."""
    check()
    now = time.monotonic()
    if doing not in told or now - told[doing] > LINE_EVERY_S:
        far = f": {done:,} of {total:,}{f', {note}' if note else ''}" if total else f": {done:,}" if done else ""
        console.print(f"{doing}{far}", highlight=False, markup=False, soft_wrap=True)
        told[doing] = now


def print_evaluation(record: Mapping[str, Any], out: str | None) -> None:
    """Print what was trained on, what it reached on each test set, by cell, and against the baseline."""
    console = Console()
    say = functools.partial(say_wrapped, console, indent=2)
    content = record["content"]
    against = content["against"]
    say(f"Recipe {content['recipe']['name']} ({content['recipe_digest'][:16]}...), seeds {_listed(content['seeds'])}")
    _print_training(say, "This dataset:", content)
    if against:
        _print_training(say, "The baseline:", against)
    for number, test in enumerate(content["tests"], start=1):
        for line in _remarks(number, test):
            say(line)
    _title(console, "Verification: mean over seeds ± their spread, in %")
    console.print(_figures(content, against))
    for number, test in enumerate(content["tests"], start=1):
        if test["cells"]:
            _print_cells(console, say, number, test)
    if against:
        _print_gaps(console, say, content)
    say(f"{content['device_kind'].partition(',')[0]}; {record['run']['seconds']:,.0f} s in all")
    if out:
        say(f"Written to {out}; two records compare where recipe digest, seeds, test digests and device kind agree")


def _print_training(say: Callable[[str], None], word: str, side: Mapping[str, Any]) -> None:
    data, overlap = side["dataset"], side["overlap"]
    version = f" {data['version']} ({data['digest'][:16]}...)" if "version" in data else ""
    say(f"{word} {data['name']}{version}: {data['images']:,} images of {data['identities']:,} identities")
    if overlap is None:
        say("Overlap with the test sets was not looked for, as asked; figures may be flattered")
        return
    chance = [t["searches_by_chance"] for t in overlap["tests"]]
    known = f"; of strangers alone, {sum(chance):.1f} searches would find somebody" if None not in chance else ""
    reached = min((t["calibrated_n"] for t in overlap["tests"] if t["calibrated_n"]), default=overlap["identities"])
    if reached < overlap["identities"]:
        known += f" (calibrated for {reached:,} identities, so here it is more)"
    did = "removed from the training" if overlap["removed"] else "reported only" if overlap["too_near"] else "none"
    say(
        f"Too near to somebody tested, by {overlap['recogniser']}: {overlap['too_near']:,} of "
        f"{overlap['identities']:,} identities, {did}{known}"
    )


def _figures(content: Mapping[str, Any], against: Mapping[str, Any] | None) -> Table:
    table = _table("test", "data", "accuracy", *(f"TAR@{_far(f)}" for f in _fars(content)), "EER")
    for place, test in enumerate(content["tests"]):
        _add(table, place + 1, test, "this", content)
        if against:
            _add(table, place + 1, against["tests"][place], "base", content)
    return table


def _add(table: Table, number: int, test: Mapping[str, Any], trained_on: str, content: Mapping[str, Any]) -> None:
    tar = {row["far"]: row for row in test["tar"]}
    table.add_row(
        str(number),
        trained_on,
        _percent(test["accuracy"]),
        *(_percent(tar[far]) if far in tar else "[dim]too few[/dim]" for far in _fars(content)),
        _percent(test["eer"]),
    )


def _fars(content: Mapping[str, Any]) -> list[float]:
    """Return the levels that some test set supports, or else all of them, so that their lack is seen."""
    supported = {row["far"] for test in content["tests"] for row in test["tar"]}
    asked = supported | {row["far"] for test in content["tests"] for row in test["insufficient"]}
    return sorted(supported or asked, reverse=True)


def _remarks(number: int, test: Mapping[str, Any]) -> list[str]:
    over, people = test["compared"], f" of {test['identities']:,} identities" if test["identities"] else ""
    shown = (
        f"Test {number}: {test['name']}: {test['pairs']:,} pairs of {test['pictures']:,} pictures{people} for the "
        f"accuracy (its ten folds spread by {100 * test['accuracy']['fold_std']:.2f} points); {over['genuine']:,} "
        f"genuine and {over['impostor']:,} impostor pairs for TAR and EER"
    )
    lines = [shown]
    if test["insufficient"]:
        lacking = ", ".join(f"{_far(r['far'])} needs {r['impostor_pairs_needed']:,}" for r in test["insufficient"])
        lines.append(f"Test {number}: insufficient data for TAR at FAR {lacking} impostor pairs")
    return lines


def _print_cells(console: Console, say: Callable[[str], None], number: int, test: Mapping[str, Any]) -> None:
    cells = test["cells"]
    far = f" at one threshold, FAR {_far(cells['far'])} overall" if cells["far"] else ""
    _title(console, f"Test {number} by perceived cell, in %, with 95 % intervals{far}")
    figures = [name for name in ("accuracy", "tar", "fmr") if name in cells]
    table = _table("cell", *(_WORDS[name] for name in figures))
    for cell in sorted({c for name in figures for c in cells[name]["cells"]}):
        found = ((cells[name]["cells"].get(cell), _DECIMALS[name]) for name in figures)
        table.add_row(cell, *(_interval(share, n) if share else "[dim]no pair[/dim]" for share, n in found))
    console.print(table)
    for name in figures:
        gap = cells[name]["gap"]
        word, n = _WORDS[name], _DECIMALS[name]
        if gap is None:
            say(f"Gap in {word}: insufficient data; two cells of 30 pairs or more are needed")
            continue
        say(
            f"Gap in {word}: {100 * gap['value']:.{n}f} points [{100 * gap['low']:.{n}f}, {100 * gap['high']:.{n}f}], "
            f"from {gap['lowest']} to {gap['highest']}"
        )
    say("The gap joins the extremes of several cells, so it is above 0 by chance even where cells are equal.")


def _print_gaps(console: Console, say: Callable[[str], None], content: Mapping[str, Any]) -> None:
    _title(console, "Against the baseline")
    for number, gap in enumerate(content["gaps"], start=1):
        spread = f" ± {100 * gap['spread']:.2f}" if gap["spread"] is not None else ""
        side = "below" if gap["difference"] >= 0 else "above"
        say(
            f"Test {number}: this dataset's accuracy is {abs(100 * gap['difference']):.2f}{spread} points {side} the "
            f"baseline's; (baseline - this) / this, a share of {gap['denominator']}: {100 * gap['relative']:+.2f} %"
        )
    mine, other = content["dataset"], content["against"]["dataset"]
    if (mine["identities"], mine["images"]) != (other["identities"], other["images"]):
        say(
            f"The sets differ in size: {mine['images']:,} images of {mine['identities']:,} identities here, "
            f"{other['images']:,} of {other['identities']:,} there"
        )


def _percent(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return ""
    spread = f"\n[dim]±{100 * figure['spread']:.2f}[/dim]" if figure["spread"] is not None else ""
    return f"{100 * figure['mean']:.2f}{spread}"


def _interval(share: Mapping[str, float], decimals: int) -> str:
    middle, low, high = (f"{100 * share[name]:.{decimals}f}" for name in ("share", "low", "high"))
    return f"{middle} [dim]\\[{low}, {high}][/dim]"


def _far(far: float) -> str:
    return f"{far:.0e}".replace("e-0", "e-")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _title(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", highlight=False, markup=False)


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        text = name in ("test", "data", "cell")
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "cell", overflow="fold")
    return table
