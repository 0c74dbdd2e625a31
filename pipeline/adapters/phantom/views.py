"""How a phantom's head stands before the camera: turn, place in the picture, landmarks, and rays into its frame."""

from __future__ import annotations

import torch

from pipeline.adapters.phantom.heads import Head, Tensor, Traits, smoothstep
from pipeline.adapters.phantom.traits import ORDINARY_FIELDS

UNITS_HIGH = 112.0 / 46.0
"""A picture shows this many units of 100 mm."""
_MOST_YAW_deg, _MOST_PITCH_deg = (
    next(field.high for field in ORDINARY_FIELDS if field.name == name) for name in ("yaw_deg", "pitch_deg")
)
_FACE_CENTRE_PX = (56.0, 65.5)  # where the mean of the five landmarks of a phantom goes, at 112 px


def wide_pose(t: Traits) -> Tensor:
    """Which heads (N, 1) bool are turned further than in ordinary pictures (`traits.ORDINARY_FIELDS`)."""
    return (t["yaw_deg"].abs() > _MOST_YAW_deg) | (t["pitch_deg"].abs() > _MOST_PITCH_deg)


def rotation(t: Traits) -> Tensor:
    """Head-to-view rotation (N, 3, 3): yaw, then pitch, then roll."""
    yaw, pitch, roll = (torch.deg2rad(t[n].squeeze(1)) for n in ("yaw_deg", "pitch_deg", "roll_deg"))
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 3, 3)

    ry = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    rx = matrix(one, zero, zero, zero, pitch.cos(), pitch.sin(), zero, -pitch.sin(), pitch.cos())
    rz = matrix(roll.cos(), roll.sin(), zero, -roll.sin(), roll.cos(), zero, zero, zero, one)
    return rz @ rx @ ry


class View:
    """Maps rays of the picture into the head frame."""

    def __init__(self, head: Head) -> None:
        t = head.traits
        self.rotation, self._yaw_deg = rotation(t), t["yaw_deg"]
        self.turned = wide_pose(t)
        self.landmarks = self._landmarks(head)  # (N, 5, 3) in view units
        self.unit_px = 112.0 / UNITS_HIGH * t["scale"]  # (N, 1), pixels per unit at 112 px
        centre = self.landmarks.mean(dim=1)
        self.origin_x = _FACE_CENTRE_PX[0] + t["shift_x_px"] - centre[:, 0:1] * self.unit_px
        self.origin_y = _FACE_CENTRE_PX[1] + t["shift_y_px"] + centre[:, 1:2] * self.unit_px

    def _landmarks(self, head: Head) -> Tensor:
        """Five surface points, found by marching from the front in the head frame."""
        zero = torch.zeros_like(head.width)
        corner_y = head.mouth_y + head.corner_lift
        nx = torch.cat([-head.eye_x, head.eye_x, zero, -head.mouth_w, head.mouth_w], dim=1)
        ny = torch.cat([zero, zero, head.nose_y, corner_y, corner_y], dim=1)
        x, y = head.restore(nx, ny)
        z = torch.full_like(x, 1.05)
        for _ in range(14):
            z = z - 0.75 * head.distance(x, y, z, skin_only=True)[0]
        return torch.bmm(torch.stack([x, y, z], dim=-1), self.rotation.transpose(1, 2))

    def landmarks_px(self, size_px: int) -> Tensor:
        """(N, 5, 2) pixel positions; the centre of the top left pixel is (0, 0)."""
        x = self.origin_x + self.landmarks[..., 0] * self.unit_px
        y = self.origin_y - self.landmarks[..., 1] * self.unit_px
        return torch.stack([x, y], dim=-1) * (size_px / 112.0) - 0.5

    def turn(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """For painting turned heads: how far towards profile (N, 1) 0..1, the viewing axis in the head frame (N, 3, 1),
        and the depth of the eyes there (N, 1). None where no head is turned beyond what painting from the front bears.
        """
        far = smoothstep(45.0, 70.0, self._yaw_deg.abs())
        if not bool((far > 0).any()):
            return None
        eye_z = torch.bmm(self.landmarks[:, :1], self.rotation)[:, :, 2]
        return far, self.rotation[:, 2].unsqueeze(-1), eye_z

    def rays(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """View x, y (N, side*side) of the centres of a side x side grid over the picture."""
        centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) * (112.0 / side)
        gy, gx = torch.meshgrid(centres, centres, indexing="ij")
        return (gx.reshape(1, -1) - self.origin_x) / self.unit_px, (self.origin_y - gy.reshape(1, -1)) / self.unit_px

    def to_head(self, vx: Tensor, vy: Tensor, vz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """View coordinates to head coordinates, all (N, P)."""
        x, y, z = torch.bmm(self.rotation.transpose(1, 2), torch.stack([vx, vy, vz], dim=1)).unbind(1)
        return x, y, z
