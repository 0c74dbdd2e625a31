"""What `facemint prove` prints: link after link, what is known and what it was held against."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.live import counted
from jobs.show_lines import say


def print_proof(facts: Mapping[str, Any]) -> None:
    """Print the proof of one image."""
    console = Console()
    say(console, f"{facts['uri']}: {facts['said']}", 2)
    for link in facts["links"]:
        console.print()
        say(console, f"{_mark(link['ok'], link['checks'])}  {link['name']}")
        _print_facts(console, link["facts"])
        for check in link["checks"]:
            word = "ok" if check["ok"] else "BROKEN"
            say(console, f"    {word:6s} {check['what']}: {check['found']}", 11)
    broken = [link["name"] for link in facts["links"] if not link["ok"]]
    checks = sum(len(link["checks"]) for link in facts["links"])
    console.print()
    if broken:
        say(console, f"BROKEN: {counted(len(broken), 'link')}: {', '.join(broken)}")
    else:
        say(console, f"OK: {counted(len(facts['links']), 'link')}, {counted(checks, 'check')}, none broken")


def _mark(ok: bool, checks: list[Any]) -> str:
    return "OK    " if ok and checks else "told  " if ok else "BROKEN"


def _print_facts(console: Console, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if name == "verdicts":
            if value:
                console.print(_verdicts(value))
        elif isinstance(value, Mapping):
            inner = ", ".join(f"{k} {_text(k, v)}" for k, v in value.items())
            say(console, f"    {name}: {inner or 'none'}", 8)
        else:
            say(console, f"    {name}: {_text(name, value)}", 8)


def _verdicts(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(title="    verdicts", title_justify="left", title_style="", show_edge=False, pad_edge=True)
    for name in ("filter", "passed", "reason", "value", "threshold"):
        table.add_column(name, justify="right" if name in ("value", "threshold") else "left")
    for row in rows:
        said = "yes" if row["passed"] else "no"
        table.add_row(row["filter"], said, row["reason"], f"{row['value']:.6g}", f"{row['threshold']:.6g}")
    return table


def _text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("start_s", "end_s"):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(str(v) for v in value) or "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} {_text(k, v)}" for k, v in value.items()) + "}"
    return str(value)


def print_signed(facts: Mapping[str, Any]) -> None:
    """Print what was signed, or what is to be said of a signature."""
    console = Console()
    if "images" in facts:
        stood = f", {counted(facts['stood'], 'file')} stood before" if facts["stood"] else ""
        say(console, f"{facts['out']}: {counted(facts['signed'], 'image')} signed, {facts['copied']} copied{stood}", 2)
        return
    what = f"written to {facts['signed']}" if "signed" in facts else "holds" if facts["ok"] else "DOES NOT HOLD"
    when = f", {facts['time']}" if facts["time"] else ""
    say(console, f"{facts['uri']} {facts['version']}: signature {what}", 2)
    say(console, f"  {facts['state']}: signed by {facts['signer'] or 'nobody named'}{when}", 4)
    say(console, f"  manifest with digest {facts['digest']}", 4)
    for failure in facts["failures"]:
        say(console, f"  {failure}", 4)
