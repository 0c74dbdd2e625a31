"""The recipe's `compute`: where and on how much the work runs, said once for every ground that runs it.

One set of resources drives a Ray cluster that stands, one that Kubernetes makes for the job, an allocation of Slurm's
and this machine. None of it changes the dataset, and none of it is fingerprinted.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.domain.section import Section
from pipeline.domain.spending import Limits

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""RFC 1123: names of namespaces, secrets and claims of Kubernetes'."""
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
SLURM_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
ABSOLUTE_PATH = r"^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$"
IMAGE = r"^[a-z0-9][a-z0-9._/:-]*[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"

DnsLabel = Annotated[str, Field(pattern=DNS_LABEL)]
SlurmWord = Annotated[str, Field(pattern=SLURM_WORD)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE)]


class Toleration(Section):
    """A taint that pods of the job put up with."""

    key: LabelKey
    value: LabelValue | None = None
    """None puts up with the taint whatever its value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Kubernetes(Section):
    """What only a Kubernetes cluster asks for."""

    namespace: DnsLabel = "facemint"
    image: Annotated[str, Field(pattern=IMAGE, max_length=512)] | None = None
    """With facemint in it; head, workers and submitter all run it. A submission to Kubernetes needs one."""
    pull_secret: DnsLabel | None = None
    service_account: DnsLabel = "facemint"
    credentials: DnsLabel | None = None
    """Name of a secret whose keys become environment variables: `AWS_ACCESS_KEY_ID` and the like."""
    cache_claim: DnsLabel | None = None
    """Claim that is mounted at `model_cache`; without it every pod has a folder of its own there."""
    data_claim: DnsLabel | None = None
    """Claim that is mounted at `data_path`, where datasets lie on a shared file system."""
    data_path: Annotated[str, Field(pattern=ABSOLUTE_PATH, max_length=256)] = "/data"
    gpu_resource: LabelKey = "nvidia.com/gpu"
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    queue: DnsLabel | None = None
    """Kueue's local queue that admits the job."""
    head_cpus: Annotated[float, Field(gt=0, le=256)] = 2.0
    head_memory_gib: Annotated[float, Field(gt=0, le=4096)] = 8.0
    """The driver runs on the head, which works no units: its CPUs are not offered to them."""


class Slurm(Section):
    """What only Slurm asks for."""

    partition: SlurmWord | None = None
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    setup: Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=32)] = ()
    """Shell lines before anything runs on a node, such as `module load cuda` or the activation of an environment."""
    warning_s: Annotated[int, Field(ge=20, le=3600)] = 90
    """So long before the time limit the job is told, drains, and is queued again."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 20
    """How often the time limit has it queued again; a job that is pre-empted always is."""

    @field_validator("setup")
    @classmethod
    def _single_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [line for line in value if "\n" in line or "\r" in line or "\0" in line]:
            raise ValueError(f"{odd[0][:40]!r} holds a line break; give one shell line per item")
        return value


class Compute(Limits):
    """Where and on how much the work runs; changes nothing about the dataset."""

    executor: Literal["ray", "inline"] = "ray"
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """At most so many. Default: one per CPU of the cluster; of a cluster made for the job, those of one node."""
    min_workers: Annotated[int, Field(ge=0, le=100_000)] = 0
    """A pool that grows and shrinks keeps so many."""
    workers_per_node: Annotated[int, Field(ge=1, le=1024)] = 1
    """How many share a node of a cluster that is made for the job."""
    cpus: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """Of one worker. It computes on one thread; more make room for encoding and writing beside it."""
    gpus: Annotated[float, Field(ge=0, le=16)] = 0.0
    """Of one worker; below 1, workers share a device."""
    memory_gib: Annotated[float, Field(gt=0, le=16384)] | None = None
    """Of one worker, booked of what a node has for workers; default: nothing is booked."""
    spot: bool = False
    """Whether nodes that may be taken away at any moment do: nothing but the units in hand is lost with one."""
    node_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = {}
    """Which nodes: labels that they have. Of a Ray cluster that stands these are Ray's own (`ray start --labels`). On
    Slurm, which has no labels, the values are features of nodes. This machine counts as having any."""
    model_cache: Annotated[str, Field(pattern=ABSOLUTE_PATH, max_length=256)] | None = None
    """Folder of every node where weights are kept, so that workers of a node load one copy. A node whose own
    environment says FACEMINT_MODELS keeps to that."""
    time_limit_min: Annotated[int, Field(ge=1, le=525_600)] | None = None
    """After so long a job that was submitted is ended; what is committed stays. On Slurm it is the length of one
    allocation, after which the job is queued again: there a budget or a deadline ends a run."""
    address: str | None = None
    in_flight: Annotated[int, Field(ge=1, le=16)] | None = None
    """Batches that are judged while the next is generated; default: as many as unit.lookahead lets be unknown."""
    unit_limit_s: Annotated[float, Field(gt=0)] = 3600.0
    """A unit without a result for so long is taken back, and its worker replaced."""
    mixed_devices: bool = False
    """Allow workers of another device kind; withdraws the digest promise."""
    kubernetes: Kubernetes = Kubernetes()
    slurm: Slurm = Slurm()

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_share(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is more than one device and not a whole number; a share is below 1")
        return value

    @model_validator(mode="after")
    def _least_is_not_most(self) -> Compute:
        if self.workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}; lower it")
        return self

    @model_validator(mode="after")
    def _budget_is_counted(self) -> Compute:
        if self.budget.gpu_hours is not None and not self.gpus:
            raise ValueError(
                "budget.gpu_hours is never spent while gpus is 0; set gpus to what a worker has, or budget.worker_hours"
            )
        return self

    @property
    def nodes(self) -> int:
        """Return how many nodes a cluster that is made for the job has at most."""
        return math.ceil((self.workers or self.workers_per_node) / self.workers_per_node)

    @property
    def min_nodes(self) -> int:
        """Return how many such a cluster keeps."""
        return math.ceil(self.min_workers / self.workers_per_node)

    @property
    def node_cpus(self) -> int:
        """Return the CPUs of such a node that workers book."""
        return math.ceil(self.cpus * self.workers_per_node)

    @property
    def node_gpus(self) -> int:
        """Return the devices of such a node; shares are rounded up to whole ones."""
        if self.gpus >= 1:
            return int(self.gpus) * self.workers_per_node
        per_device = math.floor(1 / self.gpus + 1e-9) if self.gpus else 0
        return math.ceil(self.workers_per_node / per_device) if per_device else 0

    @property
    def node_memory_mib(self) -> int | None:
        """Return the memory of such a node in MiB; None where nothing is booked."""
        return None if self.memory_gib is None else math.ceil(self.memory_gib * self.workers_per_node * 1024)
