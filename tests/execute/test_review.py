"""Reviewing a curation: held before anything is written, decided by people, logged; no decision is lost."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import wiring
from pipeline.adapters.review_page import review_page
from pipeline.adapters.segments import Segments
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.errors import PlanMismatchError, UserError
from pipeline.domain.ports import Store
from pipeline.domain.recipe import Recipe
from pipeline.domain.records import unit_rows
from pipeline.domain.review import Line, decisions_of
from pipeline.execute.run import Published
from pipeline.execute.settling import Reviewed
from pipeline.flow.commit import enrolled_path, enrolled_receipt_name
from pipeline.flow.curating.review import Item
from pipeline.flow.orphans import find_orphans
from pipeline.flow.versions import image_rows, read_manifest
from tests.crawls import blend, crawl, crawl_recipe, crawled, gather, outcomes, picture, png
from tests.flow.erasing import DyingAtAnyChange, erase
from tests.flow.test_run import Killed
from tests.worlds import bytes_of, copy_of, filled

QUEUE, PAGE, LOG = "private/review/g0.csv", "private/review/g0.html", "private/review/g0-decided.csv"


def recipe(root: Path) -> Recipe:
    """Return a recipe whose queue lists nearly everybody."""
    curate = crawl_recipe(root)["curate"]
    return crawled(root, curate={**curate, "review": {"margin_cos": 0.5}})


def run(root: Path, store: Store, decisions: bytes | None = None, *, hold: bool = False) -> Published | None:
    """Curate with decisions that were given back, or without."""
    asked = Reviewed(hold=hold)
    if decisions is not None:
        asked = Reviewed(decisions_of(decisions, "given.csv"), decisions, hold)
    return gather(recipe(root), store, asked)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a crawl of five people, one under two labels, a look-alike of one of them, and two of another."""
    root = crawl(tmp_path_factory.mktemp("review") / "crawl", {f"p{n:02d}": range(5) for n in range(5)})
    crawl(root, {"p04-again": range(5, 9)})
    (root / "p00" / "stray.png").write_bytes(png(blend(0, 50, 0)))
    for name, other in (("p60", 51), ("p61", 52)):
        (root / name).mkdir()
        for image in range(4):
            (root / name / f"{image:03d}.png").write_bytes(png(blend(2, other, image)))
    return root


@pytest.fixture(scope="module")
def made(root: Path) -> MemoryStore:
    """Return a curation that holds."""
    store = MemoryStore()
    assert run(root, store, hold=True) is None
    return store


@pytest.fixture
def held(made: MemoryStore) -> MemoryStore:
    """Return a copy of it that may be changed."""
    return copy_of(made)


@pytest.fixture(scope="module")
def untouched(root: Path, made: MemoryStore) -> dict[str, tuple[int | None, str]]:
    """Return what becomes of every input where nobody decides otherwise."""
    store = copy_of(made)
    run(root, store)
    return outcomes(store)


def table(store: Store, path: str = QUEUE) -> list[dict[str, str]]:
    """Return the lines of a queue."""
    return list(csv.DictReader(io.StringIO(store.get(path).decode())))


def given(lines: list[dict[str, str]]) -> bytes:
    """Return a queue as somebody gives it back."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().encode()


def about(store: Store, label: str, now: str) -> dict[str, str]:
    """Return the first line about faces of a label, or about a pair of which it is one."""
    return next(one for one in table(store) if label in one["label"] and one["now"] == now)


def decided(line: dict[str, str], word: str) -> dict[str, str]:
    """Return a line with its decision."""
    return {**line, "decision": word}


def paths(store: Store) -> dict[str, str]:
    """Return row of every input -> its path."""
    listed = ParquetTables().read(store, "private/sources/s000001.parquet", ["row", "path"])
    return {str(r): p.decode() for r, p in zip(listed["row"].tolist(), listed["path"], strict=True)}


def test_held_and_gone_on(root: Path, held: MemoryStore) -> None:
    """A run that held has stored no image, and goes on to the dataset of a run that never held."""
    assert not held.list("segments/")
    assert not held.list("versions/")
    assert {one["kind"] for one in table(held)} == {"face", "pair"}
    run(root, held)
    straight = MemoryStore()
    run(root, straight)
    assert bytes_of(held) == bytes_of(straight)


def require_own_template(store: Store, label: int | None, images: int) -> None:
    """Require that the template of a label is that of its published images, and of no other."""
    rows = [r for r in image_rows(Segments(), store, read_manifest(store, "v000001")) if r.label == label]
    columns = Segments().read_columns(store, rows[0].segment, ["key", "embedding"])
    mine = np.isin(columns["key"], [r.key for r in rows])
    identities, _ = Segments().read_identities(store, enrolled_path(0, private=True))
    found = next(i for i in identities if i.ordinal == rows[0].identity)
    assert found.template_images == len(rows) == images
    own = unit_rows(columns["embedding"][mine].astype(np.float64).sum(axis=0)[None], "template")[0]
    assert np.abs(found.template_E - own).max() < 1e-6


def test_a_face_is_refused(root: Path, held: MemoryStore, untouched: dict[str, tuple[int | None, str]]) -> None:
    """A face that people refuse is not published, its template is without it, and nobody else changes."""
    line = about(held, "p01", "kept")
    name = paths(held)[line["id"].partition(".")[0]]
    published = run(root, held, given([decided(line, "refuse")]))
    assert published is not None
    found = outcomes(held)
    assert found[name] == (None, "refused_by_review")
    assert {p: o for p, o in found.items() if p != name} == {p: o for p, o in untouched.items() if p != name}
    assert held.get(LOG).decode().splitlines()[1:] == [f"face,{line['id']},,refuse"]
    assert published.manifest.counts["curated"][0]["decided_by_review"] == 1
    assert published.manifest.counts["inputs"]["reasons"]["clean"]["refused_by_review"] == 1
    others = next(p for p in found if p.startswith("p01/") and p != name)
    require_own_template(held, found[others][0], 4)


def test_a_face_is_kept(root: Path, held: MemoryStore, untouched: dict[str, tuple[int | None, str]]) -> None:
    """A stray that people keep stands under its label, whatever its cosine."""
    stray = next(one for one in table(held) if one["now"] == "refused")
    assert untouched["p00/stray.png"] == (None, "not_of_its_label")
    run(root, held, given([decided(stray, "keep")]))
    found = outcomes(held)
    assert found["p00/stray.png"] == found["p00/000.png"]
    assert found["p00/000.png"] == untouched["p00/000.png"]
    require_own_template(held, found["p00/000.png"][0], 6)


def test_two_people_stay_apart_and_two_are_one(
    root: Path, held: MemoryStore, untouched: dict[str, tuple[int | None, str]]
) -> None:
    """What people say of pairs comes before every threshold."""
    assert untouched["p04/000.png"][0] == untouched["p04-again/005.png"][0]
    pairs = [one for one in table(held) if one["kind"] == "pair"]
    merged = next(one for one in pairs if one["now"] == "merged")
    other = next(one for one in pairs if one["now"] == "apart")
    run(root, held, given([decided(merged, "apart"), decided(other, "same")]))
    found = outcomes(held)
    assert found["p04/000.png"][0] != found["p04-again/005.png"][0]
    one, two = re.findall(r"p\d\d(?:-again)?", other["label"])
    assert found[f"{one}/000.png"][0] == found[f"{two}/000.png"][0] is not None


def test_decided_twice(root: Path, held: MemoryStore) -> None:
    """The newest queue holds what was decided, so that it can be gone through again; the last table counts."""
    line = about(held, "p01", "kept")
    run(root, held, given([decided(line, "refuse")]), hold=True)
    again = table(held)
    assert [one["decision"] for one in again if one["id"] == line["id"]] == ["refuse"]
    stray = next(one for one in again if one["now"] == "refused" and not one["decision"])
    run(root, held, given([decided(one, "keep") if one is stray else one for one in again]), hold=True)
    assert len(held.get(LOG).splitlines()) == 3
    withdrawn = [{**one, "decision": ""} for one in table(held)]
    run(root, held, given(withdrawn))
    straight = MemoryStore()
    run(root, straight)
    assert {p: b for p, b in bytes_of(held).items() if "review/" not in p} == {
        p: b for p, b in bytes_of(straight).items() if "review/" not in p
    }


def test_the_same_decisions_again_change_nothing(root: Path, held: MemoryStore) -> None:
    """A run with the decisions that are honoured already goes on where the last one was."""
    body = given([decided(about(held, "p01", "kept"), "refuse")])
    run(root, held, body, hold=True)
    before = held.get(f"receipts/{enrolled_receipt_name(0)}.json")
    run(root, held, body)
    assert held.get(f"receipts/{enrolled_receipt_name(0)}.json") == before


def changed(line: dict[str, str], **columns: str) -> list[dict[str, str]]:
    """Return a line about something else."""
    return [{**line, **columns}]


def test_what_is_about_something_else_changes_nothing(root: Path, held: MemoryStore) -> None:
    """A queue of another dataset, or a picture that is another one by now: one line, and all stands as it was."""
    face = about(held, "p01", "kept")
    pair = next(one for one in table(held) if one["now"] == "merged")
    run(root, held, given([decided(face, "refuse")]), hold=True)
    before = whole(held)
    for lines, said in (
        (changed(face, sha256="00" * 32, decision="refuse"), f"{face['id']}: its picture is another one"),
        (changed(face, id="99999.0", decision="refuse"), "99999.0: its picture is not among the faces"),
        (changed(pair, sha256="00" * 32, decision="apart"), "they are others here"),
        (changed(pair, id="7.77", decision="apart"), "they are not both here"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            run(root, held, given(lines))
        assert whole(held) == before, said


def test_people_may_not_contradict_themselves(root: Path, held: MemoryStore) -> None:
    """Three who are one by two decisions, two of them apart by a third: one line."""
    pairs = {frozenset((o["id"], o["other"])): o for o in table(held) if o["kind"] == "pair"}
    people = sorted({name for pair in pairs for name in pair})
    one, two, three = next(
        (a, b, c)
        for a in people for b in people for c in people
        if all(frozenset(p) in pairs and len(set(p)) == 2 for p in ((a, b), (b, c), (a, c)))
    )  # fmt: skip
    lines = [
        decided(pairs[frozenset((one, two))], "same"),
        decided(pairs[frozenset((two, three))], "same"),
        decided(pairs[frozenset((one, three))], "apart"),
    ]
    with pytest.raises(UserError, match="are apart, and by others the same"):
        run(root, held, given(lines))


def test_nothing_is_decided_of_what_is_published(root: Path, held: MemoryStore) -> None:
    """Once the generation is published, decisions are refused, and say how they could be given."""
    body = given([decided(about(held, "p01", "kept"), "refuse")])
    run(root, held)
    with pytest.raises(PlanMismatchError, match="a version never changes"):
        run(root, held, body)


def whole(store: Store) -> dict[str, bytes]:
    """Return every file that must be the same whoever made it, the private ones too."""
    private = {p: store.get(p) for p in store.list("private/") if not p.endswith("given.csv")}
    return {**bytes_of(store), **private}


@pytest.mark.parametrize("dies_at", [2, 3, 4, 6, 9, 13])
@pytest.mark.parametrize("after", [False, True])
def test_decisions_outlive_a_kill(root: Path, drawn: tuple[MemoryStore, bytes], dies_at: int, after: bool) -> None:
    """A run with decisions that is killed ends in their dataset, without naming them again once they were taken."""
    made, body = drawn
    straight = copy_of(made)
    run(root, straight, body)
    dying = filled(DyingAtAnyChange(dies_at, after=after), made)
    with pytest.raises(Killed):
        run(root, dying, body)
    store = copy_of(dying)
    taken = store.size("private/review/g0.given.csv") is not None
    run(root, store, None if taken else body)
    assert whole(store) == whole(straight)


@pytest.fixture(scope="module")
def drawn(root: Path, made: MemoryStore) -> tuple[MemoryStore, bytes]:
    """Return a curation whose images are written, one step before it is published, and decisions about it."""
    body = given([decided(about(made, "p01", "kept"), "refuse"), decided(about(made, "p61", "apart"), "same")])
    store = filled(DyingAtAnyChange(18, after=True), made)
    with pytest.raises(Killed):
        run(root, store)
    assert store.list("receipts/make-")
    assert not store.list("versions/")
    return copy_of(store), body


def test_the_page_is_one_file_with_crops_alone(held: MemoryStore) -> None:
    """The page fetches and runs nothing, shows crops of the stored size, and lies under private/ with the queue."""
    page = held.get(PAGE).decode()
    assert not re.search(r"<script|<link|<iframe|@import|url\(|http-equiv", page)
    sources = re.findall(r'<img [^>]*src="([^"]*)"', page)
    assert len(sources) > 20
    for source in sources:
        kind, _, body = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(body))).size == (32, 32)
    assert page.count('class="asked"') == sum(one["kind"] == "face" for one in table(held))
    assert [p for p in held.list("") if "review" in p] == [QUEUE, PAGE]


def test_erasing_removes_the_pictures(root: Path, held: MemoryStore) -> None:
    """Whoever is erased is on no page any more: the queue of a published generation goes, what was decided stays."""
    run(root, held, given([decided(about(held, "p01", "kept"), "refuse")]))
    assert list(held.list("private/review/")) == [LOG, QUEUE, "private/review/g0.given.csv", PAGE]
    assert [o for o in find_orphans(held, Late()).files if o.stored.path.startswith("private/")] == []
    erase(held, 0)
    assert held.list("private/review/") == [LOG]
    assert b"p0" not in held.get(LOG)


def test_a_picture_that_changed_since(tmp_path: Path) -> None:
    """A face that people keep, and whose file is another one by now, is refused as such, and shown on no page."""
    crawl(tmp_path, {f"p{n:02d}": range(4) for n in range(3)})
    (tmp_path / "p00" / "stray.png").write_bytes(png(blend(0, 50, 0)))
    store = MemoryStore()
    run(tmp_path, store, hold=True)
    stray = next(one for one in table(store) if one["now"] == "refused")
    (tmp_path / "p00" / "stray.png").write_bytes(png(picture(60, 0)))
    run(tmp_path, store, given([decided(stray, "keep")]), hold=True)
    assert "no picture can be had" in store.get(PAGE).decode()
    published = run(tmp_path, store)
    assert published is not None
    assert published.manifest.counts["inputs"]["reasons"] == {"filter": {"changed_since_planned": 1}}


def test_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A file that cannot be read is the user's mistake, named as it was typed."""
    with pytest.raises(UserError, match=r"--decisions .*none\.csv: No such file or directory; give the review queue"):
        wiring.reviewed_of(str(tmp_path / "none.csv"), hold=False)
    assert wiring.reviewed_of(None, hold=True).hold


class Late:
    """Tells a time long past any grace."""

    def now_s(self) -> float:
        """Return the year 2100."""
        return 4.1e9


def test_a_hostile_label_is_text(tmp_path: Path) -> None:
    """A folder whose name is markup is shown as what it is called; one whose name is no text ends nothing."""
    crawl(tmp_path, {"p00": range(4), "p01": range(4)})
    (tmp_path / "p00").rename(tmp_path / "<script>alert(1)<")
    store = MemoryStore()
    run(tmp_path, store, hold=True)
    page = store.get(PAGE).decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert len(table(store)) > 2
    line = Line("face", "1.0", "", "ab", "\udcff", "kept", 0.5, 0.4)
    assert b"\\udcff" in review_page("x", [Item(line, (), (), ("\udcff",))], "g0.csv")
