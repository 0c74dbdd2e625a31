"""Vec2Face at its published size on weights by formula: forward, attribute optimisation, and a GPU where there is one.

Run as `python -m tests.benchmarks.bench_vec2face [forward] [optimise] [gpu]`; all that this machine can do by default.
On a CPU one thread computes, and its own seconds are counted, not those that others take from it. What is compared
alternates round by round; figures are medians. What stands for upstream is a plain loop written from its description:
the same layers, not folded, channels first, float32, one mask rate for a batch, weights that ask for gradients.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.adapters.generators.vec2face.drawing import NOISE, RAW_LENGTH, MaskLaw, token_masks
from pipeline.adapters.generators.vec2face.generator import Vec2Face
from pipeline.adapters.generators.vec2face.loading import load_network
from pipeline.adapters.generators.vec2face.network import Masks, Vec2FaceNetwork
from pipeline.adapters.generators.vec2face.optimisation import optimise
from pipeline.adapters.generators.vec2face.options import Vec2FaceOptions
from pipeline.adapters.generators.vec2face.scorers import Wanted, identity_scorer
from pipeline.adapters.models import FormulaWeights
from pipeline.adapters.recognisers.iresnet import FaceNetwork, NetworkOptions
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef

REF = WeightsRef(uri="formula:vec2face")
BATCH, ROUNDS = 8, 5
SIDE = 2048
"""Of the square matrices whose product is the machine's own rate."""
CAP, ROWS = 12, 2
GATE = 0.908
"""Loss 1 - cosine at which a row is done: with these weights the fastest takes 4 pictures, the slowest the cap."""
MEAN_GATE = 0.001
"""Of the mean over a batch of max(0, loss - GATE): Vec2Face+'s hinge, which rows that are done add nothing to."""


def rows_of(numbers: Sequence[int]) -> tuple[Any, Any]:
    """Return raw vectors and noise of some rows."""
    keys = [Key(0, Stream.CALIBRATION, n) for n in numbers]
    noise = np.stack([k.generator().standard_normal((1, 1, NOISE), dtype=np.float32) for k in keys])
    away = noise[:, 0, 0, -512:]
    return away * np.float32(RAW_LENGTH) / np.linalg.norm(away, axis=1, keepdims=True), noise


def generator(**options: Any) -> Vec2Face:
    """Return Vec2Face at its published size."""
    return Vec2Face(Vec2FaceOptions.model_validate({"use": "vec2face", "weights": REF, **options}), FormulaWeights())


def plain_network(device: str = "cpu", *, trains: bool = True) -> Vec2FaceNetwork:
    """Return the network as a script would load it: nothing folded, channels first, weights that ask for gradients."""
    network = load_network(FormulaWeights(), REF, "published").to(device)
    return network.requires_grad_(requires_grad=trains)


def plain_masks(noise: Any, device: str = "cpu") -> Masks:
    """Return masks with one rate for the batch: that of its first row."""
    law = MaskLaw()
    count = law.masked(noise[:1, 0, 0, 0]).repeat(len(noise))
    drawn = token_masks(noise[:, 0, 0, 1:50], count, law.dropped)
    return Masks(*(torch.from_numpy(a) for a in drawn), torch.zeros(len(noise), dtype=torch.bool)).to(
        torch.device(device)
    )


def plain_forward(network: Vec2FaceNetwork, vectors: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return pictures of a whole batch at once."""
    decoded = network.decode(network.encode(vectors, masks), masks)
    latent = network.im_decoder_proj(decoded[:, 1:])
    made: torch.Tensor = network.im_decoder(latent.transpose(1, 2).reshape(len(latent), -1, 7, 7))
    return made


def medians(
    work: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return seconds per call, the first round left out."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, call in work.items():
            start = clock()
            call()
            spent[name].append(clock() - start)
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def image_flop(network: Vec2FaceNetwork, vectors: torch.Tensor, masks: Masks) -> float:
    """Return how many operations one image is, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        plain_forward(network, vectors[:1], masks.rows([0]))
    return float(counter.get_total_flops())


def bench_forward() -> None:
    """Compare the forward pass with the machine's own matrix products, and with the plain loop."""
    vectors, noise = rows_of(range(BATCH))
    ours, plain, masks = generator(batch=BATCH), plain_network(), plain_masks(noise)
    given = torch.from_numpy(vectors)
    flop = image_flop(plain, given, masks)
    left, right = torch.from_numpy(np.resize(noise, (2, SIDE, SIDE)))
    seconds = medians(
        {
            "product": lambda: left @ right,
            "ours": lambda: ours._pictures(vectors, [{}] * BATCH, noise),
            "plain": lambda: plain_forward(plain, given, masks),
        },
        clock=time.process_time,
    )
    rate = {
        "matrix product, float32": 2 * SIDE**3 / seconds["product"],
        "Vec2Face, this project": flop * BATCH / seconds["ours"],
        "Vec2Face, plain loop": flop * BATCH / seconds["plain"],
    }
    print(f"forward, {flop / 1e9:.1f} GFLOP an image, batch {BATCH}; load {os.getloadavg()[0]:.1f}")
    for name, figure in rate.items():
        share = figure / rate["matrix product, float32"]
        per_image = flop / figure if "Vec2Face" in name else float("nan")
        print(f"  {name:<26}{figure / 1e9:>8.1f} GFLOP/s{share:>8.2f} of the product{per_image:>8.3f} s/image")


def bench_optimise() -> None:
    """Compare per-row optimisation with the loop that waits for the mean of the batch."""
    vectors, noise = rows_of(range(BATCH))
    network = generator()._network
    features = FaceNetwork(NetworkOptions(weights=REF, depth=18), FormulaWeights()).features
    scorer = identity_scorer(features, "a" * 64, gate=GATE)
    law = MaskLaw()
    drawn = token_masks(noise[:, 0, 0, 1:50], law.masked(noise[:, 0, 0, 0]), law.dropped)
    masks = Masks(*(torch.from_numpy(a) for a in drawn), torch.zeros(len(noise), dtype=torch.bool))
    start = torch.from_numpy(vectors)
    wanted = Wanted(start, [{}] * BATCH)

    def ours() -> tuple[int, list[int], int]:
        done = optimise(
            lambda v, rows: network(v, masks.rows(rows)), [scorer], start, wanted, iterations=CAP, rate=0.1, rows=ROWS
        )
        return done.made, list(done.seen_N), sum(done.passed_N)

    def of_the_mean(net: Vec2FaceNetwork) -> tuple[int, list[int], int]:
        moved = start.clone().requires_grad_()
        adam, made, last = torch.optim.Adam([moved], lr=0.1), 0, False
        while made < CAP and not last:
            lost = scorer.losses(plain_forward(net, moved, masks), wanted)
            over = F.relu(lost - GATE).mean()
            made += 1
            adam.zero_grad()
            # one step more when the mean has passed, as upstream takes it
            over.backward()
            adam.step()
            last = float(over.detach()) <= MEAN_GATE
        return made * BATCH, [made] * BATCH, int((lost.detach() <= GATE).sum())

    rows = [("row by row, this project", ours)]
    rows += [
        (f"mean of the batch, weights {'with' if trains else 'without'} gradients", _bound(of_the_mean, trains))
        for trains in (False, True)
    ]
    print(f"optimisation of {BATCH} vectors, cap {CAP}; load {os.getloadavg()[0]:.1f}")
    first: tuple[int, float] | None = None
    for name, call in rows:
        begun = time.process_time()
        made, seen, passed = call()
        spent = time.process_time() - begun
        first = first or (made, spent)
        print(
            f"  {name:<44}{made:>5} sample-forwards{spent:>8.1f} CPU-s   ours is {first[0] / made:.0%} of the forwards "
            f"and {first[1] / spent:.0%} of the seconds   {passed} of {BATCH} pass; pictures of each: {seen}",
            flush=True,
        )


def _bound(call: Callable[[Vec2FaceNetwork], Any], trains: bool) -> Callable[[], Any]:
    network = plain_network(trains=trains)
    return lambda: call(network)


def bench_gpu() -> None:
    """Compare throughput and peak memory on a GPU with the plain loop: float32, gradients on."""
    vectors, noise = rows_of(range(256))
    device = "cuda"
    plain, masks = plain_network(device), plain_masks(noise, device)
    given = torch.from_numpy(vectors).to(device)

    def synced(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            call()
            torch.cuda.synchronize()

        return run

    print(f"{torch.cuda.get_device_name()}: images/s, and peak memory of a batch")
    for size in (8, 32, 128, 256):
        few = list(range(size))
        work: dict[str, Callable[[], object]] = {
            "plain loop": synced(lambda few=few, size=size: plain_forward(plain, given[:size], masks.rows(few)))
        }
        for precision in ("float32", "bfloat16"):
            for how in ("none", "cuda-graphs"):
                part = generator(precision=precision, compile=how, batch=size)
                asked: list[dict[str, float]] = [{}] * size
                work[f"{precision}, compile {how}"] = synced(
                    lambda part=part, asked=asked, size=size: part._pictures(vectors[:size], asked, noise[:size])
                )
        seconds = medians(work)
        for name, call in work.items():
            torch.cuda.reset_peak_memory_stats()
            call()
            peak = torch.cuda.max_memory_allocated() / 2**30
            gain = seconds["plain loop"] / seconds[name]
            print(f"  batch {size:>4}  {name:<32}{size / seconds[name]:>9.0f}/s{gain:>7.1f}x{peak:>8.2f} GiB")


def main() -> None:
    """Run what the command line names, or all that this machine can do."""
    torch.set_num_threads(1)
    known = {"forward": bench_forward, "optimise": bench_optimise, "gpu": bench_gpu}
    asked = sys.argv[1:] or ["forward", "optimise", *(["gpu"] if torch.cuda.is_available() else [])]
    for name in asked:
        known[name]()


if __name__ == "__main__":
    main()
