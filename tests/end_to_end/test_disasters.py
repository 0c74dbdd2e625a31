"""Storage that fails under a run: a full disk, one that turns read-only, a mount that goes, a bucket that refuses.

Each ends in one line and exit status 7; once the cause is gone the same command leaves what an undisturbed run leaves.
"""

from __future__ import annotations

import functools
import math
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.adapters.stores import LocalStore, open_store
from tests.end_to_end.commands import (
    command,
    end,
    receipts_in,
    require_one_line,
    require_undisturbed,
    run,
    start,
    wait_for,
    written,
)
from tests.s3 import server
from tests.s3.proxy import Proxy, refusal

pytestmark = pytest.mark.slow


class Disk:
    """A place that a test can fill, write-protect and take away, as root may."""

    def __init__(self, folder: Path) -> None:
        """Name the place; nothing is mounted yet."""
        self.at = folder / "disk"
        self.at.mkdir()
        self.out = self.at / "out"
        self._held = folder / "held"
        self._mounted = False

    def mount(self, **options: str | int) -> None:
        """Mount memory there; options are those of tmpfs."""
        told = ",".join(f"{k}={v}" for k, v in options.items()) or "size=64m"
        self._mount("-t", "tmpfs", "-o", told, "tmpfs")

    def bind(self) -> None:
        """Mount a folder there, which keeps what it holds when it is taken away and mounted again."""
        self._held.mkdir(exist_ok=True)
        self._mount("--bind", str(self._held))

    def remount(self, options: str, within_s: float = 10.0) -> None:
        """Change how it is mounted; a file that is open for writing puts that off for a moment."""
        deadline_s = time.monotonic() + within_s
        while self._run("mount", "-o", f"remount,{options}", str(self.at)).returncode:
            assert time.monotonic() < deadline_s, "it stayed busy"

    def vanish(self) -> None:
        """Take it away at once, whoever uses it."""
        if self._mounted:
            self._mounted = False
            assert self._run("umount", "--lazy", str(self.at)).returncode == 0

    def _mount(self, *how: str) -> None:
        done = self._run("mount", *how, str(self.at))
        if done.returncode:
            pytest.skip(f"this machine lets the test mount nothing ({done.stderr.strip()}); run it as root")
        self._mounted = True

    @staticmethod
    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(arguments, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return subprocess.CompletedProcess(arguments, 127, "", str(error))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a place without a mount; what a test mounts there goes when it ends."""
    place = Disk(tmp_path)
    yield place
    place.vanish()


def disturbed(recipe: Path, out: Path, moment: tuple[str, int], happens: Callable[[], None]) -> tuple[int, str]:
    """Run a recipe, let something happen once so many receipts of a stage stand; return status and standard error."""
    process = start(command(recipe, out))
    wait_for(lambda: receipts_in(out, moment[0]) >= moment[1], process)
    happens()
    return end(process)


def require_resumed(recipe: Path, out: Path) -> None:
    """Run the same command again: it ends well, and in the bytes of an undisturbed run."""
    assert run(command(recipe, out)) == (0, "")
    require_undisturbed(LocalStore(out))


def fills(disk: Disk, tmp_path: Path, **limits: str | int) -> None:
    """Run a recipe on a disk that is too small, make room, and run it again."""
    disk.mount(mode=755, **limits)
    recipe = written(tmp_path)
    status, errors = run(command(recipe, disk.out))
    assert status == 7, errors
    require_one_line(errors, "no space left on device", "make room there", "finished units are kept")
    disk.remount("size=64m,nr_inodes=100k")
    require_resumed(recipe, disk.out)


def test_a_full_disk_ends_in_one_line_and_room_lets_the_run_go_on(disk: Disk, tmp_path: Path) -> None:
    """A file system that is full while images are written: exit 7, and nothing of it shows once it is larger."""
    fills(disk, tmp_path, size="600k")
    assert len(list(disk.out.glob("runs/lease-*.json"))) == 2


@pytest.mark.soak
@pytest.mark.parametrize(
    "limits",
    [{"size": "24k"}, {"size": "100k"}, {"size": "300k"}, {"size": "900k"}, {"size": "1100k"}, {"size": "1300k"},
     {"size": "64m", "nr_inodes": 40}],
    ids=lambda limits: "-".join(str(v) for v in limits.values()),
)  # fmt: skip
def test_a_disk_that_is_full_anywhere_in_a_run(disk: Disk, tmp_path: Path, limits: dict[str, str | int]) -> None:
    """From the first unit to the last shard of the export, and where names run out instead of bytes."""
    fills(disk, tmp_path, **limits)


@pytest.mark.soak
def test_a_file_that_may_grow_no_larger_ends_in_one_line(tmp_path: Path) -> None:
    """A limit of the process on file sizes stands for a quota, and needs no root: exit 7, resumed without it."""
    recipe, out = written(tmp_path), tmp_path / "out"
    limited = subprocess.run(
        command(recipe, out),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY)),
    )
    assert limited.returncode == 7, limited.stderr
    require_one_line(limited.stderr, "make room there")
    assert receipts_in(out, "enrol-") > 0
    require_resumed(recipe, out)


def test_a_disk_that_turns_read_only_ends_in_one_line(disk: Disk, tmp_path: Path) -> None:
    """As file systems do after an error: exit 7 in the middle, 2 from the start, and all is well once it is mended."""
    disk.mount()
    recipe = written(tmp_path)
    status, errors = disturbed(recipe, disk.out, ("make-", 4), lambda: disk.remount("ro"))
    assert status == 7, errors
    require_one_line(errors, "read-only file system", str(disk.out))
    status, errors = run(command(recipe, disk.out))
    assert status == 2, errors
    require_one_line(errors, "cannot be written (read-only file system)")
    disk.remount("rw")
    require_resumed(recipe, disk.out)


def test_a_mount_that_vanishes_ends_in_one_line(disk: Disk, tmp_path: Path) -> None:
    """Unmounted in the middle: exit 7, nothing is said of another run, and mounted again it goes on."""
    disk.bind()
    recipe = written(tmp_path)
    status, errors = disturbed(recipe, disk.out, ("make-", 4), disk.vanish)
    assert status == 7, errors
    require_one_line(errors, str(disk.out))
    assert "another run" not in errors
    assert list(disk.at.rglob("*")) == [], "what belongs on the disk was written below its mount point"
    disk.bind()
    require_resumed(recipe, disk.out)


MOMENTS = [("enrol-", 1), ("enrolled-", 1), ("make-", 1), ("make-", 9), ("audit-", 1), ("audit-", 12)]


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[0]}{m[1]}")
def test_a_disk_that_turns_read_only_at_any_stage(disk: Disk, tmp_path: Path, moment: tuple[str, int]) -> None:
    """While probing, between stages, while making, while auditing: exit 7, then the undisturbed bytes."""
    disk.mount()
    recipe = written(tmp_path)
    status, errors = disturbed(recipe, disk.out, moment, lambda: disk.remount("ro"))
    disk.remount("rw")
    assert status == 7, errors
    require_one_line(errors, "read-only file system")
    require_resumed(recipe, disk.out)


@pytest.mark.soak
@pytest.mark.parametrize("nested", [False, True], ids=["dataset-on-the-mount", "dataset-is-the-mount"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[0]}{m[1]}")
def test_a_mount_that_vanishes_at_any_stage(disk: Disk, tmp_path: Path, moment: tuple[str, int], nested: bool) -> None:
    """Whether the dataset lies on the mount or is its root: exit 7, and mounted again the run goes on."""
    disk.bind()
    recipe, out = written(tmp_path), disk.at if nested else disk.out
    status, errors = disturbed(recipe, out, moment, disk.vanish)
    below = [str(path) for path in disk.at.rglob("*")]
    disk.bind()
    assert status == 7, errors
    require_one_line(errors, str(out))
    assert below == []
    require_resumed(recipe, out)


@pytest.mark.soak
def test_a_temporary_directory_that_is_full_ends_in_one_line(disk: Disk, tmp_path: Path) -> None:
    """Segments are built in TMPDIR: where that takes no more it is named, and another one lets the run go on."""
    disk.mount(size="8k")
    recipe, out = written(tmp_path), tmp_path / "out"
    status, errors = run(command(recipe, out), TMPDIR=str(disk.at))
    assert status == 7, errors
    require_one_line(errors, f"cannot write temporary files in {disk.at}", "TMPDIR")
    require_resumed(recipe, out)


S3_TROUBLES = {
    "denied": refusal(403, "AccessDenied"),
    "no-bucket": refusal(404, "NoSuchBucket"),
    "full": refusal(507, "InsufficientStorage"),
}


@pytest.mark.soak
@pytest.mark.parametrize("trouble", sorted(S3_TROUBLES))
def test_a_bucket_that_refuses_in_the_middle_ends_in_one_line(tmp_path: Path, trouble: str) -> None:
    """Rights withdrawn, the bucket gone, its quota used up: exit 7 at once, and given back the run goes on."""
    recipe, out = written(tmp_path), f"s3://{server.running().bucket()}/set"
    with Proxy(server.running()) as proxy, pytest.MonkeyPatch.context() as patch:
        environment = server.environment(proxy.url)
        server.use(patch, server.running().url)
        process = start(command(recipe, out), **environment)
        wait_for(lambda: proxy.asked("PUT", "/receipts/make-") >= 3, process)
        proxy.plan(S3_TROUBLES[trouble], "PUT" if trouble == "full" else "", times=math.inf)
        status, errors = end(process)
        assert status == 7, errors
        require_one_line(errors, out)
        proxy.forget()
        assert run(command(recipe, out), **environment) == (0, "")
        require_undisturbed(open_store(out))


def test_a_place_that_cannot_be_written_from_the_start_is_the_users_mistake(disk: Disk, tmp_path: Path) -> None:
    """A read-only file system, and a file where a directory is expected: exit 2 in one line that names the place."""
    disk.mount()
    disk.remount("ro")
    (tmp_path / "file").write_text("x")
    for out, said in ((disk.out, "read-only file system"), (tmp_path / "file", "is a file")):
        status, errors = run(command(written(tmp_path), out))
        assert status == 2, errors
        require_one_line(errors, str(out), said)
