"""The composition root: the only package that knows every adapter and filter; its modules say what they serve."""

from __future__ import annotations

from jobs.wiring.datasets import build_exporter, dataset_status, export_dataset, newest_manifest, verify_dataset
from jobs.wiring.parts import (
    build,
    build_parts,
    check_parts,
    component_cards,
    full_model,
    load,
    load_recipe,
    prints_of,
    targets_of,
)
from jobs.wiring.sessions import build_worker, inline_executor, open_session, plan_run, session_on

__all__ = [
    "build",
    "build_exporter",
    "build_parts",
    "build_worker",
    "check_parts",
    "component_cards",
    "dataset_status",
    "export_dataset",
    "full_model",
    "inline_executor",
    "load",
    "load_recipe",
    "newest_manifest",
    "open_session",
    "plan_run",
    "prints_of",
    "session_on",
    "targets_of",
    "verify_dataset",
]
