"""What every test stands on: one thread, quiet foreign services, repeatable Hypothesis, one Ray per session."""

from __future__ import annotations

import os
import sys

# Before numpy or torch is imported: their thread pools read these once.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.update(
    RAY_AUTH_MODE="disabled",  # a local Ray would otherwise write a token into the home folder
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",  # the new behaviour; the old one warns
    # a machine that others keep busy starts a Ray late, and tells late that a worker died: what was 1 s for the last
    # would be taken for a lost node, which blames nobody
    RAY_gcs_server_port_wait_time_s="150",
    RAY_raylet_start_wait_time_s="150",
    RAY_worker_register_timeout_seconds="150",
    RAY_memory_monitor_refresh_ms="0",  # what else runs on this machine shall not have it kill workers
    RAY_timeout_ms_task_wait_for_death_info="30000",
    NO_PROXY="*",  # every server of the tests is on this machine
    no_proxy="*",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("dev", deadline=None, database=None)
hypothesis.settings.register_profile("ci", deadline=None, database=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Keep torch at one thread in every test that has imported it, and import it in none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the repository root."""
    return ROOT


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start Ray once for the session, never joining one that runs: two CPUs, no dashboard, a small object store."""
    import ray

    for tries_left in (1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=128 * 2**20,
                log_to_driver=False,
                # a tenth of the default: tests scrape what they did
                _system_config={"metrics_report_interval_ms": 1000},
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
            )
            break
        except Exception:  # `The current node timed out during startup`, after 30 s that nobody can change
            ray.shutdown()
            if not tries_left:
                raise
    yield
    ray.shutdown()
