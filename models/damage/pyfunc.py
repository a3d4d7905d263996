"""The model as MLflow's `pyfunc` flavour loads it: pictures in, the damage in each out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsin.models.damage.model import DamageModel, load
from tocsin.models.damage.network import DAMAGES
from tocsin.models.served import FRAME, grey_frames, pictures

if TYPE_CHECKING:
    import pandas as pd


class Pictures:
    """Judges pictures, each alone."""

    def __init__(self, model: DamageModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Judge pictures; the column `frame` holds JPEGs or PNGs.

        Returns:
            `kind`, `score`, the probability of each damage, and `extent`, as in the pipeline's table.
        """
        import pandas as pd

        rows = []
        for picture in pictures(model_input[FRAME]):
            found = self._model(picture)
            rows.append((found.kind, found.score, *map(float, found.classes[1:]), found.extent))
        return pd.DataFrame(rows, columns=["kind", "score", *DAMAGES, "extent"])

    def example(self) -> pd.DataFrame:
        """Two grey frames."""
        return grey_frames(2, (224, 224))


def _load_pyfunc(path: str) -> Pictures:
    """Load the model for MLflow, from the folder that training wrote."""
    return Pictures(load(path))
