"""Where to look closely, and how: the confidence of the coarse look, and the context that it gives to the close one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.budget import PatchContext


class Closer(nn.Module):
    """Tells how sure the coarse look is at each place, and adds its patches as context to close looks.

    Args:
        width: channels of a place.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sure = nn.Sequential(nn.Conv2d(width + 5, 24, 1), nn.GELU(), nn.Conv2d(24, 1, 3, padding=1))
        self.context = PatchContext(channels=width)

    def unsure(self, features: Tensor, places: Tensor, lost: Tensor) -> Tensor:
        """The logit of how wrong the coarse look is at each place, `[B, h, w]`.

        Args:
            features: `[B, C, h, w]`.
            places: `[B, 3, h, w]`, its logits.
            lost: `[B, 2, h, w]`, what it did not see: `tocsin.models.damage.frames.lost`.
        """
        known = torch.cat([features, places.sigmoid(), lost], 1)
        out: Tensor = self.sure(known)
        return out[:, 0]


def patches(maps: Tensor, corners: Tensor, side: tuple[int, int]) -> Tensor:
    """The mean of maps `[C, h, w]` over each patch, `[P, C]`; corners and side in their places."""
    rows, columns = side
    return torch.stack([maps[:, y : y + rows, x : x + columns].mean((1, 2)) for y, x in corners.tolist()])


def confidence(unsure: Tensor, corners: Tensor, side: tuple[int, int]) -> Tensor:
    """How sure the coarse look is of each patch, `[P]`, by its least sure places; `unsure` is `[h, w]`."""
    rows, columns = side
    wrong = unsure.sigmoid()
    cut = torch.stack([wrong[y : y + rows, x : x + columns].flatten() for y, x in corners.tolist()])
    return -cut.topk(max(1, cut.shape[1] // 16), 1).values.mean(1)


def enlarged(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits `[C, h, w]` at the places of the close look."""
    return F.interpolate(places[None], size, mode="bilinear", align_corners=False)[0]
