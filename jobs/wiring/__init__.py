"""The composition root: the only package that knows every adapter and filter; its modules say what they serve."""

from __future__ import annotations

from jobs.wiring.banking import bank_facts, fit_bank, fit_vectors
from jobs.wiring.calibrating import calibrate_recogniser
from jobs.wiring.datasets import build_exporter, dataset_status, export_dataset, newest_manifest, verify_dataset
from jobs.wiring.galleries import gallery_sources, with_gallery_digests
from jobs.wiring.labelled import holds_pairs, open_labelled, open_pairs
from jobs.wiring.measuring import build_adding_worker, dataset_recipe, measure_dataset, measure_on
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
from jobs.wiring.refiltering import changed_recipe, refilter_dataset, refilter_dry, refilter_on, refilter_plan
from jobs.wiring.sessions import build_worker, inline_executor, open_session, plan_run, session_on

__all__ = [
    "bank_facts",
    "build",
    "build_adding_worker",
    "build_exporter",
    "build_parts",
    "build_worker",
    "calibrate_recogniser",
    "changed_recipe",
    "check_parts",
    "component_cards",
    "dataset_recipe",
    "dataset_status",
    "export_dataset",
    "fit_bank",
    "fit_vectors",
    "full_model",
    "gallery_sources",
    "holds_pairs",
    "inline_executor",
    "load",
    "load_recipe",
    "measure_dataset",
    "measure_on",
    "newest_manifest",
    "open_labelled",
    "open_pairs",
    "open_session",
    "plan_run",
    "prints_of",
    "refilter_dataset",
    "refilter_dry",
    "refilter_on",
    "refilter_plan",
    "session_on",
    "targets_of",
    "verify_dataset",
    "with_gallery_digests",
]
