"""How well predictions were, once it is known when assets failed."""

from __future__ import annotations

import polars as pl

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.interval import BEYOND


def live_scores(results: pl.LazyFrame, failures: pl.LazyFrame, config: RulConfig, *, restarts: bool) -> pl.DataFrame:
    """Score the rows of assets whose failure is known, for each model version.

    Args:
        results: `key`, `event_time`, `model_version`, the order column, `rul`, `rul_low`, `rul_high`.
        failures: `key`, `event_time`, and the order column at the failure. An asset may fail several times.
        restarts: the order column starts again after a failure. A row then belongs to the next failure in time; else, to the next
            one by the order column.

    Returns:
        `model_version`; `rows` and `assets`; `rmse`, `mae`, `mean_error` (late is positive) and `coverage` as in validation, where
        rows with a true RUL above `BEYOND` of the cap do not count; `score`: NASA's, for 100 rows.
    """
    by = "event_time" if restarts else config.order
    ends = failures.select("key", "event_time", pl.col(config.order).alias("end")).with_columns(
        pl.col("end").alias(config.order)
    )
    ends = ends.select("key", "end", by).sort(by)
    rows = results.join(ends.select("key").unique(), on="key", how="semi").sort(by)
    true = (pl.col("end") - pl.col(config.order)).cast(pl.Float64)
    error = pl.col("rul").cast(pl.Float64) - pl.col("true")
    inside = (pl.col("rul_low") <= pl.col("true")) & (pl.col("true") <= pl.col("rul_high"))
    return (
        rows.join_asof(ends, on=by, by="key", strategy="forward")
        .with_columns(true=true)
        .filter(pl.col("true").is_between(0, BEYOND * config.cap))
        .with_columns(pl.col("true").clip(upper_bound=config.cap))
        .with_columns(error=error, inside=inside)
        .group_by("model_version")
        .agg(
            rows=pl.len(),
            assets=pl.col("key").n_unique(),
            rmse=pl.col("error").pow(2).mean().sqrt(),
            mae=pl.col("error").abs().mean(),
            mean_error=pl.col("error").mean(),
            coverage=pl.col("inside").mean(),
            score=100
            * (
                pl.when(pl.col("error") < 0).then(-pl.col("error") / 13).otherwise(pl.col("error") / 10).exp() - 1
            ).mean(),
        )
        .collect()
    )
