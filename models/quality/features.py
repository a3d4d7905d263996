"""What the network sees of a window: its readings in units of the key's own history, and how they fit the history's rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tocsin.models.quality.faults import UNITS
from tocsin.operators.recall import recall_attention

SIGNALS = (
    "level",
    "change",
    "change_in_steps",
    "unlike",
    "unlike_usual",
    "still",
    "still_for",
    "missing",
    "highest",
    "lowest",
    "beyond",
    "bend",
    "interval",
    "backward",
    "certainty",
    "certainty_usual",
)
"""Of each reading: see `features`."""
FACTS = 19
"""Numbers about each channel."""
RELATIONS = 4
"""Numbers about the window of one channel and the history of another."""
FAR, LARGE = 50.0, 20.0
"""Deviations to which a level is limited before rows are compared, and where the network's inputs end."""
SAMPLED = 4
"""One in so many remembered rows says how well the history fits itself."""


class History(NamedTuple):
    """What is remembered of keys.

    Args:
        memory: `[B, R, 2 C + 1] float32`: readings of trusted rows, those of the rows before them, and the interval between; NaN
            where missing or not filled yet.
        limits: `[B, 2, C] float32`, lowest and highest trusted reading; NaN without any.
        seen: `[B] int64`, trusted rows so far.
    """

    memory: Tensor
    limits: Tensor
    seen: Tensor


class Usual(NamedTuple):
    """What the readings of keys usually are.

    Args:
        levels: `[B, R, C]`, the remembered readings in deviations from the centre, 0 where unknown. known: `[B, R, C] bool`.
        centre, scale, step, least: `[B, C]`: median, deviation, mean change from one reading to the next, and what counts as 0.
        low, high: `[B, C]`, the limits.
        error, certainty: `[B, C]`, how far a remembered reading is from what the other rows recall, and how certain that is.
        interval, jitter: `[B]`, the usual interval, and how much it varies.
        facts: `[B, C, 8]`, further numbers for the network.
        alive: `[B, C] bool`, channels with any reading.
    """

    levels: Tensor
    known: Tensor
    centre: Tensor
    scale: Tensor
    step: Tensor
    least: Tensor
    low: Tensor
    high: Tensor
    error: Tensor
    certainty: Tensor
    interval: Tensor
    jitter: Tensor
    facts: Tensor
    alive: Tensor


class Inputs(NamedTuple):
    """What the network sees.

    Args:
        signals: `[B, C, T, len(SIGNALS)]`.
        facts: `[B, C, FACTS]`.
        relations: `[B, C, C, RELATIONS]`: row i, column j: the window of channel i against the history of channel j.
        alive: `[B, C] bool`, channels with a history; the others cannot be judged.
    """

    signals: Tensor
    facts: Tensor
    relations: Tensor
    alive: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another precision."""
        return Inputs(self.signals.to(dtype), self.facts.to(dtype), self.relations.to(dtype), self.alive)


def usual(history: History) -> Usual:
    """What is usual, from what is remembered."""
    width = history.limits.shape[-1]
    now, before, interval = history.memory.split([width, width, 1], dim=-1)
    known, count = ~now.isnan(), (~now.isnan()).sum(1).clamp(min=1)
    centre = now.nanmedian(1).values.nan_to_num(0.0)
    apart = 1.25 * _mean((now - centre.unsqueeze(1)).abs())
    moved = (now - before).abs()
    least = 1e-5 * centre.abs() + 1e-7
    step = _mean(moved)
    scale = torch.maximum(torch.maximum(apart, step / 2), least)
    step = torch.maximum(step, scale / 100)
    levels = ((now - centre.unsqueeze(1)) / scale.unsqueeze(1)).nan_to_num(0.0).clamp(-FAR, FAR)
    low, high = (torch.where(end.isnan(), centre, end) for end in history.limits.unbind(1))

    own = torch.arange(0, levels.shape[1], SAMPLED, device=levels.device)
    sampled, fits = levels[:, own], known[:, own]
    recalled, certainty = recall_attention(sampled, levels, fits, known, own=own)
    fitting = fits.sum(1).clamp(min=1)
    error = (((recalled - sampled).abs() * fits).sum(1) / fitting).clamp(min=0.03)
    certainty = (certainty.clamp(min=-LARGE) * fits).sum(1) / fitting

    typical = interval[..., 0].nanmedian(1).values.nan_to_num(1.0)
    typical = torch.where(typical > 0, typical, 1.0)
    jitter = _mean((interval[..., 0] / typical.unsqueeze(1) - 1).abs().unsqueeze(-1))[:, 0].clamp(max=3)
    same = (now.unsqueeze(2) == now.unsqueeze(1)).sum(2).clamp(min=1)
    facts = torch.stack(
        [
            (moved == 0).sum(1) / (~moved.isnan()).sum(1).clamp(min=1),
            (step / scale).log().clamp(-8, 8) / 2,
            error.log(),
            (~known).float().mean(1),
            history.seen.float().clamp(1, 4096).log().unsqueeze(1).expand(-1, width) / 4,
            (known / same).sum(1) / count,
            (now == high.unsqueeze(1)).sum(1) / count,
            (now == low.unsqueeze(1)).sum(1) / count,
        ],
        dim=-1,
    )
    alive = known.any(1)
    return Usual(levels, known, centre, scale, step, least, low, high, error, certainty, typical, jitter, facts, alive)


def features(times: Tensor, windows: Tensor, history: History) -> Inputs:
    """What the network sees of windows.

    Args:
        times: `[B, T + 1] float64`. windows: `[B, T + 1, C] float32`, NaN where missing; the first row comes before the window.
    """
    u = usual(history)
    missing = windows.isnan()
    filled = _carried(windows, u.centre)
    now, lost = filled[:, 1:], missing[:, 1:]
    there = ~lost
    level = (now - u.centre.unsqueeze(1)) / u.scale.unsqueeze(1)
    change = filled.diff(dim=1)
    recalled, certainty = recall_attention(level.clamp(-FAR, FAR), u.levels, there, u.known)
    certainty = certainty.clamp(min=-LARGE)
    unlike = (level - recalled) * there
    still = (change == 0) & there
    at = torch.arange(now.shape[1], device=now.device).view(1, -1, 1)
    still_for = at - torch.where(still, -1, at).cummax(1).values
    shown = torch.where(lost, torch.nan, now)
    top, bottom = (
        now.masked_fill(lost, -math.inf).amax(1, keepdim=True),
        now.masked_fill(lost, math.inf).amin(1, keepdim=True),
    )
    above, below = (now - u.high.unsqueeze(1)).clamp(min=0), (u.low.unsqueeze(1) - now).clamp(min=0)
    around = (filled[:, :-1] + torch.cat([now[:, 1:], now[:, -1:]], 1)) / 2
    passed = (times.diff(dim=1) / u.interval.unsqueeze(1)).nan_to_num(1.0).float().unsqueeze(-1).expand_as(now)
    signals = torch.stack(
        [
            squashed(level),
            squashed(change / u.scale.unsqueeze(1)),
            squashed(change / u.step.unsqueeze(1)),
            squashed(unlike),
            squashed(unlike / u.error.unsqueeze(1)),
            still.float(),
            still_for.float().log1p() / 3,
            lost.float(),
            (there & (now == top)).float(),
            (there & (now == bottom)).float(),
            squashed(above / u.scale.unsqueeze(1)) - squashed(below / u.scale.unsqueeze(1)),
            squashed((now - around) / u.step.unsqueeze(1)),
            squashed(passed - 1),
            (passed < 0).float(),
            certainty / 4,
            (certainty - u.certainty.unsqueeze(1)) / 4,
        ],
        dim=-1,
    )
    return Inputs(signals.transpose(1, 2), *_summaries(shown, change, still, u), u.alive)


def _summaries(shown: Tensor, change: Tensor, still: Tensor, u: Usual) -> tuple[Tensor, Tensor]:
    """The facts and relations of windows `[B, T, C]`, NaN where missing."""
    centre = shown.nanmedian(1).values
    centre = torch.where(centre.isnan(), u.centre, centre)
    scale = 1.25 * _mean((shown - centre.unsqueeze(1)).abs())
    step = change.abs().mean(1)
    away = _mean((shown - u.centre.unsqueeze(1)).abs()) / u.scale
    converted = [((shown - offset) / factor, shown * factor + offset) for factor, offset in UNITS]
    fit = (
        torch.stack([_mean((each - u.centre.unsqueeze(1)).abs()) for pair in converted for each in pair]).amin(0)
        / u.scale
    )
    batch, width = centre.shape
    facts = torch.stack(
        [
            _ratio(centre, u.centre, u.least),
            _ratio(scale, u.scale, u.least),
            _ratio(step, u.step, u.least),
            squashed(away),
            squashed(fit) - squashed(away),
            ((u.centre.abs() + u.least) / u.scale).log().clamp(-8, 8) / 2,
            u.jitter.unsqueeze(1).expand(batch, width),
            shown.isnan().float().mean(1),
            still.float().mean(1),
            torch.full_like(centre, math.log(width)),
            u.certainty / 4,
        ],
        dim=-1,
    )
    crossed = _mean((shown.unsqueeze(3) - u.centre[:, None, None, :]).abs()) / u.scale.unsqueeze(1)  # [B, C, C]
    relations = torch.stack(
        [
            squashed(crossed),
            squashed(crossed) - squashed(away).unsqueeze(2),
            _ratio(step.unsqueeze(2), u.step.unsqueeze(1), u.least.unsqueeze(1)) / 2,
            _ratio(scale.unsqueeze(2), u.scale.unsqueeze(1), u.least.unsqueeze(1)) / 2,
        ],
        dim=-1,
    )
    return torch.cat([u.facts, facts], dim=-1), relations


def squashed(x: Tensor) -> Tensor:
    """Numbers of any size on a scale that grows with their logarithm."""
    return torch.asinh(x).clamp(-LARGE, LARGE)


def _carried(windows: Tensor, centre: Tensor) -> Tensor:
    """Windows `[B, T, C]` whose gaps hold the last reading, or the centre before the first."""
    at = torch.arange(windows.shape[1], device=windows.device).view(1, -1, 1)
    last = torch.where(windows.isnan(), -1, at).cummax(1).values
    return torch.where(last >= 0, windows.gather(1, last.clamp(min=0)), centre.unsqueeze(1))


def _mean(x: Tensor) -> Tensor:
    """The mean over dimension 1 of what is known; 0 if nothing is."""
    return x.nanmean(1).nan_to_num(0.0)


def _ratio(x: Tensor, reference: Tensor, least: Tensor) -> Tensor:
    """The logarithm of a ratio of sizes."""
    return ((x.abs() + least) / (reference.abs() + least)).log().clamp(-10, 10)
