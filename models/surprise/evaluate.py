"""Evaluation of events: compares alerts with the intervals in which something new is in sight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tocsin.models.surprise import detector
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.simulation.novelties import Novelty

GRACE_S = 1.0
"""Seconds after a novelty was last in sight during which an alert still counts: the running score lags behind."""
FACTORS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0)
LEASTS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Detector settings for curves: `FACTORS` for scores without a fixed scale, `LEASTS` for the scores of triage."""


@dataclass(frozen=True)
class Counted:
    """Alerts and novelties of some clips.

    Args:
        found: novelties during which an alert began.
        covered: novelties during which an event was running, whenever it began.
        novelties: all novelties.
        false: alerts outside all novelties.
        kept: frames that belong to events.
        frames: all frames.
        seconds: of footage.
    """

    found: int = 0
    covered: int = 0
    novelties: int = 0
    false: int = 0
    kept: int = 0
    frames: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counted) -> Counted:
        return Counted(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def figures(self) -> dict[str, float | None]:
        """Precision, recall, F1 and F2 of events, the share of novelties that events cover, false alerts an hour, and the share of
        frames that need not be sent. A figure that has no meaning, such as the recall where nothing is new, is None.
        """
        missed = self.novelties - self.found
        return {
            "precision": _share(self.found, self.found + self.false),
            "recall": _share(self.found, self.novelties),
            "recall_covered": _share(self.covered, self.novelties),
            "f1": _share(2 * self.found, 2 * self.found + self.false + missed),
            "f2": _share(5 * self.found, 5 * self.found + self.false + 4 * missed),
            "false_per_hour": _share(3600 * self.false, self.seconds),
            "saved": _share(self.frames - self.kept, self.frames),
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def counted(begins: Iterable[int], novel: Sequence[bool], novelties: Sequence[Novelty], *, rate: float) -> Counted:
    """Count a clip's alerts.

    Args:
        begins: frames at which an alert began.
        novel: for each frame, whether it belongs to an event.
        novelties: the ground truth. An alert during several novelties counts for the first one without an alert.
        rate: frames a second.
    """
    grace, found, false = GRACE_S * rate, set[int](), 0
    for at in sorted(begins):
        matching = [i for i, novelty in enumerate(novelties) if novelty.first <= at <= novelty.last + grace]
        false += not matching
        found |= set([i for i in matching if i not in found][:1])
    spans = [novel[novelty.first : int(novelty.last + grace) + 1] for novelty in novelties]
    covered = found | {i for i, span in enumerate(spans) if any(span)}
    return Counted(len(found), len(covered), len(novelties), false, sum(novel), len(novel), len(novel) / rate)


def detect(scores: Tensor, config: DetectorConfig) -> tuple[list[int], list[bool]]:
    """Run a detector over a clip's scores `[T]`; the first frame's score is not used.

    Returns:
        The frames at which events begin; and for each frame, whether it belongs to an event.
    """
    (found,) = _detect(scores, [config])
    return found


def _detect(scores: Tensor, configs: Sequence[DetectorConfig]) -> list[tuple[list[int], list[bool]]]:
    """Run `detect` for detectors that differ only in `factor` and `least`, in one batch, as if each were a camera."""
    count, config = len(configs), configs[0]
    heights = torch.tensor([c.factor for c in configs]), torch.tensor([c.least for c in configs])
    state, novel, begins = detector.blank(count, config), [torch.zeros(count)], [torch.zeros(count)]
    for score in scores[1:]:
        verdict, state = detector.step(state, score.expand(count), config, heights=heights)
        novel.append(verdict.novel.float())
        begins.append(verdict.begins.float())
    results = zip(torch.stack(begins, 1), torch.stack(novel, 1), strict=True)
    return [(b.nonzero()[:, 0].tolist(), n.bool().tolist()) for b, n in results]


def levels(config: DetectorConfig, *, triaged: bool) -> list[DetectorConfig]:
    """Detectors to try: they differ in `least` for scores of triage, and in `factor` for other scores."""
    if triaged:
        return [replace(config, least=least) for least in LEASTS]
    return [replace(config, factor=factor) for factor in FACTORS]


def curve(
    scores: Sequence[Tensor],
    truths: Sequence[Sequence[Novelty]],
    configs: Sequence[DetectorConfig],
    *,
    rate: float,
) -> dict[DetectorConfig, Counted]:
    """Count what each detector finds, over all clips together. One that is named twice counts once."""
    found = dict.fromkeys(configs, Counted())
    for clip, truth in zip(scores, truths, strict=True):
        for config, detected in zip(list(found), _detect(clip, list(found)), strict=True):
            found[config] += counted(*detected, truth, rate=rate)
    return found


def best(found: dict[DetectorConfig, Counted], *, most: float | None = None) -> DetectorConfig:
    """The detector with the best F1; ties go to the highest level.

    Args:
        most: false alerts an hour that are allowed. If no detector has as few, the one with the fewest is returned.
    """
    rates = {config: count.figures()["false_per_hour"] or 0.0 for config, count in found.items()}
    limit = max(most, min(rates.values())) if most is not None else max(rates.values())
    allowed = [config for config, rate in rates.items() if rate <= limit]
    return max(allowed, key=lambda config: (found[config].figures()["f1"] or 0.0, config.factor, config.least))


def at_recall(found: dict[DetectorConfig, Counted], recall: float) -> Counted | None:
    """The count with the fewest false alerts at `recall` or more; None if no detector reaches it.

    Benchmarks use it to compare forms at the same recall.
    """
    reached = [count for count in found.values() if (count.figures()["recall"] or 0.0) >= recall - 1e-9]
    return min(reached, key=lambda count: count.false) if reached else None
