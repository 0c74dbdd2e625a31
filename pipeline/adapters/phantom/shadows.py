"""Cast shadows: rays from the surface towards the key light, through everything that could stand in their way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from pipeline.adapters.phantom.heads import Head, Tensor, smoothstep
from pipeline.adapters.phantom.occluders import Occluders
from pipeline.adapters.phantom.pixels import pick, put, take
from pipeline.adapters.phantom.views import View

Scene = Callable[[Tensor, Tensor, Tensor], Tensor]
_STEPS, _FAR = (6, 6, 6, 6), 1.9  # in turns, after each of which settled rays rest; nothing is farther than _FAR


def scene_of(head: Head, view: View, occluders: Occluders | None) -> Scene:
    """Distance (N, P) at view coordinates to the nearest of head, hair and everything worn."""

    def distance(vx: Tensor, vy: Tensor, vz: Tensor) -> Tensor:
        point = view.to_head(vx, vy, vz)
        nearest = torch.minimum(*head.distance(*point))
        return nearest if occluders is None else torch.minimum(nearest, occluders.nearest(*point))

    return distance


def _reach(scene: Scene, head: Head, point: tuple[Tensor, Tensor, Tensor], normal: Tensor, light: Tensor) -> Tensor:
    """Share of the lamp (N, P) that points see: a lamp of some width is hidden little by little."""
    start = [v + 0.030 * normal[..., i] + 0.020 * light[..., i] for i, v in enumerate(point)]
    lx, ly, lz = light.unbind(-1)
    sharp = 1.0 / (0.025 + 0.25 * head.traits["shadow_softness"])
    far = torch.full_like(start[0], 0.02)
    seen = torch.ones_like(far)
    # Points that face away are dark by themselves, whatever stands before them.
    going = (normal * light).sum(-1) > -0.25
    for steps in _STEPS:
        late = pick(going & (seen > 0.0) & (far < _FAR))
        if not late.shape[1]:
            break
        x, y, z, s, f = (take(v, late) for v in (*start, seen, far))
        for _ in range(steps):
            d = scene(x + f * lx, y + f * ly, z + f * lz)
            s = torch.minimum(s, sharp * d / f)
            f = f + (0.9 * head.pace * d).clamp(0.025, 0.30)
        moved = take(going & (seen > 0.0) & (far < _FAR), late)
        put(seen, late, torch.where(moved, s, take(seen, late)))
        put(far, late, torch.where(moved, f, take(far, late)))
    return smoothstep(0.0, 1.0, seen)


def sunlight(
    scene: Scene, head: Head, points: tuple[Tensor, ...], normal: Tensor, light: Tensor, index: Tensor, side: int
) -> Tensor | None:
    """Share of the key light (N, K) that reaches surface points; None where no row asks for cast shadows.

    Worked out at every other pixel of every other row and blended, then again at each pixel on an edge.
    """
    share = head.traits["shadow"]
    if not bool((share > 0).any()):
        return None
    half, count = (side + 1) // 2, len(index)
    vx, vy, vz = points[:3]
    some = pick(((index // side) % 2 == 0) & ((index % side) % 2 == 0))
    coarse = _reach(scene, head, (take(vx, some), take(vy, some), take(vz, some)), take(normal, some), light)
    known = coarse.new_ones(count, half * half)
    place = take(index, some)
    put(known, (place // side // 2) * half + (place % side) // 2, coarse)
    grid = known.view(count, 1, half, half)
    spread = functional.max_pool2d(grid, 3, 1, 1) + functional.max_pool2d(-grid, 3, 1, 1)
    wide = functional.interpolate(grid, size=(2 * half - 1, 2 * half - 1), mode="bilinear", align_corners=True)
    wide = functional.pad(wide, (0, 1, 0, 1), mode="replicate")[:, :, :side, :side].flatten(1)
    spread = functional.interpolate(spread, scale_factor=2, mode="nearest")[:, :, :side, :side].flatten(1)
    seen = take(wide, index)
    edge = pick((take(spread, index) > 0.1) & (share > 0))
    if edge.shape[1]:
        again = _reach(scene, head, (take(vx, edge), take(vy, edge), take(vz, edge)), take(normal, edge), light)
        put(seen, edge, again)
    return 1.0 - share * (1.0 - seen)
