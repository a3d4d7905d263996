"""What pipelines of cameras have in common: options, and the labels that a person gives to spans of a camera's film."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
from pydantic import Field

from tocsin.models.live import live_verdicts
from tocsin.pipelines.runtime import AlertRule, Lateness, Options, Truth


class CameraOptions(Options):
    """The options of every pipeline of cameras.

    Args:
        late: by how much frames of a camera may be out of order, in the unit of their time or as a duration; they wait for so long.
        roots: folders in which messages may say that their frames lie.
    """

    late: Lateness = 0
    roots: list[str] = Field(default_factory=list)


OUT_OF_DOMAIN = AlertRule(
    name="out_of_domain", severity="warning", when=~pl.col("in_domain"), data=["sequence", "unlike"]
)
"""Rings when a camera's last frames are unlike the training data; see the stage `Familiar`."""
SPAN = (
    pa.field("camera", pa.string(), nullable=False),
    pa.field("start", pa.timestamp("ms", tz="UTC"), nullable=False),
    pa.field("end", pa.timestamp("ms", tz="UTC"), nullable=False),
)
"""A reviewed span of a camera's film."""


def reviewed(verdict: str) -> Truth:
    """Labels that say of a reviewed span whether all of its frames have a verdict.

    Args:
        verdict: a boolean column of the results, and the name of the label's field.
    """

    def score(results: pl.LazyFrame, reviews: pl.LazyFrame) -> pl.DataFrame:
        spans = reviews.select("key", "start", "end", truth=verdict)
        return live_verdicts(results.with_columns(verdict=verdict), spans)

    schema = pa.schema([*SPAN, pa.field(verdict, pa.bool_(), nullable=False)])
    return Truth(schema=schema, key="camera", event_time="start", score=score)
