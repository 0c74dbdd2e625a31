"""The Ray that tests share."""

from __future__ import annotations

import pytest


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_session_runs_an_actor_of_this_tree() -> None:
    """An actor on the shared Ray imports this repository and keeps to one thread."""
    import ray

    class Probe:
        def look(self) -> tuple[str, str]:
            import os

            from pipeline.domain.rng import Key, Stream

            return str(Key(1, Stream.SAMPLE_NOISE)), os.environ["OMP_NUM_THREADS"]

    probe = ray.remote(Probe).options(num_cpus=1).remote()

    key, threads = ray.get(probe.look.remote())

    assert "run_seed=1" in key
    assert threads == "1"
