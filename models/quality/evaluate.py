"""Figures of a quality model over cases, and of the rules of thumb beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.quality.baselines import RULES, scores, together
from tocsin.models.quality.cases import Cases
from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.model import QualityModel
from tocsin.models.ranking import auroc


@dataclass(frozen=True)
class Judged:
    """Cases with what was found.

    Attributes:
        truth: `[N]`, 0: clean, else the reason's place plus 1.
        suspicion: `[N]`, 1 minus the quality.
        reason: `[N]`, the reason that was given.
        named: `[N]`, whether the channel that was named is at fault; NaN where none is.
        rules: name -> `[N]`.
    """

    truth: NDArray[np.int64]
    suspicion: NDArray[np.float64]
    reason: NDArray[np.int64]
    named: NDArray[np.float64]
    rules: dict[str, NDArray[np.float64]]

    @property
    def clean(self) -> NDArray[np.bool_]:
        return self.truth == 0


def judge(model: QualityModel, batches: Sequence[Cases]) -> Judged:
    """Judge cases by a model and by the rules."""
    parts = []
    for cases in batches:
        found = model(cases.times, cases.windows, *cases.history)
        channel = found["channel"].clamp(min=0).unsqueeze(1)
        right = cases.bad.gather(1, channel)[:, 0] & (found["channel"] >= 0)
        named = torch.where(cases.bad.any(1), right.double(), torch.nan)
        rules = {name: values.double().numpy() for name, values in scores(cases).items()}
        suspicion = 1 - found["quality"].double().numpy()
        parts.append(Judged(cases.reason.numpy(), suspicion, found["reason"].numpy(), named.numpy(), rules))
    return Judged(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.suspicion for part in parts]),
        np.concatenate([part.reason for part in parts]),
        np.concatenate([part.named for part in parts]),
        {name: np.concatenate([part.rules[name] for part in parts]) for name in parts[0].rules},
    )


def figures(judged: Judged, level: float) -> dict[str, float]:
    """AUROC of all faults together and of each against clean windows, how often reason and channel are right, and rates at a level.

    Args:
        level: quality below which a window is bad.
    """
    bad = ~judged.clean
    found = {"auroc": auroc(judged.suspicion, bad)}
    for number, reason in enumerate(REASONS, start=1):
        which = judged.clean | (judged.truth == number)
        found[f"auroc_{reason}"] = auroc(judged.suspicion[which], bad[which])
    named = judged.named[~np.isnan(judged.named)]
    low = judged.suspicion > 1 - level
    return {
        **found,
        "reason": _share((judged.reason == judged.truth - 1)[bad]),
        "channel": _share(named),
        "found": _share(low[bad]),
        "false": _share(low[judged.clean]),
    }


def of_rules(judged: Judged) -> dict[str, dict[str, float]]:
    """The AUROC of each rule, of the worst of `RULES`, and of the worst of these and `GAPS`."""
    bad = ~judged.clean
    chosen = {name: judged.rules[name] for name in RULES}
    every = {
        **judged.rules,
        "worst of the three": together(chosen, judged.clean),
        "worst of all four": together(judged.rules, judged.clean),
    }
    found = {}
    for name, values in every.items():
        found[name] = {"auroc": auroc(values, bad)}
        for number, reason in enumerate(REASONS, start=1):
            which = judged.clean | (judged.truth == number)
            found[name][f"auroc_{reason}"] = auroc(values[which], bad[which])
    return found


def _share(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
