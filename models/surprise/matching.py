"""Compares pictures of places: how well two agree at the best shift and scale, and whether the same thing is in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 0.35
"""Least share of a picture that must overlap with another one."""
SCALES = (0.8, 1.0, 1.25)
"""Sizes at which a picture is compared with others."""
WITHIN = 0.25
"""Least value of a view's mask at a place, or beside it, that belongs to the view's event."""
NOTHING = -2.0
"""The correlation at a shift at which too little overlaps."""


class Match(NamedTuple):
    """How well a picture agrees with each of N views; `[N]` each.

    Args:
        place: correlation of the two pictures at the best shift and scale.
        cover: share of the event that lies where the view's event was.
        look: correlation of the two pictures where the event is.
    """

    place: Tensor
    cover: Tensor
    look: Tensor


def normalised(picture: Tensor, usual: Tensor) -> Tensor:
    """What a picture `[..., C, h, w]` shows beyond what the camera usually shows there, `[C, h, w]`, and less its mean.

    The usual picture has the lamp, the perspective and the water, which are alike at all places.
    """
    own = picture - usual
    return own - own.mean((-2, -1), keepdim=True)


def scaled(maps: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Enlarge maps `[B, C, h, w]` about their centre; zeros outside them, and where they are defined, `[B, 1, h, w]`."""
    theta = torch.tensor([[1 / scale, 0, 0], [0, 1 / scale, 0]], dtype=maps.dtype).expand(len(maps), 2, 3)
    grid = F.affine_grid(theta, [len(maps), 1, *maps.shape[2:]], align_corners=False)
    there = F.grid_sample(torch.ones_like(maps[:, :1]), grid, align_corners=False)
    there = (there > 0.99).to(maps.dtype)
    return F.grid_sample(maps, grid, align_corners=False) * there, there


def correlations(one: Tensor, one_there: Tensor, others: Tensor, others_there: Tensor) -> Tensor:
    """Normalised cross-correlation of each of S pictures with each of N at all shifts, by Fourier transforms.

    Args:
        one: `[S, C, h, w]`, zeros where `one_there` `[S, 1, h, w]` is 0.
        others: `[N, C, h, w]`, as well.

    Returns:
        `[S, N, 2h, 2w]`; index (i, j) is a shift of the others by i rows and j columns, from 2h / 2 and 2w / 2 on by i - 2h and
        j - 2w. A shift at which less than `SHARE` of a picture overlaps has `NOTHING`.
    """
    h, w = one.shape[2:]
    size = (2 * h, 2 * w)

    def of(maps: Tensor) -> Tensor:
        return torch.fft.rfft2(maps, s=size)

    def back(products: Tensor) -> Tensor:
        return torch.fft.irfft2(products, s=size)

    a, b = of(one), of(others).conj()
    product = back(torch.einsum("schw,nchw->snhw", a, b))
    there, others_of = of(one_there)[:, 0], of(others_there).conj()[:, 0]
    energy, others_energy = of(one.square().sum(1)), of(others.square().sum(1)).conj()
    mine, theirs = back(energy[:, None] * others_of), back(there[:, None] * others_energy)
    overlap = back(there[:, None] * others_of)
    found = product / (mine.clamp(min=1e-3) * theirs.clamp(min=1e-3)).sqrt()
    return found.masked_fill(overlap < SHARE * h * w - 0.5, NOTHING)


def match(picture: Tensor, mask: Tensor, views: Tensor, masks: Tensor, scales: Sequence[float] = SCALES) -> Match:
    """Compare a picture with views.

    Args:
        picture: `[C, h, w]`, see `normalised`; mask: `[h, w]`, 0 to 1, where the event is.
        views: `[N, C, h, w]`; masks: `[N, h, w]`.
    """
    h, w = picture.shape[1:]
    grown = [scaled(torch.cat([picture, mask[None]])[None], scale) for scale in scales]
    pictures = torch.cat([g[:, :-1] for g, _ in grown])
    grown_masks, there = torch.cat([g[0, -1:] for g, _ in grown]), torch.cat([t for _, t in grown])
    # What is new must not decide where it is: alike things would be laid upon one another.
    around, theirs = there * (grown_masks[:, None] < WITHIN), (masks[:, None] < WITHIN).to(views.dtype)
    found = (
        correlations(pictures * around, around, views * theirs, theirs).permute(1, 0, 2, 3).flatten(1)
    )  # [N, S * 2h * 2w]
    place, at = found.max(1)
    covers, looks = [], []
    for view, its_mask, index in zip(views, masks, at.tolist(), strict=True):
        scale, index = divmod(index, 4 * h * w)
        down, right = divmod(index, 2 * w)
        down, right = (down + h) % (2 * h) - h, (right + w) % (2 * w) - w
        mine, own = grown_masks[scale], pictures[scale]
        seen = shifted(torch.cat([view, its_mask[None]]), down, right)
        about = F.max_pool2d(seen[-1:], 3, stride=1, padding=1)[0] >= WITHIN
        covers.append((mine * about).sum() / mine.sum().clamp(min=1e-6))
        weight = torch.maximum(mine, seen[-1]) * there[scale, 0] * (seen[:-1].abs().sum(0) > 0)
        looks.append(_agreement(own, seen[:-1], weight))
    return Match(place, torch.stack(covers), torch.stack(looks))


def shifted(maps: Tensor, down: int, right: int) -> Tensor:
    """Shift maps `[..., h, w]`; zeros come in."""
    h, w = maps.shape[-2:]
    padded = F.pad(maps, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    return padded[..., max(-down, 0) : max(-down, 0) + h, max(-right, 0) : max(-right, 0) + w]


def _agreement(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """The weighted correlation of two pictures `[C, h, w]`."""
    product = (weight * one * other).sum()
    return product / ((weight * one.square()).sum() * (weight * other.square()).sum()).clamp(min=1e-6).sqrt()
