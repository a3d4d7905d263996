"""Training of the head that tells an upright picture from one upside down, on simulated and on real pictures.

    python -m tocsin.models.vision.upright_train CLIP ...

writes `weights/upright.safetensors` beside this file and prints how upright each clip is to a head that has not seen it. Clips are
videos or folders of pictures, taken upright. Those of one folder are left out together: they may be of one camera. It takes two
minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.vision.encoder import Encoder, load
from tocsin.models.vision.upright import LAYER, SIZE, WEIGHTS, difference, store
from tocsin.models.vision.video import read

DIVES, TABLES = 16, 16
"""Numbers of simulated dives and tables."""
FRAMES = 40
"""Pictures of a real clip; of a simulated one, a quarter."""


@dataclass(frozen=True)
class Recipe:
    """How to train: the weight of a real clip beside a simulated one, and the inverse strength of the regularisation."""

    real: float = 20.0
    strength: float = 0.0003


def seen(pictures: Iterable[NDArray[np.uint8]], encoder: Encoder) -> Tensor:
    """`difference` of the pictures of a clip, scaled to `SIZE`, `[N, 3 D]`."""
    scaled = (cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA) for picture in pictures)
    return torch.stack([difference(np.asarray(picture, np.uint8), encoder) for picture in scaled])


def fit(clips: Mapping[str, Tensor], real: Sequence[str] = (), recipe: Recipe | None = None) -> Tensor:
    """Fit the head: logistic regression without an intercept, where each picture counts as upright and, turned, as upside down.

    Args:
        clips: name -> `difference` of its pictures, `[N, 3 D]`; each clip counts the same, whatever its length.
        real: names of the real ones.

    Returns:
        The weight, `[3 D]`, such that the root mean square over the training pictures is 1.
    """
    from sklearn.linear_model import LogisticRegression

    recipe = recipe or Recipe()
    inputs = torch.cat(list(clips.values())).double()
    shares = [torch.full((len(of),), (recipe.real if name in real else 1.0) / len(of)) for name, of in clips.items()]
    weights = torch.cat(shares).double()
    scale = (inputs.square() * weights[:, None]).sum(0).div(weights.sum()).sqrt() + 1e-6
    standardised = (inputs / scale).numpy()
    both, labels = np.concatenate([standardised, -standardised]), np.repeat([1, 0], len(standardised))
    each = np.tile((weights / weights.sum()).numpy() * 400, 2)
    model = LogisticRegression(C=recipe.strength, fit_intercept=False, max_iter=2000).fit(
        both, labels, sample_weight=each
    )
    weight = torch.from_numpy(model.coef_[0]) / scale
    return (weight / (inputs @ weight).square().mean().sqrt()).float()


def left_out(clips: Mapping[str, Tensor], real: Sequence[str], folders: Mapping[str, str]) -> dict[str, Tensor]:
    """How upright the pictures of each real clip are to a head that saw none of the clip's folder."""
    scores = {}
    for name in real:
        others = {other: of for other, of in clips.items() if folders.get(other) != folders[name]}
        scores[name] = clips[name] @ fit(others, [other for other in real if other in others])
    return scores


def main(paths: Sequence[Path]) -> None:
    from tocsin.models.surprise.simulation.scene import TRAIN_SEEDS as DIVE_SEEDS
    from tocsin.models.surprise.simulation.scene import Dive
    from tocsin.models.touch.simulation.scene import TRAIN_SEEDS as TABLE_SEEDS
    from tocsin.models.touch.simulation.scene import Scene

    torch.set_num_threads(1)
    encoder, clips = load(size=SIZE, device="cpu", layer=LAYER), dict[str, Tensor]()
    few = FRAMES // 4
    for seed in DIVE_SEEDS[:DIVES]:
        clips[f"dive {seed}"] = seen(islice(Dive(seed, rate=0.5), few), encoder)
    for seed in TABLE_SEEDS[:TABLES]:
        shots = islice(Scene(seed, seconds=few / 2, rate=2), few)
        clips[f"table {seed}"] = seen((shot.picture for shot in shots), encoder)
    for path in paths:
        frames = list(read(path, rate=None, size=SIZE))
        clips[str(path)] = seen(frames[:: max(1, len(frames) // FRAMES)], encoder)
    real = [str(path) for path in paths]
    for name, scores in left_out(clips, real, {str(path): str(path.parent) for path in paths}).items():
        print(f"{name}: {scores.mean():+.2f}, lowest {scores.min():+.2f}")
    store(fit(clips, real), encoder, WEIGHTS)


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
