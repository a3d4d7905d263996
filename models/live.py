"""How well yes-or-no verdicts were, once the truth about spans of time is known, such as counted people or reviewed clips."""

from __future__ import annotations

import polars as pl


def live_verdicts(results: pl.LazyFrame, spans: pl.LazyFrame) -> pl.DataFrame:
    """Score the verdicts of rows that lie in a labelled span, for each model version.

    Args:
        results: `key`, `event_time`, `model_version`, and `verdict`, a boolean.
        spans: `key`, `start`, `end` (not included) and `truth`, a boolean. Of spans that overlap, the one that began last counts.

    Returns:
        `model_version`, `rows`, `assets`, `accuracy`, `precision`, `recall`, `f1`; `positive`: the share of rows whose truth is
        yes. A figure that has no meaning is null, such as the recall without any yes.
    """
    yes, said = pl.col("truth"), pl.col("verdict")
    hit, judged, true = ((yes & said).sum(), said.sum(), yes.sum())

    def share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
        return pl.when(whole > 0).then(part / whole)

    spans = spans.with_columns(pl.col("start", "end").cast(pl.Datetime("us", "UTC"))).sort("start")
    return (
        results.filter(said.is_not_null())
        .sort("event_time")
        .join_asof(spans, left_on="event_time", right_on="start", by="key", strategy="backward")
        .filter(pl.col("event_time") < pl.col("end"))
        .group_by("model_version")
        .agg(
            rows=pl.len(),
            assets=pl.col("key").n_unique(),
            accuracy=(yes == said).mean(),
            precision=share(hit, judged),
            recall=share(hit, true),
            f1=share(2 * hit, judged + true),
            positive=yes.mean(),
        )
        .collect()
    )
