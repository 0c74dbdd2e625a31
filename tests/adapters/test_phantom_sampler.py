"""The phantom sampler is the flow-matching Euler scheduler of diffusers, without the seconds its import costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.adapters.phantom.networks import CONDITIONS, sample_latents, sigma_schedule


def field(noisy: torch.Tensor, sigma_N: torch.Tensor, who: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Return a smooth made-up velocity that depends on latent, time and identity."""
    return torch.tanh(noisy * 0.7 + who.mean(dim=1)[:, None, None, None]) * (1 + sigma_N[:, None, None, None])


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (5, 1.0), (8, 3.0)])
def test_euler_steps_are_those_of_diffusers(steps: int, shift: float) -> None:
    """From equal noise along an equal field, both end in equal latents."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, 4, 6, 6, generator=generator)
    who = torch.randn(3, 8, generator=generator)
    nothing = torch.zeros(3, len(CONDITIONS))
    ours = sample_latents(field, noise, who, nothing, nothing, sigmas=sigma_schedule(steps, shift), guidance=1.0)

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    even = [1 - n / steps for n in range(steps)]
    scheduler.set_timesteps(sigmas=even)  # it applies the shift itself
    theirs = noise
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = field(theirs, torch.full((3,), float(scheduler.sigmas[step])), who)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
