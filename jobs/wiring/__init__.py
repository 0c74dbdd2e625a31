"""The composition root: the only package that knows every adapter and filter; its modules say what they serve."""

from __future__ import annotations

from jobs.wiring.banking import bank_facts, fit_bank, fit_vectors
from jobs.wiring.calibrating import calibrate_recogniser
from jobs.wiring.crop_points import crop_points
from jobs.wiring.curating import curation_on, open_curation, plan_curation, reviewed_of
from jobs.wiring.datasets import dataset_status, newest_manifest, verify_dataset
from jobs.wiring.erasing import erase_dataset, erase_dry, erase_on, erase_plan, erased_facts
from jobs.wiring.erasure_request import ErasureRequest
from jobs.wiring.evaluating import EvaluationRequest, evaluate_dataset, training_options
from jobs.wiring.exports import build_exporter, export_dataset, export_on
from jobs.wiring.galleries import gallery_sources, with_gallery_digests
from jobs.wiring.growing import grown
from jobs.wiring.labelled import holds_pairs, open_labelled, open_pairs
from jobs.wiring.library import check_models, convert_model, fetch_models, known_models
from jobs.wiring.local_files import free_file, write_json
from jobs.wiring.mapping import fit_space_map
from jobs.wiring.measuring import build_adding_worker, dataset_recipe, measure_dataset, measure_on
from jobs.wiring.merging import MergeRequest, merge_datasets, merge_on
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
from jobs.wiring.proving import prove_image, prove_on
from jobs.wiring.ranking import rank_measure
from jobs.wiring.recleaning import reclean_dataset, reclean_dry, reclean_on
from jobs.wiring.refiltering import changed_recipe, refilter_dataset, refilter_dry, refilter_on, refilter_plan
from jobs.wiring.report_page import draw_report, published_report
from jobs.wiring.reporting import gather_report, report_on
from jobs.wiring.sessions import build_worker, inline_executor, open_session, plan_run, session_on
from jobs.wiring.sets import diff_datasets, side_of, split_dataset, split_on
from jobs.wiring.signing import check_signature, sign_dataset, sign_images, sign_on, signature_on, signer_of
from jobs.wiring.submitting import job_of
from jobs.wiring.watching import Outlets, Watch, watched

__all__ = [
    "ErasureRequest",
    "EvaluationRequest",
    "MergeRequest",
    "Outlets",
    "Watch",
    "bank_facts",
    "build",
    "build_adding_worker",
    "build_exporter",
    "build_parts",
    "build_worker",
    "calibrate_recogniser",
    "changed_recipe",
    "check_models",
    "check_parts",
    "check_signature",
    "component_cards",
    "convert_model",
    "crop_points",
    "curation_on",
    "dataset_recipe",
    "dataset_status",
    "diff_datasets",
    "draw_report",
    "erase_dataset",
    "erase_dry",
    "erase_on",
    "erase_plan",
    "erased_facts",
    "evaluate_dataset",
    "export_dataset",
    "export_on",
    "fetch_models",
    "fit_bank",
    "fit_space_map",
    "fit_vectors",
    "free_file",
    "full_model",
    "gallery_sources",
    "gather_report",
    "grown",
    "holds_pairs",
    "inline_executor",
    "job_of",
    "known_models",
    "load",
    "load_recipe",
    "measure_dataset",
    "measure_on",
    "merge_datasets",
    "merge_on",
    "newest_manifest",
    "open_curation",
    "open_labelled",
    "open_pairs",
    "open_session",
    "plan_curation",
    "plan_run",
    "prints_of",
    "prove_image",
    "prove_on",
    "published_report",
    "rank_measure",
    "reclean_dataset",
    "reclean_dry",
    "reclean_on",
    "refilter_dataset",
    "refilter_dry",
    "refilter_on",
    "refilter_plan",
    "report_on",
    "reviewed_of",
    "session_on",
    "side_of",
    "sign_dataset",
    "sign_images",
    "sign_on",
    "signature_on",
    "signer_of",
    "split_dataset",
    "split_on",
    "targets_of",
    "training_options",
    "verify_dataset",
    "watched",
    "with_gallery_digests",
    "write_json",
]
