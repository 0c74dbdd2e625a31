"""How fast vectors are kept apart and one is found among many, on one thread, beside what the machine can do.

Run as `make bench`, which holds numpy, torch and FAISS to one thread. Every row is a median of rounds that alternate
between the cases, so that a busy machine slows all of them alike; read the ratios. FAISS is compared where it is
installed (the extra `bench`), on one thread too, in the faster of the two ways to do the same job with it, and has to
keep the same rows. `--full` separates 300,000 x 512 once instead, and reports time and peak memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from jobs import wiring
from pipeline.adapters.machine import single_thread
from pipeline.adapters.products import TorchProduct, sums_bfloat16_in_float32
from pipeline.adapters.stores import MemoryStore
from pipeline.domain.cosines import NumpyProduct
from pipeline.domain.one_to_many import References, max_cos_to_others
from pipeline.domain.records import Cell, Float32
from pipeline.domain.rng import Key, Stream
from pipeline.domain.separation import separate
from pipeline.flow.make import generate_fixed

DIMS, T_cos, ROUNDS = 512, 0.4, 3
SLICE, FULL, KEPT, NEW = 30_000, 300_000, 30_000, 5000
TEMPLATES, JUDGE_DIMS, PROBES = 300_000, 128, (8, 16, 32, 64)
FAISS_BLOCK = 1024
PRODUCT = "float32 matrix product"


def cloud(count: int, dims: int, seed: int = 0) -> Float32:
    """Return random unit rows, every fiftieth a blurred copy of an earlier one; made without a float64 copy of all."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, dims), np.float32)
    for start in range(0, count, 10_000):
        part = out[start : start + 10_000]
        rng.standard_normal(out=part, dtype=np.float32)
        if start:
            part[::50] += out[rng.integers(start, size=len(part[::50]))] * np.sqrt(dims)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def medians(work: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median wall time of each case in seconds, over rounds that alternate between them."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def faiss_growing(rows: Float32) -> npt.NDArray[np.bool_]:
    """Separate with a FAISS flat index of what is kept: each block against it, then against itself."""
    import faiss

    kept = np.ones(len(rows), bool)
    index = faiss.IndexFlatIP(rows.shape[1])
    for start in range(0, len(rows), FAISS_BLOCK):
        block = rows[start : start + FAISS_BLOCK]
        mine = kept[start : start + FAISS_BLOCK]
        if index.ntotal:
            mine[:] = np.diff(index.range_search(block, T_cos)[0].astype(np.int64)) == 0
        among = faiss.IndexFlatIP(rows.shape[1])
        among.add(block)
        greedy(*among.range_search(block, T_cos)[::2], mine)
        index.add(np.ascontiguousarray(block[mine]))
    return kept


def faiss_at_once(rows: Float32) -> npt.NDArray[np.bool_]:
    """Separate with one FAISS range search of all rows among all, greedily afterwards."""
    import faiss

    kept = np.ones(len(rows), bool)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    greedy(*index.range_search(rows, T_cos)[::2], kept)
    return kept


def greedy(limits: npt.NDArray[np.uint64], found: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> None:
    """Refuse, in order, every row that has a kept earlier one among those found for it."""
    for row in np.flatnonzero(np.diff(limits.astype(np.int64)) > 1):
        others = found[int(limits[row]) : int(limits[row + 1])]
        kept[row] &= not kept[others[others < row]].any()


def separators(rows: Float32) -> dict[str, Callable[[], npt.NDArray[np.bool_]]]:
    """Return every way there is here to separate the rows; say which is missing, and why."""
    ways: dict[str, Callable[[], npt.NDArray[np.bool_]]] = {
        "separate, numpy float32": lambda: separate(rows, T_cos, product=NumpyProduct()).kept_N
    }
    if sums_bfloat16_in_float32():
        half = TorchProduct("cpu", half=True)
        ways["separate, torch bfloat16"] = lambda: separate(rows, T_cos, product=half).kept_N
    else:
        print("torch bfloat16: left out, this processor does not multiply it natively")
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        ways["faiss, growing index"] = lambda: faiss_growing(rows)
        ways["faiss, all at once"] = lambda: faiss_at_once(rows)
    else:
        print("faiss: left out, it is not installed; `pip install -e .[bench]` brings it")
    return ways


def bench_separation() -> None:
    """Separate a slice by every product there is, and by FAISS."""
    rows, out = cloud(SLICE, DIMS), np.empty((4096, 4096), np.float32)
    kept: dict[str, npt.NDArray[np.bool_]] = {}
    work: dict[str, Callable[[], object]] = {PRODUCT: lambda: np.matmul(rows[:4096], rows[4096:8192].T, out=out)}
    for name, way in separators(rows).items():
        work[name] = lambda name=name, way=way: kept.update({name: way()})
    seconds = medians(work)
    rate = 2 * 4096**2 * DIMS / seconds[PRODUCT]
    faiss_s = min((s for name, s in seconds.items() if name.startswith("faiss")), default=float("nan"))
    title = f"{SLICE:,} x {DIMS} at cosine {T_cos}"
    print(f"\n{title:<32}{'seconds':>10}{'GFLOP/s':>10}{'of product':>12}{'of faiss':>10}{'kept':>10}")
    for name, s in seconds.items():
        flop = 2 * 4096**2 * DIMS if name == PRODUCT else SLICE * (SLICE - 1) * DIMS
        against = "" if name == PRODUCT else f"{faiss_s / s:>9.2f}x{kept[name].sum():>10,}"
        print(f"{name:<32}{s:>10.3f}{flop / s / 1e9:>10.1f}{100 * flop / s / rate:>10.0f} %{against}")
    first = next(iter(kept.values()))
    print(f"all keep the same rows: {all(bool((k == first).all()) for k in kept.values())}")


def bench_increment() -> None:
    """Separate new rows from kept ones, beside separating all of them again."""
    rows = cloud(KEPT + NEW, DIMS, 1)
    before, new = rows[:KEPT], rows[KEPT:]
    seconds = medians(
        {"new": lambda: separate(new, T_cos, kept_before_ME=before), "all": lambda: separate(rows, T_cos)}
    )
    share = (NEW * KEPT + NEW * NEW / 2) / ((KEPT + NEW) ** 2 / 2)
    pairs, spent = 100 * share, 100 * seconds["new"] / seconds["all"]
    print(f"\n{NEW:,} new against {KEPT:,} kept: {seconds['new']:.2f} s, {spent:.0f} % of separating all again")
    print(f"(they are {pairs:.0f} % of its pairs)")


def bench_one_to_many() -> None:
    """Compare batches of probes with many templates, beside what a phantom image costs."""
    parts = wiring.build_parts(wiring.load_recipe("demo"), MemoryStore(), None, "bench")
    batch = parts.generator_batch
    keys = [Key(1, Stream.SAMPLE_NOISE, i) for i in range(batch)]
    vectors = np.stack([parts.sampler.draw(0, Cell(()), k.generator()) for k in keys])
    conditions = [{"yaw_deg": 0.0}] * batch
    generate_fixed(parts, vectors, conditions, keys)
    rows = cloud(TEMPLATES + max(PROBES), JUDGE_DIMS, 2)
    references, probes = References(rows[:TEMPLATES]), rows[TEMPLATES:]
    work: dict[str, Callable[[], object]] = {"image": lambda: generate_fixed(parts, vectors, conditions, keys)}
    for count in PROBES:
        own = np.arange(count)
        work[str(count)] = lambda count=count, own=own: max_cos_to_others(probes[:count], references, own)
    seconds = medians(work, 7)
    image_s = seconds["image"] / batch
    print(f"\n{f'1 against {TEMPLATES:,} x {JUDGE_DIMS}':<32}{'ms each':>10}{'of an image':>14}")
    print(f"{'a phantom image':<32}{1000 * image_s:>10.2f}")
    for count in PROBES:
        each = seconds[str(count)] / count
        print(f"{f'nearest other, {count} at a time':<32}{1000 * each:>10.2f}{100 * each / image_s:>12.1f} %")


def full(name: str) -> None:
    """Separate the full size once, with its time and the peak memory of the process."""
    rows = cloud(FULL, DIMS)
    tile = rows[:4096]
    rate = 2 * 4096**2 * DIMS / medians({"product": lambda: tile @ rows[4096:8192].T}, 5)["product"]
    product = TorchProduct("cpu", half=True) if name == "bfloat16" else NumpyProduct()
    start = time.perf_counter()
    last = [0.0]

    def tell(done: int, total: int) -> None:
        if time.perf_counter() - last[0] > 30:
            last[0] = time.perf_counter()
            print(f"{100 * done / total:.0f} % after {last[0] - start:.0f} s", flush=True)

    kept = separate(rows, T_cos, product=product, progress=tell).kept_N
    seconds = time.perf_counter() - start
    peak_MiB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    flop = FULL * (FULL - 1) * DIMS
    print(f"{FULL:,} x {DIMS}, {name}: {seconds:.0f} s, kept {kept.sum():,}, {flop / seconds / 1e9:.1f} GFLOP/s, "
          f"{100 * flop / seconds / rate:.0f} % of the float32 matrix product, peak {peak_MiB:.0f} MiB")  # fmt: skip


def main() -> None:
    """Measure and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--full", choices=("float32", "bfloat16"), help="300,000 x 512 once, by this product")
    chosen = arguments.parse_args()
    single_thread()
    if chosen.full:
        full(chosen.full)
        return
    bench_separation()
    bench_increment()
    bench_one_to_many()


if __name__ == "__main__":
    main()
