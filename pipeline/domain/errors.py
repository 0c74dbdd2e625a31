"""The error tree: everything facemint refuses, and what a caller may do about it.

    FacemintError                   every failure that facemint foresees
    |-- UserError                   exit 2: the request cannot be met as written
    |   |-- RecipeError             a recipe's key, type or number
    |   |-- SpaceMismatchError      two vectors that do not share an embedding space
    |   |-- CalibrationError        a threshold that the calibration cannot support
    |   |-- PlanMismatchError       the dataset at --out was made with other settings
    |   |-- OutputError             the place named by --out cannot be used
    |   |-- ModelError              weights that are missing, altered, unsafe to load or of another shape
    |   `-- DeviceMemoryError       one batch of the recipe's shape does not fit on the device
    |-- BadVectorError              exit 1: NaN, infinite or zero-norm embedding
    |-- TargetNotReachedError       exit 4: the quota or the filters could not be satisfied
    |-- WorkerStartError            exit 1: a worker's process died before its first unit
    |-- QuarantinedError            exit 3: units that killed their worker three times
    |-- LeaseHeldError              exit 5: another run holds this dataset
    |-- StoppedError                exit 6: a budget or a deadline ended the run
    |-- InterruptedRunError         exit 130 or 143: a person or a scheduler ended the run
    `-- StoreError                  exit 7: storage failed, or holds something altered
        `-- RetryableStoreError     the same call may succeed later

Whether something may be retried is part of the type (`retryable`), never read from a message.
A message has three parts: what was got, what is allowed, what to do.
"""

from __future__ import annotations

from signal import Signals
from typing import ClassVar


class FacemintError(Exception):
    """Every failure that facemint foresees; `exit_status` follows the table in the documentation."""

    exit_status: int = 1
    retryable: ClassVar[bool] = False


class UserError(FacemintError):
    """The request cannot be met as written."""

    exit_status = 2


class RecipeError(UserError):
    """A recipe holds an unknown key, a wrong type or an impossible number."""


class SpaceMismatchError(UserError):
    """Two embeddings were to be compared that do not live in the same space."""


class CalibrationError(UserError):
    """A false match rate was asked for that the calibration's data cannot support."""


class PlanMismatchError(UserError):
    """The dataset at this place was made with other settings."""


class OutputError(UserError):
    """The output location cannot be used."""


class ModelError(UserError):
    """A model's weights are missing, altered, unsafe to load, or not of the shape that was asked for."""


class DeviceMemoryError(UserError):
    """A batch did not fit into the memory of the device; raised by models, so that the flow can try it alone."""


class BadVectorError(FacemintError):
    """An embedding is NaN, infinite or has no length, so no comparison with it means anything."""


class TargetNotReachedError(FacemintError):
    """The identities, images or balance asked for could not be reached with these settings."""

    exit_status = 4


class WorkerStartError(FacemintError):
    """A worker's process died before it could be given a unit."""


class QuarantinedError(FacemintError):
    """Units were set aside after killing their worker repeatedly."""

    exit_status = 3


class LeaseHeldError(FacemintError):
    """Another run holds this dataset."""

    exit_status = 5


class StoppedError(FacemintError):
    """A budget or a deadline ended the run cleanly; running it again resumes."""

    exit_status = 6


class InterruptedRunError(FacemintError):
    """A signal ended the run cleanly; running it again resumes."""

    def __init__(self, signum: int) -> None:
        """Keep which signal it was; the exit status follows from it."""
        super().__init__(f"stopped by {Signals(signum).name}; run the same command again to resume")
        self.exit_status = 128 + signum


class StoreError(FacemintError):
    """Storage failed, or holds something that it should not."""

    exit_status = 7


class RetryableStoreError(StoreError):
    """Storage failed in a way that may pass: a time-out, a throttled request, a dropped connection."""

    retryable = True
