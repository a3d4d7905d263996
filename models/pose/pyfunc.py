"""The model as MLflow's `pyfunc` flavour loads it: consecutive frames of one camera in, its step to each frame out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from tocsin.models.pose.model import PoseModel, load
from tocsin.models.pose.motion import pairs_of
from tocsin.models.served import FRAME, grey_frames, pictures
from tocsin.models.vision.flow import grey_frame

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("turn_x", "turn_y", "turn_z", "shift_x", "shift_y", "shift_z", "confidence")


class Film:
    """Follows a camera from its first frame; no state is kept between calls."""

    def __init__(self, model: PoseModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Follow consecutive frames; the column `frame` holds JPEGs or PNGs.

        Returns:
            For each frame but the first: the turn to the frame before (rotation vector, rad), the shift to it, in units of the mean
            depth of the first pair, and the confidence.
        """
        import pandas as pd

        from tocsin.models.pose.geometry import vector

        shown = [(grey_frame(picture, self._model.size), picture.shape[:2]) for picture in pictures(model_input[FRAME])]
        state, rows = self._model.blank(1), []
        for (before, _), (after, shape) in pairwise(shown):
            lens = self._model.lens(shape=(shape[0], shape[1]))
            pair = pairs_of(torch.from_numpy(before)[None], torch.from_numpy(after)[None], lens)
            steps, state = self._model(state, pair)
            shift = steps.direction * steps.length.exp()[:, None]
            row = torch.cat([vector(steps.turn), shift, steps.confidence.sigmoid()[:, None]], 1)
            rows.append(row[0].tolist())
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def example(self) -> pd.DataFrame:
        """Two grey frames."""
        return grey_frames(2, self._model.size)


def _load_pyfunc(path: str) -> Film:
    """Load the model for MLflow, from the folder that training wrote."""
    return Film(load(path))
