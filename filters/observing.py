"""A filter that is asked and refuses nobody: `mode: observe`, for trying a threshold out on a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.domain.ports import Filter
from pipeline.domain.records import Sample, Verdict


@dataclass(frozen=True)
class Observing:
    """Implements `ports.Filter` around another: its verdicts pass, and keep the reason for which it would refuse."""

    inner: Filter

    @property
    def name(self) -> str:
        """Return the inner filter's name."""
        return self.inner.name

    @property
    def judges_condition(self) -> bool:
        """Return what the inner filter says."""
        return self.inner.judges_condition

    @property
    def judges_siblings(self) -> bool:
        """Return what the inner filter says."""
        return self.inner.judges_siblings

    @property
    def judges_cell(self) -> bool:
        """Return what the inner filter says; most do not know the word."""
        return self.inner.judges_cell

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return what the inner filter says."""
        return self.inner.reasons

    def judge(self, sample: Sample) -> Verdict:
        """Return the inner filter's verdict as one that passed."""
        return replace(self.inner.judge(sample), passed=True)
