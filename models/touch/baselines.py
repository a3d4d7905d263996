"""Baselines of the model: the distance between the boxes of hands and things, and a classifier of single frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.simulation.scene import Shot

Event = tuple[int, int, int, float]
"""Frame, hand (0 left, 1 right), kind (0 contact, 1 release), confidence from 0 to 1."""


def near(shots: Iterable[Shot], threshold: float) -> list[Event]:
    """Find a contact where a hand's box comes nearer to any thing's box than a threshold, and a release where it moves away.

    Args:
        shots: shots of a clip.
        threshold: distance between the boxes, as a share of the frame's larger side. Below 0 the boxes must overlap by that share.

    Returns:
        Events in order. Both ends of a touch have the same confidence, which grows with how near the boxes came during the touch.
    """
    gaps = np.stack([_gaps(shot).min(1, initial=np.inf) for shot in shots])
    found: list[Event] = []
    for hand, track in enumerate(gaps.T):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], track < threshold, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2).tolist():
            confidence = float(1 / (1 + np.exp(10 * track[first:end].min())))
            found.append((first, hand, 0, confidence))
            if end < len(track):
                found.append((end, hand, 1, confidence))
    return sorted(found)


def _gaps(shot: Shot) -> NDArray[np.float64]:
    """Distance of each hand's box to each thing's, `[2, K]`: negative if they overlap, infinite if one of them is not visible."""
    rows, columns = shot.picture.shape[:2]
    scale = np.array([columns, rows, columns, rows]) / max(rows, columns)
    hands, things = shot.hands[:, None] * scale, shot.things[None] * scale
    apart = np.maximum(things[..., :2] - hands[..., 2:], hands[..., :2] - things[..., 2:])
    gap = np.where((apart > 0).any(-1), np.linalg.norm(np.maximum(apart, 0), axis=-1), apart.max(-1))
    return np.where(np.isnan(gap), np.inf, gap)


def changes(holding: Tensor, *, span: int = 5) -> Tensor:
    """Score events by a classifier of single frames: how much likelier a hand touches something after a frame than before it.

    Args:
        holding: `[T, 2]`, 0 to 1: probability that a hand touches something, predicted from each frame alone.
        span: frames averaged on either side; the frame itself is among those after.

    Returns:
        `[T, 2, 2]`, scores per hand and kind, as from `decode.decode`.
    """
    padded = torch.cat([holding[:1].expand(span, 2), holding, holding[-1:].expand(span - 1, 2)])
    means = padded.unfold(0, span, 1).mean(-1)  # of the `span` frames from each index on
    rise = means[span:] - means[:-span]
    return torch.stack([rise, -rise], -1).clamp(min=0)
