"""How well events are found: alarms against the intervals in which something new is in sight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.surprise import detector
from models.surprise.detector import DetectorConfig
from models.surprise.novelties import Novelty

GRACE_S = 1.0
"""An alarm may come so long after the novelty was last in sight: the running score lags behind."""
FACTORS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0)
"""Of the detector, for curves."""


@dataclass(frozen=True)
class Counted:
    """Alarms and novelties of some clips.

    Args:
        found: novelties in whose time an alarm began; `there`: all of them.
        false: alarms at times without one.
        kept: frames of events; `frames`: all.
        seconds: of footage.
    """

    found: int = 0
    there: int = 0
    false: int = 0
    kept: int = 0
    frames: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counted) -> Counted:
        return Counted(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def figures(self) -> dict[str, float]:
        """Precision, recall and F1 of events, false alarms an hour, and the share of frames that need not be sent."""
        precision = self.found / max(self.found + self.false, 1)
        recall = self.found / max(self.there, 1)
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / max(precision + recall, 1e-9),
            "false_per_hour": self.false / max(self.seconds, 1e-9) * 3600,
            "saved": 1 - self.kept / max(self.frames, 1),
        }


def counted(begins: Iterable[int], novel: Sequence[bool], novelties: Sequence[Novelty], *, rate: float) -> Counted:
    """Count a clip's alarms.

    Args:
        begins: frames at which one began.
        novel: of each frame, whether it belongs to an event.
        novelties: the truth. An alarm in the time of several counts for the first that has none yet.
        rate: frames a second.
    """
    grace, found, false = GRACE_S * rate, set[int](), 0
    for at in sorted(begins):
        there = [i for i, novelty in enumerate(novelties) if novelty.first <= at <= novelty.last + grace]
        false += not there
        found |= set([i for i in there if i not in found][:1])
    return Counted(len(found), len(novelties), false, sum(novel), len(novel), len(novel) / rate)


def detect(scores: Tensor, config: DetectorConfig) -> tuple[list[int], list[bool]]:
    """What a detector makes of a clip's scores `[T]`, the first frame's being none: where events begin, which frames are of one."""
    (found,) = _detect(scores, config, torch.tensor([config.factor]))
    return found


def _detect(scores: Tensor, config: DetectorConfig, factors: Tensor) -> list[tuple[list[int], list[bool]]]:
    """`detect` for several factors at once, as if each were a camera."""
    seen, novel, begins = detector.blank(len(factors), config), [torch.zeros(len(factors))], [torch.zeros(len(factors))]
    for score in scores[1:]:
        verdict, seen = detector.watch(seen, score.expand(len(factors)), config, factor=factors)
        novel.append(verdict.novel.float())
        begins.append(verdict.begins.float())
    told = zip(torch.stack(begins, 1), torch.stack(novel, 1), strict=True)
    return [(b.nonzero()[:, 0].tolist(), n.bool().tolist()) for b, n in told]


def curve(
    scores: Sequence[Tensor], truths: Sequence[Sequence[Novelty]], config: DetectorConfig, *, rate: float
) -> dict[float, Counted]:
    """What each factor of the detector finds in some clips, counted together."""
    found = dict.fromkeys(FACTORS, Counted())
    for clip, truth in zip(scores, truths, strict=True):
        for factor, told in zip(FACTORS, _detect(clip, config, torch.tensor(FACTORS)), strict=True):
            found[factor] += counted(*told, truth, rate=rate)
    return found


def best(found: dict[float, Counted]) -> float:
    """The factor of the best F1; of several the largest."""
    return max(found, key=lambda factor: (found[factor].figures()["f1"], factor))


def at_recall(found: dict[float, Counted], recall: float) -> Counted | None:
    """The fewest false alarms at that recall or more; None where it is not reached. It compares forms at the same recall."""
    reached = [count for count in found.values() if count.figures()["recall"] >= recall - 1e-9]
    return min(reached, key=lambda count: count.false) if reached else None
