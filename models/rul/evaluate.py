"""How well a RUL model predicts: RMSE, MAE, NASA's score, mean error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tocsin.models.rul.data import Windows, read_cmapss, read_cmapss_rul, read_csv_directory, windows
from tocsin.models.rul.model import FD001, RulModel, load

LABEL_CAP = 125.0  # the cap that most papers use for FD001


def evaluate(
    *,
    data: Path,
    model: RulModel | Path = FD001,
    subset: str = "FD001",
    csv: bool = False,
    decimal_comma: bool = False,
    device: str = "auto",
) -> dict[str, float | int | str]:
    """Score a model: on the last window of each C-MAPSS test engine, or on every window of CSV files.

    Args:
        data: folder of C-MAPSS files, or of CSV files with the columns of the model's config.
        model: a loaded model, or the folder it is stored in.
        subset: C-MAPSS subset; its `test_` and `RUL_` files are read.
        csv: `data` holds CSV files.
        decimal_comma: numbers in CSV files have a decimal comma, as in 400,5.
        device: where to run a model that is given as a folder.

    Returns:
        `rmse`, `mae`, `mean_error` (late is positive) and `score` (NASA's, a sum) against labels capped at 125, or at
        the config's cap for CSV files. The same four with the suffix `_uncapped` against uncapped labels. `engines` and
        `windows`: how many were scored. `parameters`: of the model. `data`: what was read.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    model = model if isinstance(model, RulModel) else load(model, device)
    if csv:
        scored = windows(read_csv_directory(data, model.config, decimal_comma=decimal_comma), model.config)
        cap = model.config.cap
    else:
        final = read_cmapss_rul(data, subset)
        scored = windows(read_cmapss(data, subset, "test"), model.config, final_rul=final).last()
        cap = LABEL_CAP
    predicted = predict(model, scored)
    return {
        "data": str(data) if csv else subset,
        **metrics(predicted, scored.rul.clamp(max=cap)),
        **{f"{name}_uncapped": value for name, value in metrics(predicted, scored.rul).items()},
        "engines": len(scored.engine.unique()),
        "windows": len(scored),
        "parameters": model.parameters,
    }


def predict(model: RulModel, dataset: Windows, *, batch: int = 1024) -> Tensor:
    """RUL of every window, `[N] float32`, predicted in batches."""
    return torch.cat([model(dataset.batch(index))["rul"] for index in torch.arange(len(dataset)).split(batch)])


def metrics(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """RMSE, MAE, mean error and NASA's score of predictions `[N]` against labels `[N]`, both in cycles."""
    error = (predicted.double() - target.double()).numpy()
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "mean_error": float(error.mean()),
        "score": float(np.expm1(np.where(error < 0, -error / 13, error / 10)).sum()),
    }
