"""Where to look closely: at patches in which a close look may find damage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def suspect(places: Tensor, thin: Tensor) -> Tensor:
    """How likely a close look is to find damage at each place of the coarse one, about a logit, `[h, w]`.

    It is the coarse look's own logit, and more where thin dark lines are stronger than elsewhere in the frame.

    Args:
        places: `[3, h, w]`, its logits.
        thin: `[h, w]`, how dark the lines are that are too thin for it: `tocsin.models.damage.frames.thin`.
    """
    return places.amax(0) + (thin - thin.mean()) / (thin.std() + 0.1)


def confidence(suspects: Tensor, corners: Tensor, side: tuple[int, int]) -> Tensor:
    """How sure it is that a close look at each patch would find nothing, `[P]`, by its most suspect places of `[h, w]`."""
    rows, columns = side
    found = torch.stack([suspects[y : y + rows, x : x + columns].flatten() for y, x in corners.tolist()])
    return -found.topk(max(1, found.shape[1] // 16), 1).values.mean(1)


def enlarged(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits `[C, h, w]` at the places of the close look."""
    return F.interpolate(places[None], size, mode="bilinear", align_corners=False)[0]
