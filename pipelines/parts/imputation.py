"""How pipelines fill missing readings: the option `impute`, its stage and its column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from tocsin.models.imputer.config import CONFIG_FILE
from tocsin.models.imputer.levels import Levels
from tocsin.models.imputer.model import load
from tocsin.models.imputer.plain import window_mean
from tocsin.pipelines.runtime import Model, ModelError
from tocsin.pipelines.runtime.stages import Impute
from tocsin.pipelines.runtime.stages.impute import FILLED

Method = Literal["off", "last", "mean", "network"]
"""Of the option `impute`. off: nothing is filled. last: the last value. mean: of the last 30 rows. network: the model's imputer."""
COLUMN = pa.field(FILLED, pa.list_(pa.string()))
"""The result column that names what was filled."""
ROWS = 30
"""Rows of a mean."""


def stages(
    method: Method,
    columns: Sequence[str],
    *,
    pipeline: str,
    model: Model,
    levels: Levels | None = None,
    least: int = 1,
    required: bool = True,
    fresh: str | None = None,
    counter: str | None = None,
) -> list[Impute]:
    """The stage that fills columns; none if the method is `off`.

    Args:
        pipeline: its name.
        model: of the pipeline; its folder may hold an imputer.
        levels: what readings usually are; the imputer has its own.
        least, required, fresh, counter: see `Impute`.

    Raises:
        ModelError: the model has no imputer, or one of other columns.
    """
    if method == "off":
        return []
    fill, window = (window_mean, ROWS) if method == "mean" else (None, 1)
    if method == "network":
        where = f"pipelines.{pipeline}.impute"
        if not (model.folder / CONFIG_FILE).is_file():
            raise ModelError(
                f"{where}: expected a model with an imputer, got {model.version} without one; train it with --imputer, or set "
                "impute = 'last'"
            )
        imputer = model.load(load, training="tocsin train ... --imputer")
        if imputer.config.columns != tuple(columns):
            raise ModelError(
                f"{where}: expected an imputer of {', '.join(columns)}, got one of {', '.join(imputer.config.columns)}; train "
                "the model again with --imputer"
            )
        fill, window, levels = imputer, imputer.config.rows, imputer.levels
    return [
        Impute(
            columns, fill, window=window, levels=levels, least=least, required=required, fresh=fresh, counter=counter
        )
    ]
