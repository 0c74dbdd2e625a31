"""`facemint erase`: what a user types, gets wrong, and gets; a face names nobody by itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobs import wiring
from jobs.examine import named_manifest
from pipeline.adapters.segments.plain import ParquetTables
from pipeline.adapters.stores import LocalStore
from pipeline.domain.errors import UserError
from pipeline.domain.splits import parse_parts
from pipeline.execute.erasing import plan_here
from pipeline.flow.erase.plan import Wanted
from pipeline.flow.splits import Asked, read_split
from tests.command_line import facemint, facts_of, refused
from tests.flow.erasing import found, rows_of, traces
from tests.flow.test_growth import asked
from tests.worlds import mint, problems


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset in a folder, with a split."""
    out = tmp_path_factory.mktemp("erase") / "set"
    store = LocalStore(out)
    mint(asked(6, 3), store)
    wiring.split_on(store, Asked("half", parse_parts("train=0.5,test=0.5")))
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


def files(root: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_without_yes_nothing_is_written(dataset: Path) -> None:
    """What would go is told as a table or as JSON, and the folder is what it was."""
    before, who = files(dataset), rows_of(LocalStore(dataset))[0].identity
    shown = facemint("erase", str(dataset), "--identity", str(who))
    assert shown.exit_code == 0, shown.exception
    assert "what --yes would erase; nothing is written" in " ".join(shown.stdout.split())
    facts = facts_of("erase", str(dataset), "--identity", str(who))
    assert facts["identities"][0]["images"] == facts["images_by_version"]["v000001"] == 3
    assert facts["splits"] == ["half"]
    assert not facts["erased"]
    assert files(dataset) == before


def test_with_yes_it_is_done_and_said(dataset: Path) -> None:
    """The version, what was removed, and that copies elsewhere are not known, are told; the second time too."""
    store = LocalStore(dataset)
    who = rows_of(store)[0].identity
    sought = traces(store, [who])
    done = facemint("erase", str(dataset), "--identity", str(who), "--yes")
    assert done.exit_code == 0, done.exception
    said = " ".join(done.stdout.split())
    assert "Erased 1 identity" in said
    assert "version v000002, 5 identities, 15 images" in said
    assert "elsewhere are not known here" in said
    assert found(store, sought) == []
    assert problems(store) == []
    card = store.get("versions/v000002/README.md").decode()
    assert f"labels 0 to {max(row.label for row in rows_of(store))}, in one" in card
    assert "Nobody has 1 of these labels any more" in card
    assert who not in read_split(store, ParquetTables(), "half").part_of
    again = facts_of("erase", str(dataset), "--identity", str(who), "--yes")
    assert (again["already"], again["erasures"], again["version"]) == (1, [], "v000002")
    status = wiring.dataset_status(str(dataset))
    assert [v["retired"] for v in status["versions"]] == [True, False]


def test_what_a_killed_writer_left_half_written_goes_too(dataset: Path) -> None:
    """A temporary file is never listed, and may hold an image all the same."""
    store = LocalStore(dataset)
    row = rows_of(store)[0]
    half = dataset / "segments" / ".tmp-0123456789abcdef0123456789abcdef"
    half.write_bytes(store.get(f"segments/{row.segment}.tar"))
    os.utime(half, (1, 1))
    assert facemint("erase", str(dataset), "--identity", str(row.identity), "--yes").exit_code == 0
    assert not half.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to erase: give --identity, --image, --source, --label or --face"),
        (["--yes"], "nothing to erase: give --identity, --image or --source; no erasure of this dataset is open"),
        (["--identity", "999"], "--identity 999: nobody of that number is enrolled"),
        (["--source", "3"], "--source 3: this dataset has no sources, its identity vectors are drawn by 'gaussian'"),
        (["--image", "me.jpg"], "--image me.jpg: no key of an image of ours"),
        (
            ["--face", "nowhere.png"],
            "--face nowhere.png: cannot be read (No such file or directory); name an image file",
        ),
        (["--face", "nowhere.png", "--yes"], "a face alone erases nobody; name who is meant with --identity"),
    ],
)
def test_mistakes_are_refused_in_one_line(whole: Path, arguments: list[str], said: str) -> None:
    """What cannot be erased is said with what can, and the exit status is 2."""
    assert said in refused("erase", str(whole), *arguments)


def test_a_place_without_a_dataset_is_refused(tmp_path: Path) -> None:
    """Nothing is created where nothing was."""
    assert "no dataset here" in refused("erase", str(tmp_path / "none"), "--identity", "1", "--yes")
    assert not (tmp_path / "none").exists()


def crop_of(dataset: Path, to: Path, place: int) -> int:
    """Write a published image to a file; return whose it is."""
    store = LocalStore(dataset)
    row = rows_of(store)[place]
    tar = store.get(f"segments/{row.segment}.tar")
    to.write_bytes(tar[row.offset : row.offset + row.length])
    return row.identity


def test_a_face_shows_matches_and_erases_nobody(dataset: Path, tmp_path: Path) -> None:
    """The nearest identities come with cosine and FMR, the threshold is told, and nothing is written."""
    before, crop = files(dataset), tmp_path / "me.jpg"
    who = crop_of(dataset, crop, 0)
    face = facts_of("erase", str(dataset), "--face", str(crop))["face"]
    assert face["nearest"][0]["identity"] == who
    cos = [m["cos"] for m in face["nearest"]]
    assert cos == sorted(cos, reverse=True)
    assert all(0 < m["fmr"] <= 1 for m in face["nearest"])
    assert face["threshold_cos"] is not None
    assert face["confirmed"] == [m["identity"] for m in face["nearest"] if m["cos"] >= face["threshold_cos"]]
    shown = facemint("erase", str(dataset), "--face", str(crop))
    assert "reaches the 1:N threshold" in shown.stdout
    assert files(dataset) == before


def test_a_face_confirms_who_is_named_and_nobody_else(dataset: Path, tmp_path: Path) -> None:
    """With --identity only somebody at or above the threshold is erased; another number is refused beforehand."""
    crop, store = tmp_path / "me.jpg", LocalStore(dataset)
    who = crop_of(dataset, crop, 0)
    face = facts_of("erase", str(dataset), "--face", str(crop))["face"]
    other = next(r.identity for r in rows_of(store) if r.identity not in face["confirmed"])
    said = refused("erase", str(dataset), "--face", str(crop), "--identity", str(other), "--yes")
    assert f"identity {other} does not reach the 1:N threshold for this face" in said
    key = rows_of(store)[0].key
    assert "--face goes with --identity alone" in refused("erase", str(dataset), "--face", str(crop), "--image", key)
    assert not store.list("erasures/")
    done = facts_of("erase", str(dataset), "--face", str(crop), "--identity", str(who), "--yes")
    assert done["tombstones"] == [who]
    assert problems(store) == []


def test_a_face_that_is_no_aligned_crop_is_refused(whole: Path, tmp_path: Path) -> None:
    """A picture of another size, or no picture, is refused with how to align one."""
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(b"\xff\xd8\xff not really")
    assert "--face" in refused("erase", str(whole), "--face", str(odd))


def test_an_erasure_that_was_begun_is_shown_and_stops_the_others(dataset: Path) -> None:
    """Dry run, status and export say which command finishes it."""
    store = LocalStore(dataset)
    parts = wiring.build_parts(wiring.dataset_recipe(store), store, None, "test")
    journal = plan_here(parts, Wanted(identities=(rows_of(store)[0].identity,))).journal(parts)
    store.put(journal.path, journal.to_json())
    shown = facemint("erase", str(dataset), "--identity", "1")
    assert "an erasure was begun and not finished" in " ".join(shown.stdout.split())
    assert "an erasure is not finished" in wiring.dataset_status(str(dataset))["state"]
    with pytest.raises(UserError, match="was begun and not finished"):
        wiring.newest_manifest(str(dataset))
    with pytest.raises(UserError, match="was begun and not finished"):
        wiring.side_of(store, "v000001")
    # of what stands there `verify` and signing still tell
    assert named_manifest(store, "v000001").version == "v000001"
    done = facemint("erase", str(dataset), "--yes")
    assert done.exit_code == 0, done.exception
    assert problems(store) == []
    assert "not finished" not in wiring.dataset_status(str(dataset))["state"]
