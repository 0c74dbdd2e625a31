"""What one worker asks of a node, which nodes could hold it, and what to tell where none could."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.domain.compute import Compute

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Node:
    """A living node: what it has for workers in all, taken or free, and its labels."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one worker books of a node.

    Attributes:
        cpus: of a cluster that stands; on this machine as many workers share a CPU as are asked for.
        gpus: devices, or a share of one.
        memory_gib: None books none.
        labels: that the node must have, with these values; this machine counts as having any.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Return whole bytes, rounded down: workers that were promised a node together fit on it."""
        return math.floor((self.memory_gib or 0.0) * GIB)

    def fit(self, node: Node) -> int:
        """Return how many workers a node holds that has nothing else on it."""
        if not self._is_labelled(node):
            return 0
        most = [node.cpus / self.cpus]
        if self.memory_bytes:
            most.append(node.memory_bytes / self.memory_bytes)
        if self.gpus >= 1:
            most.append(node.gpus / self.gpus)
        elif self.gpus:
            # a share lies on one device: two halves of different ones are none
            most.append(math.floor(node.gpus) * math.floor(1 / self.gpus + 1e-9))
        return math.floor(min(most) + 1e-9)

    def told(self) -> str:
        """Return in words what is booked."""
        parts = [_counted(self.cpus, "CPU")]
        parts += [_counted(self.gpus, "GPU")] if self.gpus else []
        parts += [f"{self.memory_gib:g} GiB of memory"] if self.memory_gib else []
        parts += [self._labels()] if self.labels else []
        return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))

    def lack(self, nodes: Sequence[Node]) -> str:
        """Return why no node could hold a worker, even one with nothing else on it; empty where one could."""
        if any(self.fit(node) for node in nodes):
            return ""
        if not nodes:
            return "no node is there"
        there = [node for node in nodes if self._is_labelled(node)]
        if not there:
            return f"no node has {self._labels()} (compute.node_labels)"
        such = " with these labels" if self.labels else ""
        memory_gib = max(node.memory_bytes for node in there) / GIB
        asked = {
            "gpus": (_counted(self.gpus, "GPU"), self.gpus, max(node.gpus for node in there)),
            "memory_gib": (f"{self.memory_gib or 0.0:g} GiB of memory", self.memory_bytes / GIB, memory_gib),
            "cpus": (_counted(self.cpus, "CPU"), self.cpus, max(node.cpus for node in there)),
        }
        for key, (words, least, most) in asked.items():
            if most < least:
                shown = math.floor(most * 10) / 10  # 15.99 is no 16
                return f"no node{such} has {words} for a worker (compute.{key}); the most is {shown:g}"
        return f"no node{such} has {self.told()} all at once"

    def _is_labelled(self, node: Node) -> bool:
        return all(node.labels.get(key) == value for key, value in self.labels.items())

    def _labels(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in sorted(self.labels.items()))
        return f"the label{'s' * (len(self.labels) > 1)} {words}"


def demand_of(compute: Compute) -> Demand:
    """Return what a worker books by a recipe's `compute`."""
    return Demand(compute.cpus, compute.gpus, compute.memory_gib, dict(compute.node_labels))


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 else 's'}"
