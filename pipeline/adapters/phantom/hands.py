"""A hand before the mouth or at the cheek: fingers and palm as rounded bones that lie against the face."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom import colours
from pipeline.adapters.phantom.heads import Head, Tensor, smoothstep

# Joints in normalised head coordinates of a hand that comes from image right: knuckle, middle joint and tip of the
# four fingers, index first, then wrist, elbow, and base, middle joint and tip of the thumb.
_MOUTH = (
    ((0.44, -0.50, 0.80), (0.06, -0.52, 1.06), (-0.30, -0.50, 0.95)),
    ((0.47, -0.67, 0.78), (0.05, -0.69, 1.04), (-0.36, -0.66, 0.90)),
    ((0.49, -0.84, 0.74), (0.08, -0.86, 0.98), (-0.31, -0.82, 0.86)),
    ((0.51, -1.00, 0.68), (0.15, -1.02, 0.88), (-0.16, -0.99, 0.84)),
    ((1.02, -1.02, 0.52), (1.60, -2.10, 0.75)),
    ((0.90, -0.72, 0.50), (0.66, -0.44, 0.62), (0.58, -0.14, 0.66)),
)
_CHEEK = (
    ((0.56, -0.52, 0.62), (0.62, -0.14, 0.58), (0.60, 0.20, 0.52)),
    ((0.66, -0.56, 0.47), (0.73, -0.12, 0.44), (0.71, 0.28, 0.36)),
    ((0.74, -0.59, 0.31), (0.80, -0.16, 0.28), (0.77, 0.21, 0.20)),
    ((0.78, -0.62, 0.14), (0.84, -0.26, 0.11), (0.83, 0.04, 0.06)),
    ((0.62, -1.22, 0.48), (0.95, -2.30, 0.70)),
    ((0.48, -1.08, 0.62), (0.22, -1.04, 0.80), (-0.04, -1.06, 0.84)),
)
_RADII = (0.086, 0.080, 0.068)  # of a finger at knuckle, middle joint and tip
_THIN = (0.97, 1.0, 0.95, 0.82)  # the four fingers
_PALM, _WRIST, _ARM, _THUMB = 0.130, 0.20, 0.27, (0.125, 0.098, 0.082)


class Hand:
    """The hands of N phantoms; rows without one are far away from everything."""

    def __init__(self, head: Head) -> None:
        t = self._t = head.traits
        self.worn = t["hand"] > 0.5
        self._side = torch.where(t["hand_side"] < 0, -1.0, 1.0)
        joints = self._joints(head)
        start, end, r0, r1 = self._bones(joints)
        along, one = end - start, torch.ones_like(start[..., :1])
        self._r0, self._dr = r0.view(1, -1, 1), (r1 - r0).view(1, -1, 1)
        self._length = (along**2).sum(-1, keepdim=True)
        self._inverse = 1.0 / self._length
        squares = torch.cat([one, -2.0 * start, (start**2).sum(-1, keepdim=True)], dim=-1)
        products = torch.cat([0.0 * one, along, -(start * along).sum(-1, keepdim=True)], dim=-1)
        self._forms = torch.cat([squares, products], dim=1)  # (N, 2 bones, 5)
        self._tips = joints[:, :4, 2]

    def _joints(self, head: Head) -> Tensor:
        """Places of the finger joints and the thumb's (N, 5, 3, 3), laid against the skin."""
        t = self._t
        mouth, cheek = (
            torch.tensor([*pose[:4], pose[5]], device=t["hand"].device, dtype=torch.float32)
            for pose in (_MOUTH, _CHEEK)
        )
        joints = torch.where((t["hand"] > 1.5).view(-1, 1, 1, 1), cheek, mouth)
        joints = joints + torch.tensor([0.0, 0.07, 0.0], device=joints.device) * t["hand_shift"].view(-1, 1, 1, 1)
        depth = torch.tensor([0.13, 0.095, 0.078], device=joints.device).view(1, 1, 3)
        high = torch.where(joints[..., 1:2] < 0, head.length_low.view(-1, 1, 1, 1), head.length_high.view(-1, 1, 1, 1))
        scale = torch.cat([head.width.view(-1, 1, 1, 1).expand_as(high), high, torch.ones_like(high)], dim=-1)
        e = 0.02
        for _ in range(3):  # push every joint along the field until it lies on the skin
            flat = (joints * scale).view(len(joints), -1, 3)
            x, y, z = flat.unbind(-1)
            here = head.distance(x, y, z, skin_only=True)[0]
            moved = [head.distance(x + dx, y + dy, z + dz, skin_only=True)[0] for dx, dy, dz in _steps(e)]
            slope = torch.stack([d - here for d in moved], dim=-1)
            slope = slope / torch.sqrt((slope * slope).sum(-1, keepdim=True)).clamp(min=1e-6)
            move = (depth - here.view(joints.shape[:-1])).clamp(-0.12, 0.12).unsqueeze(-1)
            joints = joints + move * slope.view(joints.shape) / scale
        return joints

    def _bones(self, joints: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start and end (N, B, 3) and their radii (B,) of every bone, fingers first."""
        t, device = self._t, joints.device
        mouth, cheek = (torch.tensor(pose[4], device=device) for pose in (_MOUTH, _CHEEK))
        arm = torch.where((t["hand"] > 1.5).view(-1, 1, 1), cheek, mouth)
        arm = arm + torch.tensor([0.0, 0.07, 0.0], device=device) * t["hand_shift"].view(-1, 1, 1)
        wrist, elbow = arm[:, 0], arm[:, 1]
        bones: list[tuple[Tensor, Tensor]] = []
        radii: list[tuple[float, float]] = []
        for finger, thin in enumerate(_THIN):
            knuckle, middle, tip = joints[:, finger].unbind(1)
            r = [radius * thin for radius in _RADII]
            bones += [(knuckle, middle), (middle, tip)]
            radii += [(r[0], r[1]), (r[1], r[2])]
        for finger in range(4):
            bones.append((wrist, joints[:, finger, 0]))
            radii.append((_PALM, 0.9 * _PALM))
        base, middle, tip = joints[:, 4].unbind(1)
        bones += [(wrist, base), (base, middle), (middle, tip), (wrist, elbow)]
        radii += [(_PALM, _THUMB[0]), (_THUMB[0], _THUMB[1]), (_THUMB[1], _THUMB[2]), (_WRIST, _ARM)]
        start, end = (torch.stack([bone[i] for bone in bones], dim=1) for i in (0, 1))
        r0, r1 = torch.tensor(radii, device=device).unbind(1)
        return start, end, r0, r1

    def _each(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Distance (N, B, P) to every bone."""
        # With o = p - start: |o - h along|^2 = |o|^2 + h (h |along|^2 - 2 o.along), and both products are linear in
        # (|p|^2, p, 1), so that one multiplication of matrices gives them for all bones.
        x = x * self._side
        basis = torch.stack([x * x + y * y + z * z, x, y, z, torch.ones_like(x)], dim=1)
        square, along = torch.bmm(self._forms, basis).chunk(2, dim=1)
        h = (along * self._inverse).clamp(0.0, 1.0)
        off = torch.addcmul(square, h, h * self._length - 2.0 * along)
        return off.clamp_(min=1e-10).sqrt_() - torch.addcmul(self._r0, h, self._dr)

    def distance(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Distance (N, P) to the hand, its bones softly joined."""
        soft = 45.0
        joined = -torch.logsumexp(-soft * self._each(x, y, z), dim=1) / soft
        return joined + 9.0 * ~self.worn

    def paint(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Albedo (N, P, 3) and occlusion (N, P): the skin of the face, folds between the fingers, nails."""
        each = self._each(x, y, z)
        finger = torch.cat([torch.minimum(each[:, i], each[:, i + 1]).unsqueeze(1) for i in range(0, 8, 2)], dim=1)
        near = finger.topk(2, dim=1, largest=False).values
        fold = smoothstep(0.045, 0.0, near[:, 1] - near[:, 0]) * smoothstep(0.06, 0.0, near[:, 1])
        skin = colours.skin_colour(self._t)
        grain = colours.noise(x * 1.1 + 0.3, y * 1.1 + z * 0.5)
        tint = 1.0 + 0.03 * grain[:, 1] + 0.03 * grain[:, 2]
        albedo = skin.unsqueeze(1) * tint.unsqueeze(-1)
        red = torch.tensor([1.0, 0.93, 0.92], device=x.device)
        p = torch.stack([x * self._side, y, z], dim=-1).unsqueeze(1)
        reach = torch.sqrt(((p - self._tips.unsqueeze(2)) ** 2).sum(-1)).amin(1)
        warm = smoothstep(0.30, 0.05, reach).unsqueeze(-1)
        albedo = albedo * (1.0 + warm * (red - 1.0))
        return albedo, 1.0 - 0.55 * fold


def _steps(e: float) -> tuple[tuple[float, float, float], ...]:
    return ((e, 0.0, 0.0), (0.0, e, 0.0), (0.0, 0.0, e))
