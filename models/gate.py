"""Decide whether a trained model may become champion: running pipelines load a champion within seconds, so it must work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

MARGIN = 0.1
"""Share of the champion's figure by which a new model's may be worse; seeds of one recipe differ by about that much."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model, to be compared with the champion.

    Attributes:
        measure: the figure by which models are compared, in words.
        lower: whether a lower figure is better.
        score: the model's own figure on validation; None if there was nothing to judge it by.
        outputs: predicts some inputs with the model as read back from its files.
        against: from another model's folder to both figures on the same validation data, the candidate's first.
        floor: what the model has to beat whatever the champion is, in words, and the figure that it must reach; None: nothing.
    """

    measure: str
    lower: bool
    score: float | None
    outputs: Callable[[], Iterable[Tensor]]
    against: Callable[[Path], tuple[float, float]]
    floor: tuple[str, float] | None = None


def refusal(candidate: Candidate, champion: tuple[str, Path] | None, *, force: bool = False) -> str:
    """Explain why a model may not become champion; empty if it may.

    Args:
        champion: name and folder of the current champion; None if there is none.
        force: accept a worse model too, or one that nothing judged. One whose score or outputs are not finite is never accepted.
    """
    measure = candidate.measure
    if candidate.score is None and not force:
        return f"expected a {measure}, got none, since no data were left to judge it by"
    if candidate.score is not None and not math.isfinite(candidate.score):
        return f"expected a finite {measure}, got {candidate.score}"
    if not all(bool(torch.isfinite(output).all()) for output in candidate.outputs()):
        return "expected finite numbers from a first prediction, got NaN or infinity"
    if force:
        return ""
    if candidate.floor is not None and candidate.score is not None:
        of, figure = candidate.floor
        if not (candidate.score <= figure if candidate.lower else candidate.score >= figure):
            bound = "at most" if candidate.lower else "at least"
            return f"expected a {measure} of {bound} {figure:.4g}, {of}, got {candidate.score:.4g}"
    if champion is None:
        return ""
    name, folder = champion
    try:
        score, current = candidate.against(folder)
    except Exception as reason:  # it may have been trained on other columns, by another version, or be damaged
        message = " ".join(str(reason).split())
        return f"expected to compare it with {name} on the same validation, got {type(reason).__name__}: {message}"
    limit = current * (1 + MARGIN if candidate.lower else 1 - MARGIN)
    if not math.isfinite(current) or (score <= limit if candidate.lower else score >= limit):
        return ""
    bound = "at most" if candidate.lower else "at least"
    return (
        f"expected a {measure} of {bound} {limit:.4g}, {MARGIN:.0%} from the {current:.4g} of {name} on the same validation, "
        f"got {score:.4g}"
    )


def best(scores: Mapping[int, float], *, lower: bool = False) -> int:
    """The seed of the best score; a score that is not finite is worse than any other."""
    return min(scores, key=lambda seed: (not math.isfinite(scores[seed]), scores[seed] if lower else -scores[seed]))
