"""How sharp faces are, how sharp they should be, and what it is worth that no group's are smoother than another's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.adapters.phantom.training.augment import to_input

_RISE = 0.02  # of a price in a step, for all the sharpness that its group lacks


def sharpness(faces_NCHW: Tensor, block_px: int = 1) -> Tensor:
    """Return the mean size of the Laplacian over eyes, nose and mouth of pictures in -1..1, (N,); of means of blocks of
    pixels where `block_px` (1, 2 or 4) asks for coarser detail.

    The window is the one in which aligned faces have them; light is relative to the window's own mean, since a dark
    face has the same edges at a smaller size.
    """
    window = (faces_NCHW[:, :, 36:100, 26:86].mean(1, keepdim=True) + 1.0) * 127.5
    window = F.avg_pool2d(window, block_px).squeeze(1)
    window = window / (window.mean((1, 2), keepdim=True) + 8.0)
    inner = 4 * window[:, 1:-1, 1:-1] - window[:, :-2, 1:-1] - window[:, 2:, 1:-1]
    return (inner - window[:, 1:-1, :-2] - window[:, 1:-1, 2:]).abs().mean((1, 2))


def edges(faces_NHWC: npt.NDArray[np.uint8], block_px: int = 1, batch: int = 64) -> npt.NDArray[np.float32]:
    """Return the `sharpness` of stored pictures, (N,)."""
    starts = range(0, len(faces_NHWC), batch)
    return torch.cat([sharpness(to_input(faces_NHWC[s : s + batch]), block_px) for s in starts]).cpu().numpy()


class Prices(nn.Module):
    """What every group's sharpness is worth: a price rises while its group is less sharp than its renders, and falls
    while it is sharper, so that in the end nobody's faces are smoother than anybody else's (dual ascent on the
    constraint that the groups' means agree with their renders').
    """

    price_G: Tensor

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.register_buffer("price_G", torch.zeros(groups))

    def cost(self, lacking_N: Tensor, member_NG: Tensor) -> Tensor:
        """Return what lacks, at the prices of the groups that each picture is of."""
        return ((member_NG @ self.price_G) * lacking_N).mean()

    @torch.no_grad()
    def rise(self, lacking_N: Tensor, member_NG: Tensor, share_N: Tensor) -> None:
        """Move every price by what its group lacks on average; `share_N` says how much too often each is drawn."""
        counts_NG = member_NG / share_N[:, None]
        self.price_G += _RISE * (lacking_N @ counts_NG) / counts_NG.sum(0).clamp(min=1e-6)


def aims(
    drawn_N: npt.NDArray[np.float64], rendered_N: npt.NDArray[np.float64], member_NG: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return sharpnesses that go with `drawn_N` picture by picture and have the means of `rendered_N` in every group.

    Each group adds its own part to what is drawn (least squares; the residuals of membership columns sum to nought).
    """
    more_G = np.linalg.lstsq(member_NG.astype(np.float64), rendered_N - drawn_N, rcond=None)[0]
    return np.asarray(drawn_N + member_NG @ more_G, dtype=np.float32)
