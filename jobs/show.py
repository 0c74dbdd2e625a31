"""What a person reads at the end of a verb: tables and lines. The live view is in `jobs.live`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from jobs.live import View, counted, duration, observer, sentence
from jobs.show_balance import print_balance
from jobs.show_leakage import print_leakage
from jobs.show_lines import fact, share, table_of
from jobs.show_lines import say as say_wrapped
from jobs.show_variation import print_variation

if TYPE_CHECKING:
    from pipeline.execute.run import Published

__all__ = [
    "observer",
    "print_collected",
    "print_export",
    "print_published",
    "print_status",
    "print_verify",
    "published_json",
]


REHEARSAL = "A rehearsal: made-up weights, nothing refused. Its images are worth nothing."


def print_published(published: Published, uri: str, view: View) -> None:
    """Print funnel, balance, similarity, speed, and where things are."""
    console = Console()
    manifest = published.manifest
    counts, figures = manifest.counts, manifest.figures
    if published.resumed:
        console.print(f"{uri} is published already: version {manifest.version}; nothing was made anew.\n")
    if figures.get("rehearsal"):
        console.print(REHEARSAL + "\n", style="bold")
    console.print(_funnel(counts))
    print_balance(console, figures["balance"])
    console.print(_similarity(figures))
    print_leakage(console, figures.get("leakage"))
    print_variation(console, figures.get("variation", ()))
    facts = view.progress.to_dict()
    if facts["counted"] == "make" and facts["making_s"]:
        total = facts["last_event_s"] - facts["started_s"]
        speed = f"{facts['candidates'] / facts['making_s']:.1f} candidate images/s while making"
        fact(console, "Speed", f"{speed} (generate + measure + judge + write), {total:.0f} s in all")
    root = uri.rstrip("/")
    version = f"{root}/versions/{manifest.version}"
    for what, name in (("Dataset", "manifest.json"), ("Report", "report.html"), ("Faces", "contact_sheet.png")):
        console.print(f"{what:<12} {version}/{name}", highlight=False, soft_wrap=True)
    for entry in published.exports:
        console.print(
            f"To train on  {entry['uri']}  ({entry['num_images']} images, {entry['num_classes']} identities)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"Digest       {manifest.digest}", highlight=False, soft_wrap=True)


def _funnel(counts: Mapping[str, Any]) -> Table:
    table = table_of("What became of every candidate", "", ">candidates", ">share")
    refused = counts["candidates_refused_at_enrolment"]
    drawn = counts["enrolled"] + sum(refused.values())
    table.add_row("candidate identities drawn", str(drawn), "")
    for reason, number in refused.items():
        table.add_row(f"  refused: {reason}", str(number), share(number, drawn))
    table.add_row("  enrolled", str(counts["enrolled"]), share(counts["enrolled"], drawn))
    table.add_section()
    make = counts["make"]
    table.add_row("images made", str(make["candidates"]), "")
    for reason, number in make["reasons"].items():
        table.add_row(f"  refused: {reason}", str(number), share(number, make["candidates"]))
    table.add_row("  accepted", str(make["accepted"]), share(make["accepted"], make["candidates"]))
    if make["off_target"]:
        table.add_row("    of these off target", str(make["off_target"]), share(make["off_target"], make["candidates"]))
    table.add_row("  published", str(counts["images"]), share(counts["images"], make["candidates"]))
    if "twins" in counts:
        table.add_row("    and made of these: hard-condition twins", str(counts["twins"]), "")
    return table


def _similarity(figures: Mapping[str, Any]) -> Table:
    columns = ("mean cosine", ">same person", ">others", ">EER", ">genuine", ">impostor")
    table = table_of("Similarity within the set", *columns)
    for role in ("judge", "auditor"):
        row = figures[role]
        if "eer" not in row:
            table.add_row(role, "too few pairs", "", "", str(row["n_genuine"]), str(row["n_impostor"]))
            continue
        table.add_row(
            role,
            f"{row['genuine_mean_cos']:.3f}",
            f"{row['impostor_mean_cos']:.3f}",
            f"{100 * row['eer']:.2f} %",
            str(row["n_genuine"]),
            str(row["n_impostor"]),
        )
    return table


def published_json(published: Published, uri: str) -> dict[str, Any]:
    """Return what `generate --json` prints."""
    manifest = published.manifest
    return {
        "uri": uri,
        "version": manifest.version,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "plan_digest": manifest.plan_digest,
        "resumed": published.resumed,
        "counts": manifest.counts,
        "figures": manifest.figures,
        "exports": [dict(e) for e in published.exports],
    }


def print_status(facts: Mapping[str, Any]) -> None:
    """Print where a dataset stands."""
    console = Console()
    say = functools.partial(say_wrapped, console, indent=2)
    say(f"{facts['uri']}: {facts['state']}")
    lease, run = facts["lease"], facts["run"]
    if lease:
        until = time.strftime("%H:%M:%S", time.localtime(lease["expires_s"]))
        who = f"run {lease['run']} on {lease['host']} (process {lease['pid']})"
        say(f"Held by {who} until {until}, renewed while it lives")
    if run:
        say(_last_words(run))
    console.print(_stages(facts["stages"]))
    made = facts["stages"]["make"]
    if facts["reasons"]:
        shown = (f"{reason} {n:,} ({share(n, made['refused'])})" for reason, n in facts["reasons"].items())
        say(f"Images refused for {', '.join(shown)}")
    if facts["versions"]:
        console.print(_versions(facts["versions"]))
    if any(version.get("rehearsal") for version in facts["versions"]):
        say(REHEARSAL)
    for version in facts["versions"]:
        say(f"Digest {version['version']} {version['digest']}")
    for unit in facts["quarantined"]:
        say(f"Quarantined {unit['unit']}: its worker died {unit['deaths']} times; {unit['why'] or 'cause unknown'}")
    if facts["quarantined"]:
        say("To try them again: facemint generate ... --retry-quarantined")
    for path in facts["unreadable"]:
        say(f"Not readable: {path}; run `facemint verify`")


def _last_words(run: Mapping[str, Any]) -> str:
    """Return what a run's heartbeat said last."""
    ago = f"{duration(run['seen_ago_s'])} ago"
    if run.get("ended"):
        return f"Last run ended {ago}: {run['ended']}"
    crew = f", {counted(run['workers'], 'worker')}" if run.get("workers") else ""
    try:
        return f"Last seen {ago}: {sentence(run)}{crew}"
    except (KeyError, TypeError, IndexError):
        # a heartbeat of another version of facemint
        return f"Last seen {ago}: {run.get('stage')}{crew}"


def _stages(stages: Mapping[str, Any]) -> Table:
    table = table_of(None, "stage", ">units committed", ">candidates", ">accepted", ">refused")
    for stage, row in stages.items():
        # enrolment is closed and audits re-read: they count no candidates of their own
        counted = ("candidates", "accepted", "refused") if stage in ("enrol", "make", "ingest", "clean") else ()
        table.add_row(stage, f"{row['units']:,}", *(f"{row[k]:,}" for k in counted), style="bold")
        if counted and len(row["generations"]) > 1:
            for generation, part in row["generations"].items():
                table.add_row(f"  {generation}", f"{part['units']:,}", *(f"{part[k]:,}" for k in counted))
    return table


def _versions(versions: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of(None, "version", "grown from", ">identities", ">images")
    for row in versions:
        shown = [_of(row["identities"], row["identities_expected"]), _of(row["images"], row["images_expected"])]
        name = f"{row['version']} (retired)" if row["retired"] else row["version"]
        table.add_row(name, row["parent"] or "", *shown)
    return table


def _of(reached: int, asked: int) -> str:
    return f"{reached:,}" if reached == asked else f"{reached:,} of {asked:,}"


def print_verify(facts: Mapping[str, Any]) -> None:
    """Print what verification found, and what nothing names where that was asked for (`gc`)."""
    console = Console()
    images = f"{facts['images']:,} images, {facts['decoded']:,} of them decoded now"
    how = f"read and hashed, {images}" if facts["deep"] else "compared by size"
    found = counted(len(facts["problems"]), "problem")
    console.print(f"{facts['files']:,} files ({decimal(facts['bytes'])}) {how}: {found}", highlight=False)
    if facts["private_absent"]:
        absent = f"{counted(facts['private_absent'], 'file')} under private/ that its records name"
        console.print(f"This copy has no private/: {absent} were not looked for.", highlight=False, soft_wrap=True)
    for problem in facts["problems"]:
        console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
    if facts.get("gc"):
        print_collected(facts["gc"])


def print_collected(facts: Mapping[str, Any]) -> None:
    """Print which files nothing names, and which were removed."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    removed, orphans = facts["removed"], facts["orphans"]
    older = f"older than {facts['grace_h']:g} h"
    say(f"{counted(len(orphans), 'file')} that nothing names, {older} ({decimal(facts['bytes'])})")
    gone = set(removed["files"]) if removed else set()
    for row in orphans:
        mark = "removed  " if row["path"] in gone else "kept, it changed since  " if removed else ""
        say(f"  {mark}{row['path']}  {decimal(row['bytes'])}, {duration(row['age_h'] * 3600)} old: {row['why']}")
    if facts["leftovers"]:
        say(f"{counted(len(facts['leftovers']), 'leftover')} of writers that were killed, {older}")
        for name in facts["leftovers"]:
            say(f"  {name}")
    if removed:
        files, leftovers = counted(len(gone), "file"), counted(removed["leftovers"], "leftover")
        say(f"Removed {files} ({decimal(removed['bytes'])}) and {leftovers}")
    elif facts["blocked"]:
        say(f"Nothing can be removed yet: {counted(len(facts['blocked']), 'damaged record')} to repair first")
    elif orphans or facts["leftovers"]:
        say("Nothing was removed; to remove them: facemint verify ... --gc --yes")


def print_export(written: Sequence[Mapping[str, Any]]) -> None:
    """Print what each export holds, with the figures that trainers ask for."""
    console = Console()
    for facts in written:
        part = f", part {facts['part']} of split {facts['split']}" if "part" in facts else ""
        console.print(f"{facts['uri']}: {facts['kind']}{part}", highlight=False, soft_wrap=True)
        console.print(f"num_classes = {facts['num_classes']}\nnum_image = {facts['num_images']}", highlight=False)
