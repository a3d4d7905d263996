"""How well a RUL model predicts: RMSE, MAE, NASA's score, mean error, and what its interval holds."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tocsin.models.conformal import BANDS, band
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives, read_cmapss, read_cmapss_rul
from tocsin.models.rul.faithfulness import faithfulness
from tocsin.models.rul.interval import BEYOND
from tocsin.models.rul.model import RulModel, load
from tocsin.models.rul.source import TEST_SEED, runs

LABEL_CAP = 125.0  # the cap that most papers use for C-MAPSS
EXPLAINED = 1000
"""Rows whose explanations are tried, about."""
AFTER = 0.4
"""How long after an interval a row counts as after it, as a share of the horizon."""
EARLIER = "rows before an engine's last one, which C-MAPSS's test does not score"
UNFAILED = "rows of assets that did not fail, whose remaining life is not known"
ERRORS = ("rmse", "mae", "mean_error", "score")
POOLED = (*ERRORS, *(f"{name}_uncapped" for name in ERRORS), "coverage", "width")
"""Figures that subsets have together."""


@dataclass(frozen=True)
class Scores:
    """How well a model predicts some lives.

    Args:
        figures: `rmse`, `mae`, `mean_error` (late is positive) and `score` (NASA's, a sum) against labels capped at 125, or at the
            config's cap for CSV files, of the assets that failed. The same four with the suffix `_uncapped` against labels not
            capped. `coverage`: share of the capped labels in the interval; `width`: of the interval, on average. The figures of
            `faithfulness`. `parameters`: of the model. `false_warnings`, if some assets of CSV files did not fail: the share of
            their rows that are predicted below the warning level, but had at least as much left.
        best: the errors of the number that has the smallest for these very labels: no constant reaches less.
        counted: `engines` and `rows` that are judged; of models over a window, how many engines are `shorter than the window` and
            have theirs padded; and `survivors`, if some assets did not fail.
        left_out: why rows were not judged -> how many.
        in_domain: share of the rows judged whose like training has seen.
        unaware: the errors of the same model without the intervals that it reads; empty: it reads none.
        context: the figures of `in_context`; empty: it reads no intervals.
    """

    figures: dict[str, Any]
    best: dict[str, Any]
    counted: dict[str, int]
    left_out: dict[str, int]
    in_domain: float
    unaware: dict[str, Any] = field(default_factory=dict)
    context: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate(
    *,
    data: Path,
    model: RulModel | Path,
    subset: str = "FD001",
    csv: bool = False,
    decimal_comma: bool = False,
    context: Path | None = None,
    device: str = "auto",
) -> Scores:
    """Score a model: on the last row of each C-MAPSS test engine, or on every row of CSV files.

    Args:
        data: folder of C-MAPSS files, or of CSV files with the columns of the model's config; or, with `csv`, `sim`.
        model: a loaded model, or the folder it is stored in.
        subset: C-MAPSS subset; its `test_` and `RUL_` files are read.
        csv: `data` holds CSV files.
        decimal_comma: numbers in CSV files have a decimal comma, as in 400,5.
        context: a file of intervals, see `source.runs`.
        device: where to run a model that is given as a folder.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    model = model if isinstance(model, RulModel) else load(model, device)
    config = model.config
    if csv:
        found = runs(data, config, decimal_comma=decimal_comma, context=context, seed=TEST_SEED)
        known = lives(found.table, config, intervals=found.intervals)
        cap, chosen = config.cap, torch.arange(len(known))
    else:
        known = lives(read_cmapss(data, subset, "test"), config, final_rul=read_cmapss_rul(data, subset))
        cap, chosen = LABEL_CAP, known.last
    samples = model.samples(known)
    judgement = model.predict_rows(samples, chosen)
    target, capped = known.rul[chosen], known.rul[chosen].clamp(max=cap)
    parts = copy.deepcopy(model.parts).cpu()
    explained = samples.at(chosen[:: max(1, len(chosen) // EXPLAINED)])
    unknown = int(target.isnan().sum())
    counted = {"engines": len(known.keys), "rows": len(chosen) - unknown}
    if config.model != "fading":
        counted["shorter than the window"] = int((known.place[known.last] + 1 < config.window).sum())
    if unknown:
        counted["survivors"] = int((~known.failed).sum())
    return Scores(
        figures={
            **_errors(judgement["rul"], target, cap),
            **held(judgement["rul_low"], judgement["rul_high"], target.clamp(max=config.cap)),
            **faithfulness(parts.network, parts.explainer, explained, cap=config.cap),
            "parameters": model.parameters,
            **(_survivors(judgement["rul"], known, config) if unknown else {}),
        },
        best={
            **metrics(capped.nanmean().expand(len(target)), capped, cap=cap),
            **_uncapped(metrics(target.nanmean().expand(len(target)), target, cap=cap)),
        },
        counted=counted,
        left_out={EARLIER: len(known) - len(chosen), UNFAILED: unknown},
        in_domain=float(judgement["in_domain"].float().mean()),
        **_with_and_without(model, known, chosen, judgement["rul"], cap),
    )


def _with_and_without(model: RulModel, known: Lives, chosen: Tensor, rul: Tensor, cap: float) -> dict[str, Any]:
    """The errors without the intervals that a model reads, and its figures by what lies around a row."""
    if not known.slots.shape[1]:
        return {}
    blind = replace(known, slots=known.slots[:, :0])
    unaware = model.predict_rows(model.samples(blind), chosen)["rul"]
    return {
        "unaware": _errors(unaware, known.rul[chosen], cap),
        "context": in_context(rul, unaware, known, model.config),
    }


def in_context(rul: Tensor, unaware: Tensor, known: Lives, config: RulConfig) -> dict[str, dict[str, Any]]:
    """The figures of rows after intervals of each kind, and of assets that have none, with `rmse_unaware`, that of `unaware`.

    Args:
        rul, unaware: predictions `[R]` for every row, with intervals and without.
    """

    def figures(which: Tensor) -> dict[str, Any]:
        own, other = (judged(p[which], p[which], p[which], known.rul[which], config.cap) for p in (rul, unaware))
        rows = int((known.rul[which] <= BEYOND * config.cap).sum())
        return {"rows": rows, **{name: own[name] for name in ERRORS}, "rmse_unaware": other["rmse"]}

    found = {f"after {kind}": figures(after(known, number, config)) for number, kind in enumerate(config.context)}
    return {"assets without any": figures(without_any(known)), **found}


def after(known: Lives, kind: int, config: RulConfig) -> Tensor:
    """Rows within `AFTER` of the horizon after the end of an interval of a kind, `[R] bool`."""
    end = known.slots[..., 1]
    is_past = (known.slots[..., 2] == kind) & (end <= 0) & (end >= -AFTER * config.horizon)
    return is_past.any(1)


def without_any(known: Lives) -> Tensor:
    """Rows of assets that have no interval near any row, `[R] bool`."""
    has_any = torch.zeros(len(known.keys), dtype=torch.bool)
    has_any[known.engine[(~known.slots[..., 0].isinf()).any(1)]] = True
    return ~has_any[known.engine]


def _errors(predicted: Tensor, target: Tensor, cap: float) -> dict[str, float]:
    """The figures of errors, against capped and uncapped labels."""
    return metrics(predicted, target.clamp(max=cap), cap=cap) | _uncapped(metrics(predicted, target, cap=cap))


def _uncapped(figures: dict[str, float]) -> dict[str, float]:
    return {f"{name}_uncapped": value for name, value in figures.items()}


def pooled(subsets: Mapping[str, Scores]) -> Scores:
    """The scores of subsets together, each judged by a model of its own. Figures of a model itself are left out."""
    rows = {name: scores.counted["rows"] for name, scores in subsets.items()}
    total = sum(rows.values())

    def together(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        names = [name for name in POOLED if all(name in found for found in figures.values())]
        return {name: _together(name, [(rows[at], found[name]) for at, found in figures.items()]) for name in names}

    return Scores(
        figures=together({name: scores.figures for name, scores in subsets.items()}),
        best=together({name: scores.best for name, scores in subsets.items()}),
        counted=_sum(scores.counted for scores in subsets.values()),
        left_out=_sum(scores.left_out for scores in subsets.values()),
        in_domain=sum(rows[name] * scores.in_domain for name, scores in subsets.items()) / total,
    )


def _together(name: str, parts: Sequence[tuple[int, float]]) -> float:
    """A figure of all rows from those of its parts, given with their numbers of rows."""
    if name.startswith("score"):
        return sum(value for _, value in parts)
    power, total = 2 if name.startswith("rmse") else 1, sum(rows for rows, _ in parts)
    return (sum(rows * value**power for rows, value in parts) / total) ** (1 / power)


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for part in parts:
        total.update(part)
    return dict(total)


def _survivors(rul: Tensor, known: Lives, config: RulConfig) -> dict[str, Any]:
    """The figures of predictions `[R]` for assets that did not fail."""
    false = (rul < config.warning) & (known.least >= config.warning)
    return {"false_warnings": float(false[~known.failed[known.engine]].float().mean())}


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
        inside = band(target / cap) == number
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
        return dict.fromkeys(ERRORS, float("nan"))
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
