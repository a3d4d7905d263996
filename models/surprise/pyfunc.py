"""The model as MLflow's `pyfunc` flavour loads it: consecutive frames of one camera in, the surprise of each frame out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsin.models.served import FRAME, grey_frames, pictures
from tocsin.models.surprise.model import SurpriseModel, load
from tocsin.models.surprise.motion import ego_motion, grey, still
from tocsin.models.surprise.train import pieces

if TYPE_CHECKING:
    import pandas as pd


class Clip:
    """Scores a clip from its first frame; no state is kept between calls."""

    def __init__(self, model: SurpriseModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score consecutive frames; the column `frame` holds JPEGs or PNGs.

        Returns:
            `score`, `level` and `novel` of each frame, as in the pipeline's table.
        """
        import pandas as pd

        memory, rows, before = self._model.blank(1), [], None
        for batch in pieces(pictures(model_input[FRAME]), self._model.size):
            tokens, shades = self._model.encode(batch)["tokens"], grey(batch)
            for at in range(len(batch)):
                shade = shades[at : at + 1]
                motion = still(1) if before is None else ego_motion(before, shade)
                _, verdict, memory = self._model(memory, tokens[at : at + 1], motion)
                rows.append((float(verdict.score), float(verdict.level), bool(verdict.novel)))
                before = shade
        return pd.DataFrame(rows, columns=["score", "level", "novel"])

    def example(self) -> pd.DataFrame:
        """Two grey frames."""
        return grey_frames(2, self._model.size)


def _load_pyfunc(path: str) -> Clip:
    """Load the model for MLflow, from the folder that training wrote."""
    return Clip(load(path))
