"""What the model is held against: how near the boxes of hands and things are to each other."""

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
    """A contact where a hand's box comes nearer to any thing's than a threshold, a release where it goes away again.

    Args:
        shots: of a clip.
        threshold: between the boxes, a share of the frame's larger side; below 0 they must overlap, by that share of it.

    Returns:
        Events in order; how sure it is of both ends of a touch is how near the boxes came in it.
    """
    gaps = np.stack([_gaps(shot).min(1, initial=np.inf) for shot in shots])
    found: list[Event] = []
    for hand, track in enumerate(gaps.T):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], track < threshold, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2).tolist():
            sure = float(1 / (1 + np.exp(10 * track[first:end].min())))
            found.append((first, hand, 0, sure))
            if end < len(track):
                found.append((end, hand, 1, sure))
    return sorted(found)


def _gaps(shot: Shot) -> NDArray[np.float64]:
    """Between each hand's box and each thing's, `[2, K]`: negative where they overlap, infinite where one is not to be seen."""
    rows, columns = shot.picture.shape[:2]
    scale = np.array([columns, rows, columns, rows]) / max(rows, columns)
    hands, things = shot.hands[:, None] * scale, shot.things[None] * scale
    apart = np.maximum(things[..., :2] - hands[..., 2:], hands[..., :2] - things[..., 2:])
    gap = np.where((apart > 0).any(-1), np.linalg.norm(np.maximum(apart, 0), axis=-1), apart.max(-1))
    return np.where(np.isnan(gap), np.inf, gap)


def changes(holding: Tensor, *, span: int = 5) -> Tensor:
    """What a classifier of single frames says of events: how much likelier a hand touches something after a frame than before.

    Args:
        holding: `[T, 2]`, 0 to 1, of each frame by itself.
        span: frames to either side whose mean counts; the frame itself is of those after it.

    Returns:
        `[T, 2, 2]`, scores as of `decode.decode`, a hand and a kind.
    """
    padded = torch.cat([holding[:1].expand(span, 2), holding, holding[-1:].expand(span - 1, 2)])
    means = padded.unfold(0, span, 1).mean(-1)  # of the `span` frames from each place on
    rise = means[span:] - means[:-span]
    return torch.stack([rise, -rise], -1).clamp(min=0)
