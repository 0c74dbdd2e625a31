"""What a worker books of a node: which nodes hold how many, how Ray is told, and what is said where none could."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.compute import Compute
from pipeline.execute.demand import GIB, Demand, Node, demand_of
from pipeline.execute.on_ray import RayCluster, actor_options
from tests.execute.toys import Toy

FAST = {"pool": "fast"}
DEMANDS = st.builds(
    Demand,
    cpus=st.floats(0.25, 16),
    gpus=st.one_of(st.just(0.0), st.floats(0.05, 0.99), st.integers(1, 4).map(float)),
    memory_gib=st.none() | st.floats(0.01, 64),
    labels=st.sampled_from([{}, FAST]),
)
NODES = st.builds(
    Node,
    cpus=st.floats(0, 64),
    gpus=st.integers(0, 8).map(float),
    memory_bytes=st.floats(0, 256 * GIB),
    labels=st.sampled_from([{}, FAST, {"pool": "slow"}, {**FAST, "zone": "a"}]),
)


@pytest.mark.parametrize(
    ("compute", "options"),
    [
        ({}, {"num_cpus": 1.0}),
        ({"gpus": 0.5, "cpus": 2}, {"num_cpus": 2.0, "num_gpus": 0.5}),
        ({"memory_gib": 1.5}, {"num_cpus": 1.0, "memory": 3 * 2**29}),
        ({"memory_gib": 1 / 3}, {"num_cpus": 1.0, "memory": 2**30 // 3}),
        ({"node_labels": {"a.io/kind": "h100"}}, {"num_cpus": 1.0, "label_selector": {"a.io/kind": "h100"}}),
    ],
)
def test_what_a_recipe_asks_of_a_node_is_booked_by_its_actors(compute: dict[str, Any], options: dict[str, Any]) -> None:
    """CPUs, devices, memory in bytes and labels reach Ray, and nothing that was not asked for."""
    demand = demand_of(Compute.model_validate(compute))
    assert actor_options(demand) == {"max_restarts": 0, "max_task_retries": 0, **options}


def test_options_are_those_that_the_pinned_ray_takes() -> None:
    """Ray itself checks them where an actor is described: no key of ours is unknown to it, no label malformed."""
    import ray

    class Actor:
        pass

    demand = Demand(0.5, 1, 2.0, {"cloud.google.com/gke-accelerator": "nvidia-h100", "marked": ""})
    assert ray.remote(**actor_options(demand))(Actor) is not None
    with pytest.raises(ValueError, match="label"):
        ray.remote(**actor_options(Demand(labels={"no label!": "x"})))(Actor)


@given(demand=DEMANDS, node=NODES)
def test_as_many_workers_fit_as_a_node_has_room_for_and_no_more(demand: Demand, node: Node) -> None:
    """The workers said to fit book no more than there is, and one more would."""
    workers = demand.fit(node)
    labelled = demand.labels.items() <= node.labels.items()
    assert workers == 0 or labelled
    assert workers * demand.cpus <= node.cpus + 1e-6
    assert workers * demand.memory_bytes <= node.memory_bytes + 1e-6 * demand.memory_bytes
    per_device = math.floor(1 / demand.gpus + 1e-9) if 0 < demand.gpus < 1 else 0
    devices = math.ceil(workers / per_device) if per_device else workers * demand.gpus
    assert devices <= node.gpus

    more = workers + 1
    short = (
        more * demand.cpus > node.cpus
        or more * demand.memory_bytes > node.memory_bytes
        or (math.ceil(more / per_device) if per_device else more * demand.gpus) > node.gpus
    )
    assert short or not labelled


@given(demand=DEMANDS, nodes=st.lists(NODES, max_size=4))
def test_something_is_said_exactly_where_no_node_could_hold_a_worker(demand: Demand, nodes: list[Node]) -> None:
    """One line where all hold none, nothing where one of them holds one, whatever it has beside."""
    lack = demand.lack(nodes)
    assert (lack == "") == any(demand.fit(node) for node in nodes)
    assert "\n" not in lack


BIG = Node(32, 0, 64 * GIB, {"pool": "slow"})
GPU = Node(8, 1, 15.99 * GIB, FAST)


@pytest.mark.parametrize(
    ("demand", "told"),
    [
        (Demand(labels={"pool": "mine"}), "no node has the label pool=mine (compute.node_labels)"),
        (Demand(labels={**FAST, "a": "b"}), "no node has the labels a=b, pool=fast (compute.node_labels)"),
        (Demand(memory_gib=65), "no node has 65 GiB of memory for a worker (compute.memory_gib); the most is 64"),
        (
            Demand(memory_gib=16, labels=FAST),
            "no node with these labels has 16 GiB of memory for a worker (compute.memory_gib); the most is 15.9",
        ),
        (Demand(gpus=2), "no node has 2 GPUs for a worker (compute.gpus); the most is 1"),
        (Demand(cpus=33), "no node has 33 CPUs for a worker (compute.cpus); the most is 32"),
        (Demand(16, 1, 2), "no node has 16 CPUs, 1 GPU and 2 GiB of memory all at once"),
        (Demand(gpus=1, memory_gib=8, labels=FAST), ""),
    ],
)
def test_what_no_node_has_is_named_with_its_key_and_the_most_there_is(demand: Demand, told: str) -> None:
    """A user reads which key of the recipe asks for too much, and how much there is."""
    assert demand.lack([BIG, GPU]) == told


def test_a_cluster_without_nodes_says_so() -> None:
    """Before the first node has joined nothing is compared."""
    assert Demand(gpus=1).lack([]) == "no node is there"


@pytest.mark.parametrize(
    ("address", "asked"),
    [("head:6379", "4 CPUs, 2 GiB of memory and the label pool=fast"), (None, "1 CPU and 2 GiB of memory")],
)
def test_this_machine_shares_its_cpus_and_counts_as_labelled(address: str | None, asked: str, tmp_path: Any) -> None:
    """Where Ray is started here, memory is booked; CPUs are shared and labels are those of nodes elsewhere."""
    cluster = RayCluster(Toy(tmp_path), address, Demand(4, 0, 2, FAST), {}, 1.0)
    assert cluster.asked() == asked
