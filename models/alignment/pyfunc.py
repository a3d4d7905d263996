"""The model as MLflow's `pyfunc` flavour loads it: frames of two cameras in, the homographies between them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsin.models.alignment.model import AlignmentModel, grey, load
from tocsin.models.served import FRAME, grey_frames, pictures

if TYPE_CHECKING:
    import pandas as pd

OTHER = "other_frame"
"""The column with the frames of the second camera."""


class Pairs:
    """Aligns pairs of frames."""

    def __init__(self, model: AlignmentModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Align pairs; the columns `frame` and `other_frame` hold JPEGs or PNGs.

        Returns:
            `homography`, nine numbers in rows, for frames of the model's size; `confidence`; and `error` in pixels.
        """
        import pandas as pd

        rows = []
        for first, second in zip(pictures(model_input[FRAME]), pictures(model_input[OTHER]), strict=True):
            found = self._model.align(grey(first, self._model.size), grey(second, self._model.size))
            rows.append((found.homography.ravel().tolist(), found.confidence, min(found.error, 1e6)))
        return pd.DataFrame(rows, columns=["homography", "confidence", "error"])

    def example(self) -> pd.DataFrame:
        """Two grey frames of each camera."""
        frames = grey_frames(2, self._model.size)
        return frames.assign(**{OTHER: frames[FRAME]})


def _load_pyfunc(path: str) -> Pairs:
    """Load the model for MLflow, from the folder that training wrote."""
    return Pairs(load(path))
