"""Figures of a model on labelled pictures: macro-F1 over classes, AUROC of damage, and one rule of thumb to beat."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.network import CLASSES
from tocsin.models.ranking import auroc


def figures(
    probabilities: NDArray[np.float32], kinds: NDArray[np.int64], *, level: float = 0.5
) -> dict[str, float | None]:
    """Figures of pictures.

    Args:
        probabilities: `[N, 4]`, of `CLASSES`.
        kinds: `[N]`, the true ones.
        level: least probability of damage of a damaged picture.

    Returns:
        `macro_f1`, the mean over the classes that occur, where a model is only asked to tell those apart; `auroc` of the
        probability of any damage; `precision` and `recall` of damage at `level`. None: no meaning, such as without damage.
    """
    occur = sorted({*kinds.tolist()})
    damage, truth = 1 - probabilities[:, 0], kinds > 0
    said = verdicts(probabilities, occur, level)
    hit, judged, true = (float(part.sum()) for part in (truth & (damage >= level), damage >= level, truth))
    return {
        "macro_f1": macro_f1(said, kinds) if len(occur) > 1 else None,
        "auroc": auroc(damage, truth),
        "precision": hit / judged if judged else None,
        "recall": hit / true if true else None,
    }


def verdicts(probabilities: NDArray[np.float32], occur: Sequence[int], level: float) -> NDArray[np.int64]:
    """The class of each picture among those that occur: intact below the level, else the most probable damage."""
    damages = [number for number in occur if number]
    if not damages:
        return np.where(1 - probabilities[:, 0] >= level, -1, 0)
    kinds = np.array(damages)[probabilities[:, damages].argmax(1)]
    return np.where((1 - probabilities[:, 0] >= level) | (0 not in occur), kinds, 0)


def macro_f1(said: NDArray[np.int64], kinds: NDArray[np.int64]) -> float:
    """The mean over the true classes of each one's F1."""
    each = []
    for kind in sorted({*kinds.tolist()}):
        hit = float(((said == kind) & (kinds == kind)).sum())
        each.append(2 * hit / max(float((said == kind).sum() + (kinds == kind).sum()), 1.0))
    return float(np.mean(each))


def lines(picture: NDArray[np.uint8]) -> float:
    """The rule of thumb: how dark a picture's darkest lines are, beside their surroundings and its brightness."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    side = max(9, round(min(grey.shape) / 16)) | 1
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((side, side), np.uint8))
    return float(np.quantile(dark, 0.99) / (grey.mean() + 1))


def parts(
    probabilities: NDArray[np.float32], kinds: NDArray[np.int64], level: float
) -> dict[str, dict[str, float | None]]:
    """How often pictures of each class are taken for damaged, and for that class."""
    found: dict[str, dict[str, float | None]] = {}
    said = verdicts(probabilities, sorted({*kinds.tolist()}), level)
    for number in sorted({*kinds.tolist()}):
        mine = kinds == number
        found[CLASSES[number]] = {
            "pictures": float(mine.sum()),
            "recall": float((said[mine] == number).mean()),
            "damaged": float((1 - probabilities[mine, 0] >= level).mean()),
        }
    return found
