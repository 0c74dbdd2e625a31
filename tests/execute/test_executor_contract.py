"""What every executor promises, whatever runs the units: one suite, inherited by inline and Ray."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.domain.errors import InterruptedRunError, QuarantinedError, RetryableStoreError, StoppedError, UserError
from pipeline.domain.manifest import Receipt, receipt_path
from pipeline.domain.ports import Executor
from pipeline.execute.inline import InlineExecutor
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.stop import Stop
from tests.execute.toys import Toy, name, units


class ExecutorContract:
    """The promises; a subclass says how its executor is made."""

    beside = 0
    """Units at most that may end at the same moment as the one that ends the run."""
    in_hand = 0
    """Units at most that are being worked at that moment."""
    begun_ahead = 0
    """Units at most that a worker may have begun, behind those in hand, before it hears that the run ends."""

    def make(self, toy: Toy, stop: Stop) -> Executor:
        """Return an executor of this kind."""
        raise NotImplementedError

    @contextmanager
    def open(self, toy: Toy, stop: Stop | None = None) -> Iterator[Executor]:
        """Return an executor that is closed at the end."""
        executor = self.make(toy, stop or Stop())
        try:
            yield executor
        finally:
            executor.close()

    def test_every_unit_gives_its_receipt_once_in_any_order_of_issue(self, tmp_path: Path) -> None:
        """Shuffled units come back as one receipt each, each in the store, and each was worked once."""
        toy = Toy(tmp_path)
        order = [int(n) for n in np.random.default_rng(5).permutation(12)]
        with self.open(toy) as executor:
            assert executor.device_kinds() == {"toy"}
            done = [r.name for r in executor.run(units(*order))]
        assert sorted(done) == [name(n) for n in range(12)]
        assert all(toy.store.size(receipt_path(n)) for n in done)
        assert [len(toy.tries(n)) for n in range(12)] == [1] * 12

    def test_a_limit_that_is_met_ends_the_run_between_units(self, tmp_path: Path) -> None:
        """What is in hand ends and is yielded, nothing new is issued, and the error is that of the limit, status 6."""
        toy, stop = Toy(tmp_path, seconds=0.05), Stop()
        done: list[Receipt] = []
        stop.limit = lambda: StoppedError("the budget is spent") if len(done) >= 3 else None
        with self.open(toy, stop) as executor, pytest.raises(StoppedError, match="the budget is spent") as caught:
            done.extend(executor.run(units(*range(12))))
        assert caught.value.exit_status == 6
        assert 3 <= len(done) <= 3 + self.beside + self.in_hand
        left = {name(n) for n in range(12) if toy.store.size(receipt_path(name(n)))}
        assert {r.name for r in done} <= left
        assert len(left) <= len(done) + self.begun_ahead
        assert toy.store.list("quarantine/") == []

    def test_workers_are_counted_for_as_long_as_they_are_held(self, tmp_path: Path) -> None:
        """Nothing before the first, more while they wait, and nothing more once they are let go."""
        with self.open(Toy(tmp_path, seconds=0.1)) as executor:
            assert executor.worker_seconds() == 0
            assert len(list(executor.run(units(0, 1, 2)))) == 3
            worked_s = executor.worker_seconds()
            assert worked_s >= 0.15
            time.sleep(0.05)
            assert executor.worker_seconds() >= worked_s + 0.04
        held_s = executor.worker_seconds()
        time.sleep(0.05)
        assert executor.worker_seconds() == held_s

    def test_no_units_no_receipts(self, tmp_path: Path) -> None:
        """An empty list is done at once, and a second list on the same executor is worked as the first."""
        with self.open(Toy(tmp_path)) as executor:
            assert list(executor.run([])) == []
            assert [r.name for r in executor.run(units(4))] == [name(4)]
            assert [r.name for r in executor.run(units(5))] == [name(5)]

    def test_quarantined_units_are_left_out_and_named_when_all_others_are_done(self, tmp_path: Path) -> None:
        """A unit with three deaths on record is not tried; the error names it, its cause and what to do."""
        toy = Toy(tmp_path)
        for _ in range(3):
            toy.quarantine.record(name(1), "signal 11")
        done: list[Receipt] = []
        with (
            self.open(toy) as executor,
            pytest.raises(
                QuarantinedError, match=r"^1 units.*make-g0-000001 \(last: signal 11\).*--retry-quarantined$"
            ),
        ):
            done.extend(executor.run(units(0, 1, 2)))
        assert sorted(r.name for r in done) == [name(0), name(2)]
        assert toy.tries(1) == []

    def test_two_deaths_on_record_do_not_keep_a_unit_from_being_tried(self, tmp_path: Path) -> None:
        """A unit is set aside at the third death, not before."""
        toy = Toy(tmp_path)
        for _ in range(2):
            toy.quarantine.record(name(1), "signal 11")
        with self.open(toy) as executor:
            assert [r.name for r in executor.run(units(1))] == [name(1)]

    def test_a_stop_before_the_start_issues_nothing(self, tmp_path: Path) -> None:
        """A run that was asked to end before it began ends with the signal's exit status."""
        toy, stop = Toy(tmp_path), Stop()
        stop.ask(signal.SIGINT)
        with self.open(toy, stop) as executor, pytest.raises(InterruptedRunError, match="SIGINT") as caught:
            list(executor.run(units(0, 1)))
        assert caught.value.exit_status == 130
        assert toy.tries(0) == toy.tries(1) == []

    def test_a_stop_in_the_middle_ends_after_the_units_in_hand(self, tmp_path: Path) -> None:
        """What is being worked gives its receipt, the rest stays open for the next run, which does it."""
        toy, stop = Toy(tmp_path, seconds=0.1), Stop()
        done: list[Receipt] = []

        def take(executor: Executor) -> None:
            for receipt in executor.run(units(*range(40))):
                done.append(receipt)
                stop.ask()

        with self.open(toy, stop) as executor, pytest.raises(InterruptedRunError):
            take(executor)
        assert 1 <= len(done) <= 1 + self.beside + self.in_hand
        left = [n for n in range(12) if toy.store.size(receipt_path(name(n))) is None]
        assert left
        with self.open(toy) as executor:
            assert len(list(executor.run(units(*left)))) == len(left)

    def test_an_error_of_ours_ends_the_run_as_itself(self, tmp_path: Path) -> None:
        """A UserError of a worker arrives as a UserError, so that the exit status is right; it costs no death."""
        toy = Toy(tmp_path, {2: "error"})
        with self.open(toy) as executor, pytest.raises(UserError, match=r"^unit 2 asks for the impossible$"):
            list(executor.run(units(0, 1, 2)))
        assert toy.quarantine.deaths(name(2)) == 0

    def test_an_error_of_ours_at_the_start_ends_the_run_as_itself(self, tmp_path: Path) -> None:
        """A worker that cannot be made for a reason that we foresee says so."""
        toy = Toy(tmp_path, start="error")
        with self.open(toy) as executor, pytest.raises(UserError, match=r"^the models are not there$"):
            executor.device_kinds()

    def test_an_error_that_passes_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A unit whose store fails twice in a way that may pass is done at the third try, and the log says so."""
        monkeypatch.setattr("pipeline.execute.queue.RETRY_S", 0.05)
        toy = Toy(tmp_path, {1: "flaky 2"})
        with caplog.at_level(logging.WARNING, logger="facemint"), self.open(toy) as executor:
            assert sorted(r.name for r in executor.run(units(0, 1))) == [name(0), name(1)]
        assert len(toy.tries(1)) == 3
        assert "try 2 of 3" in caplog.text

    def test_an_error_that_does_not_pass_is_raised_after_three_more_tries(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Retrying is bounded: the fourth failure of a unit ends the run with the store's own error."""
        monkeypatch.setattr("pipeline.execute.queue.RETRY_S", 0.05)
        toy = Toy(tmp_path, {1: "flaky"})
        with self.open(toy) as executor, pytest.raises(RetryableStoreError, match="time-out at try 4"):
            list(executor.run(units(1)))

    def test_closing_twice_does_no_harm(self, tmp_path: Path) -> None:
        """An executor may be closed before it began, and again after."""
        executor = self.make(Toy(tmp_path), Stop())
        executor.close()
        assert [r.name for r in executor.run(units(0))] == [name(0)]
        executor.close()
        executor.close()


class TestInline(ExecutorContract):
    """The inline executor."""

    def make(self, toy: Toy, stop: Stop) -> Executor:
        """Return an executor in this process."""
        return InlineExecutor(toy, stop=stop, quarantine=toy.quarantine)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestRay(ExecutorContract):
    """The Ray executor with two workers."""

    beside, in_hand, begun_ahead = 1, 2, 2

    def make(self, toy: Toy, stop: Stop) -> Executor:
        """Return an executor on the session's Ray."""
        return RayExecutor(toy, workers=2, address=None, unit_limit_s=60.0, quarantine=toy.quarantine, stop=stop)
