"""The model as MLflow's `pyfunc` flavour loads it: consecutive frames of one camera in, the verdict on each out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsin.models.served import FRAME, grey_frames, pictures
from tocsin.models.tampering.model import TamperingModel, load
from tocsin.models.vision.picture import scaled

if TYPE_CHECKING:
    import pandas as pd


class Clip:
    """Judges a camera's frames from its first one on; no state is kept between calls."""

    def __init__(self, model: TamperingModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Judge consecutive frames; the column `frame` holds JPEGs or PNGs.

        Returns:
            `score` of each frame, `tampered`, whether it reaches the model's level after its warm-up, and `kind`, the known attack
            that is most alike.
        """
        import pandas as pd

        model = self._model
        verdict = model.watch(scaled(picture, model.size) for picture in pictures(model_input[FRAME]))
        rows = [
            (score, number >= model.config.warm and score >= model.config.level, model.kinds[kind])
            for number, (score, kind) in enumerate(zip(verdict.score.tolist(), verdict.kind.tolist(), strict=True))
        ]
        return pd.DataFrame(rows, columns=["score", "tampered", "kind"])

    def example(self) -> pd.DataFrame:
        """Two grey frames."""
        return grey_frames(2, self._model.size)


def _load_pyfunc(path: str) -> Clip:
    """Load the model for MLflow, from the folder that training wrote."""
    return Clip(load(path))
