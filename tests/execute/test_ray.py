"""The Ray executor: the bytes of inline with any number of workers; a worker's death costs a retry, not the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs import wiring
from pipeline.adapters.stores import LocalStore, MemoryStore
from pipeline.domain.errors import QuarantinedError, UserError, WorkerStartError
from pipeline.domain.manifest import Receipt
from pipeline.domain.unit import Stage, Unit
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.run import generate
from tests.worlds import Silent, bytes_of, mint, sketches

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
NOISY = {"generator": {"use": "sketch", "noise": 2.0}, "attempts": 3}


class MortalWorker:
    """A worker whose process dies on some units: always on `poison`, once on `once` (a file remembers)."""

    def __init__(self, folder: str) -> None:
        """Keep where deaths are remembered."""
        self.folder = Path(folder)

    def device_kind(self) -> str:
        """Name a device."""
        return "mortal"

    def work(self, unit: Unit) -> Receipt:
        """Die or return a receipt."""
        from pipeline.domain.manifest import Counts

        mark = self.folder / f"died-{unit.index}"
        if unit.index == 1 or (unit.index == 3 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if unit.index == 99:
            raise UserError("unit 99 asks for the impossible")
        return Receipt(unit.to_dict(), unit.name, "f", "p", Counts(0, 0, 0, {}), ())

    def audit(self, unit_name: str) -> dict[str, str]:
        """Return the name."""
        return {"unit": unit_name}


def _units(*numbers: int) -> list[Unit]:
    return [Unit(Stage.MAKE, 0, n, 0) for n in numbers]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_ray_workers_gives_the_bytes_of_inline(tmp_path: Path, workers: int) -> None:
    """Segments, index, documents and exports on Ray equal those of the inline executor byte for byte."""
    inline = MemoryStore()
    mint(sketches(**NOISY), inline)
    store = LocalStore(tmp_path / "out")
    recipe = sketches(**NOISY, compute={"executor": "ray", "workers": workers})
    generate(wiring.session_on(recipe, store, Silent()))
    assert bytes_of(store) == bytes_of(inline)


def test_a_dead_worker_costs_a_retry_and_three_deaths_quarantine_the_unit(tmp_path: Path) -> None:
    """A unit that kills its worker once is done on the next; one that kills three is set aside and named."""
    deaths: list[tuple[str, int]] = []
    executor = RayExecutor(
        lambda: MortalWorker(str(tmp_path)), workers=2, on_death=lambda name, number: deaths.append((name, number))
    )
    done: list[Receipt] = []
    with pytest.raises(QuarantinedError, match=r"1 units are quarantined.*make-g0-000001"):
        done.extend(executor.run(_units(0, 1, 2, 3, 4, 5)))
    executor.close()
    assert sorted(r.name for r in done) == [f"make-g0-{n:06d}" for n in (0, 2, 3, 4, 5)]
    assert [d for d in deaths if d[0] == "make-g0-000001"] == [("make-g0-000001", n) for n in (1, 2, 3)]
    assert ("make-g0-000003", 1) in deaths


def test_an_error_of_ours_crosses_from_worker_to_driver_as_itself(tmp_path: Path) -> None:
    """A UserError raised in a worker arrives as a UserError, so the exit status is right."""
    executor = RayExecutor(lambda: MortalWorker(str(tmp_path)), workers=1)
    with pytest.raises(UserError, match="unit 99 asks for the impossible"):
        list(executor.run(_units(99)))
    executor.close()


def test_a_worker_that_dies_while_it_starts_ends_the_run_in_one_line() -> None:
    """A process killed while its models load is named as that, not shown as a traceback of Ray's."""
    executor = RayExecutor(lambda: os.kill(os.getpid(), signal.SIGKILL), workers=1)  # type: ignore[arg-type, return-value]
    with pytest.raises(WorkerStartError, match="a worker died while it started") as caught:
        executor.device_kinds()
    executor.close()
    assert "\n" not in str(caught.value)
