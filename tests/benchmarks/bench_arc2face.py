"""What batching identities gains Arc2Face: encoder and sampling at the reduced configuration, with made-up weights.

Run as `python -m tests.benchmarks.bench_arc2face [threads] [rounds]`. Three ways make the same 16 images of 16
identities at equal steps: all in one batch; one identity per call of ours; and one identity per call as upstream's loop
does it, with the stock parts of diffusers (both texts encoded at every call, their keys and values at every step).
Rounds alternate between the ways, so that a busy machine slows all alike; the table shows medians, by the clock and in
CPU time, which a busy machine disturbs less. On an accelerator it runs there, in the precision asked for, and the
published configuration can be timed with weights by formula: the arithmetic is that of the published ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.adapters.generators.arc2face import IDENTITY_PLACE, NEGATIVE, PROMPT, Arc2Face, Arc2FaceOptions
from pipeline.adapters.generators.stable_diffusion.configs import LATENT_SCALE, SCHEDULE, SHAPES
from pipeline.adapters.generators.stable_diffusion.loading import DTYPES, device
from pipeline.adapters.generators.stable_diffusion.text import PREFIX, TextEncoder, names_of
from pipeline.adapters.models.formula import FormulaWeights
from pipeline.domain.records import Float32, UInt8, unit_rows
from pipeline.domain.rng import Key, Stream
from pipeline.domain.weights import WeightsRef

IDENTITIES = 16


def options_of(asked: argparse.Namespace) -> Arc2FaceOptions:
    """Return a recipe's generator with weights by formula."""
    named = {part: {"uri": f"formula:{part}"} for part in ("unet", "encoder", "vae")}
    return Arc2FaceOptions.model_validate(
        {
            "use": "arc2face",
            "config": asked.config,
            "steps": asked.steps,
            "output": "original",
            "batch": IDENTITIES,
            "precision": asked.precision,
            "compile": asked.compile,
            **named,
        }
    )


class OneByOne:
    """Upstream's way, of diffusers' stock parts and the same weights: one identity per call, nothing kept between."""

    def __init__(self, options: Arc2FaceOptions) -> None:
        """Build the parts."""
        from diffusers import AutoencoderKL, UNet2DConditionModel

        shapes = SHAPES[options.config]
        self._steps, self._dtype, self._at = options.step_count, DTYPES[options.precision], device()
        self._unet = self._filled(UNet2DConditionModel, shapes.unet)
        self._vae = self._filled(AutoencoderKL, shapes.vae)
        with torch.device("meta"):
            text = TextEncoder(shapes.text)
        found = FormulaWeights().tensors(WeightsRef(uri="formula:text"), names_of(shapes.text))
        text.load_state_dict({name.removeprefix(PREFIX): t for name, t in found.items()}, assign=True)
        self._text = text.eval().to(self._at, self._dtype)

    def _filled(self, kind: Any, shape: Any) -> Any:
        with torch.device("meta"):
            network = kind(**shape)
        names = {name: tuple(t.shape) for name, t in network.state_dict().items()}
        network.load_state_dict(FormulaWeights().tensors(WeightsRef(uri="formula:x"), names), assign=True)
        return torch.nn.Module.to(network.eval(), self._at, self._dtype)

    def generate(self, vector_D: Float32, noise_CHW: Float32) -> UInt8:
        """Return one image."""
        from diffusers import DPMSolverMultistepScheduler

        with torch.inference_mode():
            tokens = self._text.tokens(PROMPT)[None].clone()
            tokens[:, IDENTITY_PLACE] = 0
            tokens[:, IDENTITY_PLACE, : len(vector_D)] = torch.from_numpy(vector_D).to(self._at, self._dtype)
            told = torch.cat([self._text(self._text.tokens(NEGATIVE)[None]), self._text(tokens)])
            solver = DPMSolverMultistepScheduler(**SCHEDULE)
            solver.set_timesteps(self._steps, device=self._at)
            latents = torch.from_numpy(noise_CHW)[None].to(self._at, self._dtype)
            for t in solver.timesteps:
                seen = self._unet(torch.cat([latents, latents]), t, encoder_hidden_states=told, return_dict=False)[0]
                away, towards = seen.chunk(2)
                latents = solver.step(away + 3.0 * (towards - away), t, latents, return_dict=False)[0]
            frame = self._vae.decode(latents / LATENT_SCALE, return_dict=False)[0]
            levels = ((frame / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        made: UInt8 = levels[0].permute(1, 2, 0).cpu().numpy()
        return made


def inputs(options: Arc2FaceOptions) -> tuple[Float32, Float32]:
    """Return vectors and noise of 16 identities."""
    keys = [Key(8, Stream.CALIBRATION, n).generator() for n in range(IDENTITIES)]
    vectors = unit_rows(np.stack([k.standard_normal(512, dtype=np.float32) for k in keys]), "bench")
    return vectors, np.stack([k.standard_normal(options.noise_shape, dtype=np.float32) for k in keys])


def timed(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds per image of each way: by the clock, and of this process's own on the CPU."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.perf_counter(), time.process_time()
            call()
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            spent[name].append((took[0] / IDENTITIES, took[1] / IDENTITIES))
    return {
        name: (statistics.median(t[0] for t in times), statistics.median(t[1] for t in times))
        for name, times in spent.items()
    }


def main() -> None:
    """Time the three ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", nargs="?", type=int, default=1)
    parser.add_argument("rounds", nargs="?", type=int, default=7)
    parser.add_argument("--config", choices=("reduced", "published"), default="reduced")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", choices=("none", "default", "cuda-graphs"), default="none")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    options = options_of(asked)
    ours, loop = Arc2Face(options, FormulaWeights()), OneByOne(options)
    vectors, noise = inputs(options)
    ways: dict[str, Callable[[], Any]] = {
        "16 identities in a batch": lambda: ours.generate(vectors, [{}] * IDENTITIES, noise),
        "one per call, ours": lambda: [
            ours.generate(vectors[n : n + 1], [{}], noise[n : n + 1])[0] for n in range(IDENTITIES)
        ],
        "one per call, upstream's way": lambda: [loop.generate(*row) for row in zip(vectors, noise, strict=True)],
    }
    made = [np.stack(list(call())).astype(int) for call in ways.values()]
    print(f"largest difference between the ways: {max(np.abs(m - made[0]).max() for m in made)} of 255 levels")
    median = timed(ways, asked.rounds)
    best, best_cpu = median["16 identities in a batch"]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {asked.threads} thread(s)"
    print(f"{where}, {asked.config}, {asked.steps} steps, {asked.precision}, load {os.getloadavg()[0]:.1f}")
    print(f"{'way':<30}{'ms/image':>10}{'images/s':>10}{'batch is faster by':>20}{'CPU ms':>10}{'of CPU time':>13}")
    for name, (wall_s, cpu_s) in median.items():
        print(
            f"{name:<30}{1000 * wall_s:>10.2f}{1 / wall_s:>10.1f}{wall_s / best:>19.2f}x"
            f"{1000 * cpu_s:>10.2f}{cpu_s / best_cpu:>12.2f}x"
        )
    if torch.cuda.is_available():
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at {IDENTITIES} rows")


if __name__ == "__main__":
    main()
