"""From noise to images: the loop around the UNet, for rows that know nothing of each other.

Every row has its own identity, guidance scale and noise. A scheduler is made anew for each batch, so that nothing of
one batch is left in the next; what noise a step adds comes from the row's own noise, never from a generator of torch.

Schedulers: C. Lu et al., "DPM-Solver++", arXiv 2211.01095; S. Luo et al., "Latent Consistency Models", arXiv
2310.04378.
Guidance: J. Ho and T. Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.

Legend: N rows, K rows that the UNet sees (N, or 2 N with guidance), C H W axes of latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.adapters.generators.stable_diffusion.attention import Prepared
from pipeline.adapters.generators.stable_diffusion.configs import LATENT_CHANNELS, LATENT_SCALE, SCHEDULE
from pipeline.adapters.generators.stable_diffusion.frames import Framing
from pipeline.domain.errors import ModelError

if TYPE_CHECKING:
    from pipeline.adapters.generators.stable_diffusion.loading import Loader
    from pipeline.adapters.generators.stable_diffusion.options import SamplingOptions
    from pipeline.domain.records import UInt8


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """What a ControlNet adds.

    Attributes:
        network: the ControlNet.
        prepared: its own keys and values of the text, K rows.
        pictures_KCHW: what it looks at, float32 in [0, 1].
        scale_K: by which each row's share is multiplied; 0 leaves the row free.
    """

    network: Any
    prepared: Prepared
    pictures_KCHW: Tensor
    scale_K: Tensor

    def rows(self, order: Tensor) -> Control:
        """Return the same for rows in another order."""
        turned = {name: tuple((k[order], v[order]) for k, v in pairs) for name, pairs in self.prepared.items()}
        return Control(self.network, turned, self.pictures_KCHW[order], self.scale_K[order])


class Sampler:
    """Runs UNet, scheduler and decoder."""

    def __init__(self, options: SamplingOptions, loader: Loader, unet: Any) -> None:
        """Take the networks; `unet` has its weights and prepared attention."""
        self._options, self.device, self.dtype = options, loader.device, loader.dtype
        self.unet, self._vae = unet, loader.decoder()
        self._predict, self._decode = loader.compiled(self._noise_in), loader.compiled(self._decoded)
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        square = options.crop.square() if options.output == "crop" else None
        self._proven = {1}
        self._framing = Framing(options.shapes.frame_px, square, options.crop.side_px, self.device)

    def images(
        self, prepared: Prepared, guidance_N: Tensor | None, noise_NCHW: Tensor, control: Control | None = None
    ) -> UInt8:
        """Return faces_NHWC, uint8 RGB; arguments as those of `latents`.

        Raises:
            ModelError: this device mixes the rows of a batch, or a picture comes out as no numbers.
        """
        if len(noise_NCHW) not in self._proven:
            self.prove(prepared, guidance_N, noise_NCHW, control)
        *_, last = self.latents(prepared, guidance_N, noise_NCHW, control)
        frames = self.decoded(last)
        if not bool(torch.isfinite(frames).all()):
            raise ModelError(
                f"{self._options.use}: pictures come out as no numbers in {self._options.precision}; choose "
                "bfloat16 or float32, or check the weights"
            )
        return self._framing.images(frames)

    def prove(
        self, prepared: Prepared, guidance_N: Tensor | None, noise_NCHW: Tensor, control: Control | None = None
    ) -> None:
        """Compare one step and a decoding with those of the rows in reverse; done once for a batch shape.

        Raises:
            ModelError: a row has other bits at another place of the batch, on this device, with these options.
        """
        rows = len(noise_NCHW)
        self._proven.add(rows)
        back = torch.arange(rows - 1, -1, -1, device=self.device)
        both = back if guidance_N is None else torch.cat([back, back + rows])
        turned = {name: tuple((k[both], v[both]) for k, v in pairs) for name, pairs in prepared.items()}
        scale = None if guidance_N is None else guidance_N[back]
        first = next(self.latents(prepared, guidance_N, noise_NCHW, control))
        again = next(self.latents(turned, scale, noise_NCHW[back], control and control.rows(both)))
        require_equal_rows(first, again[back])
        require_equal_rows(self.decoded(first), self.decoded(again)[back])

    def latents(
        self, prepared: Prepared, guidance_N: Tensor | None, noise_NCHW: Tensor, control: Control | None = None
    ) -> Iterator[Tensor]:
        """Yield the latents after each step, float32, shape (N, 4, H, W).

        Args:
            prepared: keys and values for every cross-attention layer, K rows. With guidance the first N are those that
                it moves away from.
            guidance_N: scale per row; None runs without guidance, at half the cost.
            noise_NCHW: float32, the noise of each row: the first latent, and one more for each later step of `lcm`.
            control: what a ControlNet adds.
        """
        first, *more = torch.split(noise_NCHW, LATENT_CHANNELS, dim=1)
        latents = first
        scale = None if guidance_N is None else guidance_N[:, None, None, None]
        solver = make_solver(self._options.scheduler)
        solver.set_timesteps(self._options.step_count, device=self.device)
        solver.set_begin_index(0)
        for n, t in enumerate(solver.timesteps):
            eps = self.predicted(latents, t, prepared, scale, control)
            if self._options.scheduler == "lcm":
                following = solver.timesteps[n + 1 : n + 2]
                latents = lcm_step(solver, eps, t, latents, following, more[n] if n < len(more) else None)
            else:
                latents = solver.step(eps, t, latents, return_dict=False)[0]
            yield latents

    def predicted(
        self, latents_NCHW: Tensor, t: Tensor, prepared: Prepared, scale: Tensor | None, control: Control | None = None
    ) -> Tensor:
        """Return the noise that the UNet sees in latents, float32; guided where there is a scale, (N, 1, 1, 1)."""
        x = latents_NCHW if scale is None else torch.cat([latents_NCHW, latents_NCHW])
        x = x.to(self.dtype).contiguous(memory_format=self._layout)
        added = () if control is None else self._controlled(control, x, t)
        if self._options.compile == "cuda-graphs":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        seen: Tensor = self._predict(x, t, dict(prepared), added).float()
        if scale is None:
            return seen.clone()
        away, towards = seen.chunk(2)
        guided: Tensor = away + scale * (towards - away)
        return guided

    def decoded(self, latents_NCHW: Tensor) -> Tensor:
        """Return frames in about [-1, 1], shape (N, 3, side, side), float32."""
        scaled = latents_NCHW if self._options.small_vae is not None else latents_NCHW / LATENT_SCALE
        scaled = scaled.to(self.dtype).contiguous(memory_format=self._layout)
        parts = torch.split(scaled, 1) if self._options.decode_alone else (scaled,)
        return torch.cat([self._decode(part).float() for part in parts])

    def _noise_in(self, x: Tensor, t: Tensor, prepared: dict[str, Any], added: tuple[Tensor, ...]) -> Tensor:
        more: dict[str, Any] = {}
        if added:
            more = {"down_block_additional_residuals": added[:-1], "mid_block_additional_residual": added[-1]}
        seen: Tensor = self.unet(x, t, encoder_hidden_states=prepared, return_dict=False, **more)[0]
        return seen

    def _decoded(self, latents: Tensor) -> Tensor:
        frames: Tensor = self._vae.decode(latents, return_dict=False)[0]
        return frames

    def _controlled(self, control: Control, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        down, middle = control.network(
            x,
            t,
            encoder_hidden_states=dict(control.prepared),
            controlnet_cond=control.pictures_KCHW.to(self.dtype),
            return_dict=False,
        )
        scale = control.scale_K.to(self.dtype)[:, None, None, None]
        return tuple(part * scale for part in (*down, middle))


def require_equal_rows(one: Tensor, other: Tensor) -> None:
    """Raise ModelError unless two results are equal bit by bit, as those of equal rows at other places must be."""
    if not torch.equal(one, other):
        raise ModelError(
            f"rows of a batch of {len(one)} depend on their places on this device ({one.device}), with this precision "
            "and compile mode; set generator.batch: 1, or another precision"
        )


def make_solver(name: str) -> Any:
    """Return a new scheduler."""
    import diffusers

    made: Any = diffusers
    if name == "lcm":
        return made.LCMScheduler(**SCHEDULE, set_alpha_to_one=False, clip_sample=False)
    return made.DPMSolverMultistepScheduler(**SCHEDULE)


def lcm_step(solver: Any, eps: Tensor, t: Tensor, latents: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
    """Return the latents after a step of latent consistency; `following` is empty at the last, and noise is None."""
    # what the scheduler itself would add is drawn for the whole batch: it draws from a generator that nothing else
    # uses, and what it drew is left alone
    unused = torch.Generator(device=latents.device)
    clean: Tensor = solver.step(eps, t, latents, generator=unused).denoised
    if not len(following) or noise is None:
        return clean
    out: Tensor = solver.add_noise(clean, noise, following)
    return out
