"""Reading faces from photographs: our parts against a plain `FaceAnalysis` loop, with the same models and pictures.

Run as `make bench`, or `python -m tests.benchmarks.bench_curate [PYTHON]`, where PYTHON is an interpreter that has the
package insightface (or the environment names one in INSIGHTFACE_PYTHON); without one the comparison is left out. Two
workers, as many as a run has on two cores, each read, decode in a guarded child, detect, choose, align and embed half
of the pictures at batch 1. Rounds alternate between both sides and bare models; the table shows medians, of the clock
and of processor time, which a busy machine changes less. Then it says whether both sides found the same faces.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.photographs import ASSETS, LFW, SCRFD, lfw

ROUNDS, WORKERS, PICTURES = 3, 2, 300
AIM_TIMES, AIM_SHARE = 1.8, 0.15
W600K = SCRFD.parent / "w600k_mbf_uint8dyn.onnx"
LOOP = """
import json, sys, time
import cv2, numpy as np
from insightface.app import FaceAnalysis
paths, root, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
app = FaceAnalysis(name="buffalo_sc", root=root, providers=["CPUExecutionProvider"])
app.prepare(ctx_id=-1, det_size=(320, 320))
for path in paths[:5]:
    app.get(cv2.imread(path), max_num=1)
found, used, start = [], time.process_time(), time.perf_counter()
for path in paths:
    found.append(app.get(cv2.imread(path), max_num=1))
took, used = time.perf_counter() - start, time.process_time() - used
boxes = np.array([f[0].bbox if f else np.full(4, np.nan) for f in found])
emb = np.array([f[0].normed_embedding if f else np.full(512, np.nan) for f in found])
np.savez(out, boxes=boxes, emb=emb, took=took, used=used)
"""
"""The loop that is compared with, as InsightFace's own examples have it; the most central face alone is embedded."""


def used_s(child: int | None) -> float:
    """Return the processor time of this process and of a child of it."""
    told = Path(f"/proc/{child}/stat").read_text("ascii").rpartition(")")[2].split()[11:13] if child else ()
    return time.process_time() + sum(map(int, told)) / os.sysconf("SC_CLK_TCK")


class Timed:
    """A session that counts the processor time of its runs."""

    def __init__(self, session: Any) -> None:
        self._session, self.used_s = session, 0.0

    def run(self, *arguments: Any) -> Any:
        start = time.thread_time()
        try:
            return self._session.run(*arguments)
        finally:
            self.used_s += time.thread_time() - start


def worker(paths: list[Path], bare: bool, barrier: Any, queue: Any) -> None:
    """Read the faces of these pictures, or only run the models as often; tell when, and what was found."""
    from pipeline.adapters.cropping import aligned_crop
    from pipeline.adapters.decoding import GuardedDecoder
    from pipeline.adapters.onnx.recogniser import OnnxRecogniser, OnnxRecogniserOptions
    from pipeline.adapters.onnx.scrfd import Scrfd, ScrfdOptions
    from pipeline.adapters.sources.files import LocalFiles
    from pipeline.adapters.sources.folders import FolderOptions, FolderSource
    from pipeline.domain.detection import chosen_face
    from pipeline.domain.intake import Decoded, Input
    from pipeline.domain.landmarks import alignment

    detector = Scrfd(ScrfdOptions(path=str(SCRFD)))
    judge = OnnxRecogniser(OnnxRecogniserOptions(path=str(W600K), name="w600k", licence="research", batch=1))
    sessions = [Timed(detector._session), Timed(judge._session)]
    detector._session, judge._session = sessions
    source = FolderSource(FolderOptions(path=str(LFW), licence="research", lawful_basis="research"), LocalFiles(LFW))
    inputs = [Input(path.relative_to(LFW).as_posix()) for path in paths]
    template, boxes, embeddings = alignment("arcface-112"), [], []
    square, crop = np.zeros((1, 3, 320, 320), np.float32), np.zeros((1, 3, 112, 112), np.float32)

    def read(data: Any, decoder: GuardedDecoder) -> None:
        seen = decoder.decode(data)
        assert isinstance(seen, Decoded)
        height, width = seen.image_HWC.shape[:2]
        faces = detector.detect(seen.image_HWC)
        row = chosen_face(faces, width, height, "central")
        cut = None if row is None else aligned_crop(seen.image_HWC, faces.points_K52[row], template, 112)
        boxes.append(np.full(4, np.nan) if row is None else faces.boxes_K4[row])
        embeddings.append(np.full(512, np.nan) if cut is None else judge.embed(cut[None])[0])

    def models(_: Any) -> None:
        detector._session.run(None, {detector._input: square})
        judge._session.run(None, {judge._input: crop})

    with GuardedDecoder() as decoder:
        work: Callable[[Any], None] = models if bare else lambda data: read(data, decoder)
        for data in source.read(inputs[:5]):
            work(data)
        boxes.clear()
        embeddings.clear()
        barrier.wait()
        child = decoder._child.pid if decoder._child else None
        start, before, models_before = time.monotonic(), used_s(child), sum(s.used_s for s in sessions)
        for data in source.read(inputs):
            work(data)
        end, used = time.monotonic(), used_s(child) - before
    inside = sum(s.used_s for s in sessions) - models_before
    queue.put((start, end, used, np.array(boxes), np.array(embeddings), str(paths[0]), inside))


def ours(paths: list[Path], *, bare: bool, workers: int = WORKERS) -> dict[str, Any]:
    """Return seconds by the clock and of processor time, and what was found, in the order of paths."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(workers), context.Queue()
    parts = [list(part) for part in np.array_split(np.array(paths, object), workers)]
    running = [context.Process(target=worker, args=(part, bare, barrier, queue)) for part in parts]
    for one in running:
        one.start()
    told = sorted((queue.get() for _ in running), key=lambda t: t[5])
    for one in running:
        one.join()
    took = max(t[1] for t in told) - min(t[0] for t in told)
    boxes, emb = (np.concatenate([t[n] for t in told]) if not bare else np.empty(0) for n in (3, 4))
    used, inside = (sum(t[n] for t in told) for n in (2, 6))
    return {"took": took, "used": used, "models": inside, "boxes": boxes, "emb": emb}


def theirs(python: str, paths: list[Path]) -> dict[str, Any]:
    """Return the same of the loop, run by an interpreter that has insightface."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "found.npz"
        names = json.dumps([str(p) for p in paths])
        done = subprocess.run(
            [python, "-c", LOOP, names, str(ASSETS / "insightface"), str(out)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"insightface's loop failed: {done.stderr.strip().splitlines()[-1:]}")
        with np.load(out) as found:
            return {k: found[k] for k in found.files} | {"took": float(found["took"]), "used": float(found["used"])}


def agreement(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Print how many faces are the same, and how near their embeddings are."""
    low, high = np.maximum(a["boxes"][:, :2], b["boxes"][:, :2]), np.minimum(a["boxes"][:, 2:], b["boxes"][:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    both = sum((x["boxes"][:, 2:] - x["boxes"][:, :2]).prod(axis=1) for x in (a, b)) - common
    overlap = common / both
    cos = (a["emb"] * b["emb"]).sum(axis=1)
    print(
        f"same faces (IoU >= 0.9): {100 * np.mean(overlap >= 0.9):.2f} % of {len(overlap)}, least {overlap.min():.4f}"
    )
    print(f"embeddings: cosine >= 0.999 for {100 * np.mean(cos >= 0.999):.2f} %, least {cos.min():.5f}")


def main() -> None:
    """Time both sides and the bare models, and print the table."""
    if not SCRFD.is_file() or not lfw():
        print("bench_curate: the test assets are not here")
        return
    python = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("INSIGHTFACE_PYTHON", "")
    paths = list(lfw()[:: max(1, len(lfw()) // PICTURES)][:PICTURES])
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "our parts": lambda: ours(paths, bare=False),
        "models alone": lambda: ours(paths, bare=True),
    }
    if python:
        sides["FaceAnalysis loop"] = lambda: theirs(python, paths)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    print(f"{len(paths)} pictures, {WORKERS} workers, {ROUNDS} rounds; load before: {os.getloadavg()[0]:.2f}")
    for _ in range(ROUNDS):
        for name, side in sides.items():
            found[name].append(side())
    per_s = {k: statistics.median(len(paths) / f["took"] for f in v) for k, v in found.items()}
    cpu_ms = {k: statistics.median(1e3 * f["used"] / len(paths) for f in v) for k, v in found.items()}
    print(f"{'':<20}{'pictures/s':>12}{'processor ms':>14}")
    for name in sides:
        print(f"{name:<20}{per_s[name]:>12.1f}{cpu_ms[name]:>14.1f}")
    other = statistics.median(1.0 - f["models"] / f["used"] for f in found["our parts"])
    said = "reached" if other < AIM_SHARE else "MISSED"
    print(f"all but the models: {100 * other:.1f} % of processor time (aim: under {100 * AIM_SHARE:.0f} %, {said})")
    if python:
        pairs = zip(found["our parts"], found["FaceAnalysis loop"], strict=True)
        times = statistics.median(b["took"] / a["took"] for a, b in pairs)
        said = "reached" if times >= AIM_TIMES else "MISSED"
        print(f"against the loop: {times:.2f} x by the clock, in the same round (aim: {AIM_TIMES} x, {said})")
        agreement(found["our parts"][0], found["FaceAnalysis loop"][0])


if __name__ == "__main__":
    main()
