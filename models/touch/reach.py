"""Judges touches by the joints of hands: an empty hand that moves and stops has touched; one that leaves empty has let go.

Nothing is learned. The few constants, see `tocsin.models.touch.config.ReachConfig`, are speeds in sizes of the hand and shares of
its surroundings. So it holds for hands, things and cameras that nobody has trained on. The method is this project's own.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.touch.config import ReachConfig, TouchConfig
from tocsin.models.touch.cues import Cues, cues
from tocsin.models.touch.decode import decided
from tocsin.models.touch.truth import HANDS
from tocsin.models.vision import flow
from tocsin.models.vision.appearance import Eye
from tocsin.operators.shapes import match

GAP = 8
"""Frames without a hand over which its speed is interpolated."""
STROKE = 8
"""Frames before a stop, and after a start, in which the hand's motion and its surroundings are judged."""
STEADY = 5
"""Frames in which a hand that has stopped, or is yet to start, is slow."""
LEAST = 3
"""Least number of those frames in which the hand is seen."""
ENOUGH = 2
"""Least number of frames of a stroke whose surroundings are known."""
STEEP = 8.0
"""How fast the score rises with the share of the surroundings that stands still."""


class ReachModel:
    """Judges touches from joints, with the interface of `tocsin.models.touch.model.TouchModel`.

    Args:
        config: its constants.
        size: rows and columns of the frames.
        usual: compares frames with those of training; None: they are not known.
    """

    def __init__(self, config: ReachConfig, size: tuple[int, int], usual: Eye | None = None) -> None:
        self.config, self.size, self.usual = config, size, usual

    @property
    def past(self) -> int:
        """Frames before the judged one in a window."""
        return self.config.past

    @property
    def ahead(self) -> int:
        """Frames after the judged one in a window."""
        return self.config.ahead

    @property
    def parameters(self) -> int:
        """Number of constants."""
        return len(fields(self.config))

    @property
    def delay(self) -> int:
        """Frames after an event's own that must arrive before the event is known."""
        return self.config.ahead + self.config.decode.wait

    @property
    def width(self) -> int:
        """Length of a frame's vector."""
        return len(HANDS) * len(Cues._fields)

    def with_thresholds(self, *, contact: float | None = None, release: float | None = None) -> ReachModel:
        """The model with other score thresholds; None: as they are."""
        decode = self.config.decode.with_thresholds(contact, release)
        return ReachModel(replace(self.config, decode=decode), self.size, self.usual)

    def grey(self, pixels: Tensor) -> dict[str, Tensor]:
        """`[B, 3, *size] uint8` -> `grey`, `[B, *size] uint8`."""
        return {"grey": flow.grey(pixels, self.size)}

    def encode(self, joints: Tensor, pairs: Tensor) -> Tensor:
        """Encode each frame as a vector, `[B, width]`; arguments as in `tocsin.models.touch.cues.cues`."""
        return cues(pairs, joints).flatten(1)

    def predict(self, window: Tensor, mask: Tensor) -> Tensor:
        """Predict the frame at `config.past` of each window `[B, L, width]`; `mask` `[B, L]` is False where there is no frame.

        Returns:
            `[B, 2, 2, 2]`: score, 0 to 1, and displacement, always 0, per hand and kind.
        """
        match(window=(window, f"B {self.config.past + 1 + self.config.ahead} {self.width}"))
        by_hand = torch.where(mask[..., None], window, 0).unflatten(2, (len(HANDS), -1)).transpose(1, 2).flatten(0, 1)
        scores = _scores(by_hand, self.config).unflatten(0, (-1, len(HANDS)))
        return torch.stack([scores, torch.zeros_like(scores)], 1)

    def decide(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the middle frame of windows of `predict`'s output; see `tocsin.models.touch.decode.decided`."""
        return decided(window, mask, self.config.decode)


def load(directory: Path | str) -> ReachModel:
    """Load the constants of a model.

    Raises:
        ValueError: the config contains unknown settings.
    """
    config = TouchConfig.load(Path(directory))
    usual = Eye(config.appearance) if config.appearance else None
    return ReachModel(config.reach, (config.eye.height, config.eye.width), usual)


class _Stroke(NamedTuple):
    """Motion of a hand `[B]` before it stops, or after it starts.

    Args:
        empty: score, 0 to 1, that nothing moves with the hand.
        fastest: speed, sizes of the hand per frame.
        slow: speed below which it stands.
    """

    empty: Tensor
    fastest: Tensor
    slow: Tensor


def _scores(window: Tensor, c: ReachConfig) -> Tensor:
    """Scores of a contact and a release in the frame at `past` of windows `[B, L, len(Cues._fields)]` of one hand, `[B, 2]`."""
    seen, at = window[..., Cues._fields.index("seen")] > 0, c.past
    speed = _speed(window, seen)
    before, after = slice(at - STROKE, at), slice(at, at + STROKE + 1)
    reach, leave = (_stroke(window, speed, part, c) for part in (before, after))
    now, last = speed[:, at], speed[:, at - 1]
    stops = (now <= reach.slow) & (last > reach.slow) & _steady(speed[:, at : at + STEADY], reach.slow)
    starts = (now > leave.slow) & (last <= leave.slow) & _steady(speed[:, at - STEADY : at], leave.slow)
    contact = torch.where(stops & (reach.fastest >= c.moving), reach.empty, 0)
    release = torch.where(starts & (leave.fastest >= c.moving), leave.empty, 0)
    gone = seen[:, at - 1] & ~seen[:, at:].any(1)
    return torch.stack([contact, torch.where(gone, 1, release)], 1)


def _stroke(window: Tensor, speed: Tensor, part: slice, c: ReachConfig) -> _Stroke:
    known, along, still = (window[:, part, Cues._fields.index(name)] for name in ("known", "along", "still"))
    count = known.sum(1)
    share = ((still - along) * known).sum(1) / count.clamp(min=1)
    empty = torch.where(count >= ENOUGH, torch.sigmoid(STEEP * (share - c.empty)), 0)
    fastest = torch.where(speed[:, part].isnan(), 0, speed[:, part]).amax(1)
    return _Stroke(empty, fastest, (c.share * fastest).clamp(min=c.slow))


def _steady(speed: Tensor, slow: Tensor) -> Tensor:
    """Whether a hand is slow, `[B]`, in frames `[B, STEADY]`."""
    return (speed.nanmedian(1).values <= slow) & ((~speed.isnan()).sum(1) >= LEAST)


def _speed(window: Tensor, seen: Tensor) -> Tensor:
    """Speed in sizes of the hand per frame, `[B, L]`, interpolated over short gaps, then the median of three; NaN: unknown."""
    speed, size = (window[..., Cues._fields.index(name)] for name in ("speed", "size"))
    usual = torch.where(seen, size, torch.nan).nanmedian(1, keepdim=True).values
    filled = _filled(speed / usual, seen)
    median = F.pad(filled, (1, 1), value=torch.nan).unfold(1, 3, 1).nanmedian(-1).values
    return torch.where(filled.isnan(), torch.nan, median)


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """Values `[B, L]` with gaps of up to `GAP` frames interpolated between the ones known; NaN elsewhere."""
    length = values.shape[1]
    place = torch.arange(length).expand_as(values)
    last = torch.where(known, place, -GAP).cummax(1).values
    following = torch.where(known, place, length + GAP).flip(1).cummin(1).values.flip(1)
    share = (place - last) / (following - last).clamp(min=1)
    one, other = values.gather(1, last.clamp(min=0)), values.gather(1, following.clamp(max=length - 1))
    between = (last >= 0) & (following < length) & (following - last <= GAP)
    return torch.where(between, one + share * (other - one), torch.nan)
