"""`facemint report`: what a user types, gets wrong and gets; and the page that every version is published with."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import FacemintError, OutputError, UserError
from pipeline.domain.manifest import sha256_hex
from tests.command_line import facemint, facts_of
from tests.worlds import mint, sketches

PAGE = "versions/v000001/report.html"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished dataset in a folder."""
    out = tmp_path_factory.mktemp("report") / "sketches"
    mint(sketches(exports=[]), LocalStore(out))
    return out


def files_of(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return time of change and bytes of every file below a folder."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_verb_writes_one_page_and_only_reads_the_dataset(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out the page is named after dataset and version; no file of the dataset is touched or added."""
    monkeypatch.chdir(tmp_path)
    before = files_of(dataset)
    done = facemint("report", str(dataset))

    assert done.exit_code == 0, done.output
    assert "report-sketches-v000001.html" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["report-sketches-v000001.html"]
    page = (tmp_path / "report-sketches-v000001.html").read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert wiring.newest_manifest(str(dataset)).digest.encode() in page
    assert files_of(dataset) == before


def test_json_says_where_the_page_is_and_what_it_holds(dataset: Path, tmp_path: Path) -> None:
    """The figures are those of the manifest, the digest that of the file."""
    out = tmp_path / "page.html"
    told = facts_of("report", str(dataset), "--version", "v000001", "--out", str(out))
    manifest = wiring.newest_manifest(str(dataset))

    assert told["out"] == str(out)
    assert (told["bytes"], told["sha256"]) == (out.stat().st_size, sha256_hex(out.read_bytes()))
    assert (told["version"], told["digest"]) == ("v000001", manifest.digest)
    assert told["candidates"] == manifest.counts["make"]["candidates"]
    assert told["published"] == manifest.counts["images"]
    assert told["galleries"]["random"] > 0


def test_the_page_goes_to_stdout_where_asked(dataset: Path) -> None:
    """A dash writes the page and nothing else."""
    done = facemint("report", str(dataset), "--out", "-")

    assert done.stdout_bytes.startswith(b"<!doctype html>")
    assert done.stdout_bytes.rstrip().endswith(b"</html>")


MISTAKES: list[tuple[list[str], type[FacemintError], str]] = [
    (["--out", "nowhere/page.html"], OutputError, "there is no folder nowhere"),
    (["--out", "."], OutputError, r"--out \.: is a folder; name a file in it"),
    (["--out", "s3://bucket/page.html"], OutputError, "is no file of this machine; name one"),
    (["--out", "-", "--json"], UserError, "where --json would write too"),
    (["--version", "v000009"], OutputError, "no version v000009; versions here: v000001"),
]


@pytest.mark.parametrize(("options", "kind", "message"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES])
def test_mistakes_end_in_one_line_and_write_nothing(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    kind: type[FacemintError],
    message: str,
) -> None:
    """A mistake is named with what to do, ends with status 2, and leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    error = facemint("report", str(dataset), *options).exception

    assert type(error) is kind
    assert error.exit_status == 2
    assert "\n" not in str(error)
    with pytest.raises(kind, match=message):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_a_dataset_is_a_mistake(tmp_path: Path) -> None:
    """An empty folder is no dataset, and stays empty."""
    (tmp_path / "empty").mkdir()
    error = facemint("report", str(tmp_path / "empty"), "--out", str(tmp_path / "page.html")).exception

    assert isinstance(error, OutputError)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_version_is_published_with_its_page() -> None:
    """The page is a document of the manifest; two runs, which differ in time and process, publish the same bytes."""
    first, second = MemoryStore(), MemoryStore()
    manifest = mint(sketches(exports=[]), first).manifest
    mint(sketches(exports=[]), second)
    page = first.get(PAGE)

    assert {d.path: d.sha256 for d in manifest.documents}[PAGE] == sha256_hex(page)
    assert second.get(PAGE) == page
    assert b"Not stated here." in page


def test_a_page_that_is_drawn_later_adds_speed_and_nothing_else(dataset: Path) -> None:
    """The verb's page tells throughput and machines; its figures are those that were published."""
    published = (dataset / PAGE).read_text("utf-8")
    later = wiring.draw_report(wiring.gather_report(str(dataset))).decode()
    place = [page.index('id="throughput"') for page in (published, later)]

    assert later[: place[1]] == published[: place[0]]
    assert "candidates a second" in later
    assert "candidates a second" not in published


def test_a_lost_page_is_drawn_again_as_it_was(tmp_path: Path) -> None:
    """Resuming a finished dataset whose page was deleted writes the same bytes, and no other version."""
    store = LocalStore(tmp_path / "set")
    recipe = sketches(exports=[])
    published = mint(recipe, store).manifest
    page = tmp_path / "set" / PAGE
    before = page.read_bytes()
    page.unlink()

    assert mint(recipe, store).manifest == published
    assert page.read_bytes() == before


def test_an_older_version_keeps_its_report() -> None:
    """After growth the first version's report is drawn as it was published; the newest one is another."""
    store = MemoryStore()
    mint(sketches(exports=[]), store)
    first = store.get(PAGE)
    people = {"sampler": {"use": "gaussian"}, "bank": {"use": "sketch"}, "count": 14, "images_per_identity": 3}
    mint(sketches(exports=[], identities=people), store)
    older = wiring.draw_report(wiring.report_on(store, "v000001")).decode()
    newest = wiring.report_on(store)

    assert store.get(PAGE) == first
    assert older[: older.index('id="throughput"')] == first.decode()[: first.decode().index('id="throughput"')]
    assert newest.version == "v000002"
    assert newest.funnel.published > wiring.report_on(store, "v000001").funnel.published
