"""Loader for MLflow's `pyfunc` flavour: the model takes readings and returns them with remaining useful life and its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from tocsin.models.rul.model import RulModel, load

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("rul", "rul_low", "rul_high", "in_domain")


class Lifelong:
    """A model over a table of readings: each asset's from the beginning of its life, or as far back as they are known."""

    def __init__(self, model: RulModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The key, the order column and the predictions of each reading, sorted by both."""
        config = self._model.config
        table = pl.from_pandas(model_input.reset_index(drop=True))
        return self._model.judge(table).select(config.key, config.order, *COLUMNS).to_pandas()

    def example(self) -> pd.DataFrame:
        """Two readings of one asset in which every sensor is at its mean."""
        config, scaling = self._model.config, self._model.scaling
        means = (*scaling.centres[0].tolist(), *scaling.mean[0].tolist())
        row = dict(zip(config.columns, means, strict=True))
        key: int | str = 1 if config.key_type == "int64" else "1"
        number = int if config.order_type == "int64" else float
        return pl.DataFrame([{config.key: key, config.order: number(age), **row} for age in (1, 2)]).to_pandas()


def _load_pyfunc(path: str) -> Lifelong:
    """Load the model. MLflow calls this with the folder that training wrote."""
    return Lifelong(load(path))
