"""What `tocsin evaluate surprise` compares a model with, on the same clips: itself without the camera's motion, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tocsin.models.surprise.baselines import difference, nearest
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.evaluate import at_recall, best, curve, levels
from tocsin.models.surprise.model import SurpriseModel
from tocsin.models.surprise.motion import grey
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.surprise.train import Footage, moved, score_clip

UNCOMPENSATED = "uncompensated"
AT_RECALL = "false_per_hour_at_recall"
Figures = dict[str, float | None]


class Watched:
    """A model's `encode` that keeps what it encodes, so that clips which the pipeline has scored need not be encoded again."""

    def __init__(self, model: SurpriseModel) -> None:
        self._model = model
        self._tokens: list[Tensor] = []
        self._shades: list[Tensor] = []

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """As `SurpriseModel.encode`."""
        tokens = self._model.encoder(pixels).tokens
        self._tokens.append(tokens.half())
        self._shades.append(grey(pixels))
        return {"tokens": self._model.whitened(tokens)}

    def clip(self, novelties: Sequence[Novelty]) -> Footage:
        """What was encoded since the last call, as one clip with its truth."""
        tokens, shades = torch.cat(self._tokens), torch.cat(self._shades)
        self._tokens, self._shades = [], []
        return moved(tokens, shades, novelties)


class _Form(NamedTuple):
    """A way to score clips, and the detectors that are tried on its scores; with `own`, the one that its figures are of."""

    score: Callable[[Footage], Tensor]
    levels: Sequence[DetectorConfig]
    own: DetectorConfig | None = None


def without_motion(
    model: SurpriseModel, clips: Sequence[Footage], recall: float | None, *, rate: float
) -> dict[str, Figures]:
    """The figures of the same model with the camera's motion taken away, at its own level; see `_compared`."""
    d = model.config.detector
    blind = model.uncompensated()
    tried = [d, *levels(d, triaged=bool(model.triage))]
    return {UNCOMPENSATED: _compared(_Form(lambda clip: score_clip(blind, clip), tried, d), clips, recall, rate)}


def baselines(
    model: SurpriseModel, clips: Sequence[Footage], memory: Tensor, recall: float | None, *, rate: float
) -> dict[str, Figures]:
    """The figures of baselines, each at the level that is best for it on these very clips, which favours them.

    Args:
        memory: from `baselines.bank`.
        recall: see `_compared`.
    """
    tried = levels(model.config.detector, triaged=False)
    forms = {
        "kNN novelty": _Form(lambda clip: nearest(clip, memory), tried),
        "frame difference": _Form(difference, tried),
    }
    return {name: _compared(form, clips, recall, rate) for name, form in forms.items()}


def _compared(form: _Form, clips: Sequence[Footage], recall: float | None, rate: float) -> Figures:
    """A form's figures; and `AT_RECALL`, the fewest false alerts at the `recall` of the model that is evaluated. It
    is None if no level reaches that.
    """
    found = curve([form.score(clip) for clip in clips], [clip.novelties for clip in clips], form.levels, rate=rate)
    reached = at_recall(found, recall) if recall is not None else None
    return {
        **found[form.own or best(found)].figures(),
        AT_RECALL: reached.figures()["false_per_hour"] if reached else None,
    }
