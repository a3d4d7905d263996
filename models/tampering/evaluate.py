"""Figures of scores of frames: AUROC by kind of attack, attacks found and their delay, and false alerts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.models.ranking import auroc
from tocsin.models.tampering.interval import Interval
from tocsin.models.tampering.samples import CLEAN, UNSURE
from tocsin.models.tampering.simulation.attacks import KINDS, UNSEEN


@dataclass(frozen=True)
class Scored:
    """The scores of a recording.

    Args:
        name: of the recording; kind: of the attack, or `CLEAN`.
        scores: `[T]`, NaN before the first verdict.
        truth: `[T]`, see `Series.truth`.
    """

    name: str
    kind: str
    scores: NDArray[np.floating]
    truth: NDArray[np.float32]

    def of(self, value: float) -> NDArray[np.floating]:
        """The scores of the frames with that truth."""
        return self.scores[(self.truth == value) & ~np.isnan(self.scores)]


def by_kind(scored: Iterable[Scored]) -> dict[str, float]:
    """AUROC of the frames of each kind of attack against all frames that are as the camera took them."""
    scored = list(scored)
    areas = {kind: together(scored, [kind]) for kind in (*KINDS, *UNSEEN)}
    return {kind: area for kind, area in areas.items() if not math.isnan(area)}


def together(scored: Iterable[Scored], kinds: Sequence[str]) -> float:
    """AUROC of the frames of all these kinds of attack against all frames that are as the camera took them; NaN without either."""
    scored = list(scored)
    values = [one.of(1.0) for one in scored if one.kind in kinds]
    clean = [one.of(0.0) for one in scored]
    positive, negative = (np.concatenate(part) if part else np.zeros(0) for part in (values, clean))
    return auroc(np.concatenate([positive, negative]), np.arange(len(positive) + len(negative)) < len(positive))


@dataclass(frozen=True)
class Rung:
    """Alerts of a recording.

    Args:
        false: alerts that begin in frames as the camera took them.
        delay: frames from the attack's first one to the alert; None: there was no attack, or it was not found.
    """

    false: int
    delay: int | None


def rung(scored: Scored, interval: Interval) -> Rung:
    """The alerts of a recording, as the pipeline raises them: one begins with an interval's frame number `hold`."""
    attack = np.flatnonzero((scored.truth != 0) & (scored.truth != UNSURE))
    first = int(attack[0]) if len(attack) else None
    run, false, delay = 0, 0, None
    for at, score in enumerate(scored.scores):
        run = interval.length(run, float(score))
        if run == interval.hold:
            if scored.truth[at] == 0:
                false += 1
            elif first is not None and delay is None and scored.truth[at] == 1:
                delay = max(0, at - first)
    return Rung(false, delay)


def figures(scored: Sequence[Scored], interval: Interval) -> dict[str, float | None]:
    """Figures over recordings.

    Returns:
        `auroc` over all kinds together, `auroc_seen`, `auroc_unseen`: over those that were in training and over the others;
        `found`: share of attacks that raise an alert; `delay`: its median, in frames; `false_alerts`: in frames as the camera took
        them, and `clean_frames`, their number. None: no meaning.
    """
    alerts = [(one, rung(one, interval)) for one in scored]
    attacks = [alert for one, alert in alerts if one.kind != CLEAN]
    delays = [alert.delay for alert in attacks if alert.delay is not None]
    return {
        "auroc": together(scored, (*KINDS, *UNSEEN)),
        "auroc_seen": together(scored, KINDS),
        "auroc_unseen": together(scored, UNSEEN),
        "found": len(delays) / len(attacks) if attacks else None,
        "delay": float(np.median(delays)) if delays else None,
        "false_alerts": float(sum(alert.false for _, alert in alerts)),
        "clean_frames": float(sum(len(one.of(0.0)) for one in scored)),
    }
