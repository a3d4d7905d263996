"""How well a RUL model predicts: RMSE, MAE, NASA's score, mean error, and what its interval holds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives, read_cmapss, read_cmapss_rul, read_csv_directory
from tocsin.models.rul.faithfulness import faithfulness
from tocsin.models.rul.interval import BANDS, BEYOND, band
from tocsin.models.rul.model import RulModel, load

LABEL_CAP = 125.0  # the cap that most papers use for C-MAPSS
EXPLAINED = 1000
"""Rows whose explanations are tried, about."""


def evaluate(
    *,
    data: Path,
    model: RulModel | Path,
    subset: str = "FD001",
    csv: bool = False,
    decimal_comma: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a model: on the last row of each C-MAPSS test engine, or on every row of CSV files.

    Args:
        data: folder of C-MAPSS files, or of CSV files with the columns of the model's config.
        model: a loaded model, or the folder it is stored in.
        subset: C-MAPSS subset; its `test_` and `RUL_` files are read.
        csv: `data` holds CSV files.
        decimal_comma: numbers in CSV files have a decimal comma, as in 400,5.
        device: where to run a model that is given as a folder.

    Returns:
        `rmse`, `mae`, `mean_error` (late is positive) and `score` (NASA's, a sum) against labels capped at 125, or at the config's
        cap for CSV files, of the assets that failed. The same four with the suffix `_uncapped` against uncapped labels. `coverage`:
        share of the capped labels in the interval; `width`: of the interval, on average. `engines` and `rows`: how many there are;
        `short`: engines with fewer rows than the model's window. `out_of_domain`: share of the rows whose like training has not
        seen. The figures of `faithfulness`. `parameters`: of the model. `data`: what was read. If some assets of CSV files did not
        fail: `survivors`, how many, and `false_warnings`, the share of their rows that are predicted below the warning level, but
        had at least as much left.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    model = model if isinstance(model, RulModel) else load(model, device)
    config = model.config
    if csv:
        known = lives(read_csv_directory(data, config, decimal_comma=decimal_comma), config)
        cap, chosen = config.cap, torch.arange(len(known))
    else:
        known = lives(read_cmapss(data, subset, "test"), config, final_rul=read_cmapss_rul(data, subset))
        cap, chosen = LABEL_CAP, known.last
    samples = model.samples(known)
    found = model.predict_rows(samples, chosen)
    target, capped = known.rul[chosen], known.rul[chosen].clamp(max=cap)
    parts = copy.deepcopy(model.parts).cpu()
    explained = samples.at(chosen[:: max(1, len(chosen) // EXPLAINED)])
    return {
        "data": str(data) if csv else subset,
        **metrics(found["rul"], capped, cap=cap),
        **{f"{name}_uncapped": value for name, value in metrics(found["rul"], target, cap=cap).items()},
        **held(found["rul_low"], found["rul_high"], target.clamp(max=config.cap)),
        "engines": len(known.keys),
        "short": int((known.place[known.last] + 1 < config.window).sum()),
        "rows": len(chosen),
        "out_of_domain": 1 - float(found["in_domain"].float().mean()),
        **faithfulness(parts.network, parts.explainer, explained, cap=config.cap),
        "parameters": model.parameters,
        **(_survivors(found["rul"], known, config) if csv and not known.failed.all() else {}),
    }


def _survivors(rul: Tensor, known: Lives, config: RulConfig) -> dict[str, Any]:
    """The figures of predictions `[R]` for assets that did not fail."""
    false = (rul < config.warning) & (known.least >= config.warning)
    survived = ~known.failed
    return {"survivors": int(survived.sum()), "false_warnings": float(false[survived[known.engine]].float().mean())}


def judged(rul: Tensor, low: Tensor, high: Tensor, target: Tensor, cap: float) -> dict[str, float]:
    """The figures of predictions in validation: over rows with a RUL up to `BEYOND` of the cap; the score is that of 100 rows.

    Args:
        rul, low, high, target: `[N]`, the target not capped.
    """
    near = target <= BEYOND * cap
    rul, low, high, target = rul[near], low[near], high[near], target[near].clamp(max=cap)
    figures = metrics(rul, target, cap=cap)
    figures["score"] *= 100 / max(len(target), 1)
    figures |= held(low, high, target)
    for number in range(BANDS):  # of the true RUL
        inside = band(target, cap) == number
        figures[f"coverage_{number + 1}"] = held(low[inside], high[inside], target[inside])["coverage"]
    return figures


def metrics(predicted: Tensor, target: Tensor, *, cap: float) -> dict[str, float]:
    """RMSE, MAE, mean error and NASA's score of predictions `[N]` against labels `[N]`, both in the unit of the cap.

    Rows with a label of NaN do not count; the figures are NaN without any others. The score measures errors in 125ths of the cap,
    which are cycles for C-MAPSS.
    """
    known = ~target.isnan()
    error = (predicted[known].double() - target[known].double()).numpy()
    if not error.size:
        return dict.fromkeys(("rmse", "mae", "mean_error", "score"), float("nan"))
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "mean_error": float(error.mean()),
        "score": float(np.expm1(np.where(error < 0, -error / 13, error / 10) * (LABEL_CAP / cap)).sum()),
    }


def held(low: Tensor, high: Tensor, target: Tensor) -> dict[str, float]:
    """`coverage`: share of the labels `[N]` between the ends; `width`: of the interval, on average. NaN does not count."""
    known = ~target.isnan()
    inside = (low <= target) & (target <= high)
    return {"coverage": float(inside[known].float().mean()), "width": float((high - low)[known].mean())}
