"""The model in MLflow's `pyfunc` flavour: takes consecutive frames of one camera, returns contact and release of each hand."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from tocsin.models.served import FRAME, grey_frames, pictures
from tocsin.models.touch.finder import HandFinder
from tocsin.models.touch.finder import load as finder
from tocsin.models.touch.model import Eyes, TouchModel, load
from tocsin.models.touch.train import decoded, footage
from tocsin.models.touch.truth import HANDS, KINDS
from tocsin.models.vision.picture import scaled

if TYPE_CHECKING:
    import pandas as pd


class Clip:
    """Predicts events in a whole clip. Tocsin's own finder locates the hands."""

    def __init__(self, model: TouchModel, eyes: Eyes, hands: HandFinder) -> None:
        self._model, self._eyes, self._hands = model, eyes, hands

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score consecutive frames; column `frame` holds JPEGs or PNGs.

        Returns:
            For each frame, how likely it is that a hand makes contact or lets go: `left_contact`, ..., `right_release`.
        """
        import pandas as pd

        frames = (scaled(picture, self._model.size) for picture in pictures(model_input[FRAME]))
        scores = decoded(self._model, footage(self._hands.boxed(frames), self._eyes))
        columns = [f"{hand}_{kind}" for hand, kind in product(HANDS, KINDS)]
        return pd.DataFrame(scores.flatten(1).numpy(), columns=columns)

    def example(self) -> pd.DataFrame:
        """Two grey frames."""
        return grey_frames(2, self._model.size)


def _load_pyfunc(path: str) -> Clip:
    """Load the model. MLflow calls this with the folder that training has written."""
    model = load(path)
    return Clip(model, Eyes(model.config.eye), finder())
