"""What a person sees: the live progress view, and the tables at the end of a verb."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.execute.run import Published

LABELS = {"enrol": "Enrolling identities", "make": "Making images", "audit": "Auditing", "publish": "Publishing"}


class View:
    """Implements `ports.Observer`: a progress bar per stage on a terminal, one line per stage elsewhere."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        """Keep where to draw; `progress` is None where nothing is drawn."""
        self.console, self._progress = console, progress
        self._task: Any = None
        self._total = 0
        self.started_s = self._last_s = time.monotonic()
        self.made = 0
        """Candidate images of the make units that this run worked."""
        self.making_s = 0.0

    def event(self, kind: str, **facts: Any) -> None:
        """Take note of one event of a run."""
        if kind == "stage":
            self._begin(facts)
        elif kind == "unit":
            self._unit(facts["receipt"])
        elif kind == "audited" and self._task is not None and self._progress is not None:
            self._progress.advance(self._task)
        elif kind == "enrolled":
            have, wanted = facts["have"], facts["wanted"]
            cells = ", ".join(f"{c} {have.get(c, 0)}/{n}" for c, n in sorted(wanted.items()))
            self._say(f"  enrolled so far (cell have/wanted): {cells}")
        elif kind == "round":
            self._say(
                f"  round {facts['number'] + 1}: {facts['filled']} identities full, {len(facts['failed'])} given up"
            )

    def _begin(self, facts: Mapping[str, Any]) -> None:
        self._last_s = time.monotonic()
        label = LABELS.get(facts["name"], facts["name"].capitalize())
        if facts.get("round"):
            label += f", round {facts['round'] + 1}"
        done = f" ({facts['done']} of {facts['total']} units were committed before)" if facts["done"] else ""
        if self._progress is None:
            return
        if self._progress.console.is_terminal:
            self.finish()
            self._total = facts["total"]
            self._task = self._progress.add_task(label + done, total=self._total, completed=facts["done"], note="")
        else:
            self._say(f"{label}: {facts['total']} units{done}")

    def finish(self) -> None:
        """Fill the bar of the stage that is over: publishing and exporting have no units that would."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._total)

    def _unit(self, receipt: Any) -> None:
        counts, making = receipt.counts, receipt.unit["stage"] == "make"
        now = time.monotonic()
        if making:
            self.made += counts.candidates
            self.making_s += now - self._last_s
        self._last_s = now
        if self._progress is None or not self._progress.console.is_terminal:
            return
        speed = self.made / self.making_s if self.making_s else 0.0
        note = f"{speed:.1f} images/s, {counts.accepted} of {counts.candidates} accepted" if making else ""
        self._progress.update(self._task, advance=1, note=note)

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, highlight=False)


@contextmanager
def observer(*, quiet: bool) -> Iterator[View]:
    """Draw a run's progress while the block lasts; on standard error, so that output can be piped."""
    console = Console(stderr=True)
    if quiet:
        yield View(console, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    progress = Progress(*columns, console=console)
    if console.is_terminal:
        with progress:
            view = View(console, progress)
            yield view
            view.finish()
    else:
        yield View(console, progress)


def print_published(published: Published, uri: str, view: View) -> None:
    """Print funnel, balance, similarity, speed, and where things are."""
    console = Console()
    manifest = published.manifest
    counts, figures = manifest.counts, manifest.figures
    if published.resumed:
        console.print(f"{uri} is published already: version {manifest.version}; nothing was made anew.\n")
    console.print(_funnel(counts))
    console.print(_balance(figures["balance"]))
    console.print(_similarity(figures))
    if view.made and view.making_s:
        total = time.monotonic() - view.started_s
        console.print(
            f"Speed        {view.made / view.making_s:.1f} candidate images/s while making "
            f"(generate + measure + judge + write), {total:.0f} s in all",
            highlight=False,
        )
    root = uri.rstrip("/")
    console.print(f"Dataset      {root}/versions/{manifest.version}/manifest.json", highlight=False, soft_wrap=True)
    console.print(f"Faces        {root}/versions/{manifest.version}/contact_sheet.png", highlight=False, soft_wrap=True)
    for entry in published.exports:
        where = f"{root}/exports/{manifest.version}/{entry['kind']}"
        console.print(
            f"To train on  {where}  ({entry['num_images']} images, {entry['num_classes']} identities)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"Digest       {manifest.digest}", highlight=False, soft_wrap=True)


def _funnel(counts: Mapping[str, Any]) -> Table:
    table = Table(title="What became of every candidate", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("candidates", justify="right")
    table.add_column("share", justify="right")
    enrol = counts["enrol"]
    table.add_row("candidate identities probed", str(enrol["candidates"]), "")
    for reason, number in counts["candidates_refused_at_enrolment"].items():
        table.add_row(f"  refused: {reason}", str(number), _share(number, enrol["candidates"]))
    table.add_row("  enrolled", str(counts["enrolled"]), _share(counts["enrolled"], enrol["candidates"]))
    table.add_section()
    make = counts["make"]
    table.add_row("images made", str(make["candidates"]), "")
    for reason, number in make["reasons"].items():
        table.add_row(f"  refused: {reason}", str(number), _share(number, make["candidates"]))
    table.add_row("  accepted", str(make["accepted"]), _share(make["accepted"], make["candidates"]))
    if make["off_target"]:
        table.add_row(
            "    of these off target", str(make["off_target"]), _share(make["off_target"], make["candidates"])
        )
    table.add_row("  published", str(counts["images"]), _share(counts["images"], make["candidates"]))
    return table


def _balance(balance: Mapping[str, Any]) -> Table:
    by = " x ".join(balance["by"]) or "nothing"
    title = f"Balance over identities by {by} (as a model reads them; adjusted for its errors)"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("cell", "asked", "reached", "share", "95 % interval", "adjusted"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for row in balance["cells"]:
        low, high = row["share_95"]
        adjusted = "unknown" if row["adjusted_share"] is None else f"{100 * row['adjusted_share']:.1f} %"
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        share = f"{100 * row['share']:.1f} %"
        table.add_row(row["cell"], str(row["asked"]), str(row["reached"]), share, interval, adjusted)
    return table


def _similarity(figures: Mapping[str, Any]) -> Table:
    table = Table(title="Similarity within the set", title_justify="left", title_style="bold")
    for name in ("mean cosine", "same person", "others", "EER", "genuine", "impostor"):
        table.add_column(name, justify="left" if name == "mean cosine" else "right")
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
    console.print(f"{facts['uri']}: {facts['state']}", highlight=False)
    table = Table()
    for name in ("stage", "units committed", "candidates", "accepted", "refused"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, row in facts["stages"].items():
        table.add_row(stage, *(str(row[k]) for k in ("units", "candidates", "accepted", "refused")))
    console.print(table)
    for version in facts["versions"]:
        console.print(
            f"{version['version']}: {version['images']} images, digest {version['digest']}",
            highlight=False,
            soft_wrap=True,
        )
    if facts["lease"]:
        console.print(f"Held by {facts['lease']}", highlight=False)


def print_verify(facts: Mapping[str, Any]) -> None:
    """Print what verification found."""
    console = Console()
    how = "hashed again" if facts["deep"] else "compared by size"
    console.print(f"{facts['files']} files {how}, {len(facts['problems'])} problems", highlight=False)
    for problem in facts["problems"]:
        console.print(f"  {problem}", highlight=False, soft_wrap=True)


def print_export(facts: Mapping[str, Any], uri: str) -> None:
    """Print what an export holds, with the figures that trainers ask for."""
    console = Console()
    console.print(f"{uri}: {facts['kind']}", highlight=False, soft_wrap=True)
    console.print(f"num_classes = {facts['num_classes']}\nnum_image = {facts['num_images']}", highlight=False)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
