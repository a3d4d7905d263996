"""The pipeline that writes an alert topic's records to `<lake>/alerts`, one table that all pipelines share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tocsin.pipelines.runtime.control.deployment import ALERTS
from tocsin.pipelines.runtime.declare.options import Options
from tocsin.pipelines.runtime.declare.pipeline import Batch, Pipeline
from tocsin.pipelines.runtime.declare.stage import Stage
from tocsin.pipelines.runtime.declare.stores import Stores
from tocsin.pipelines.runtime.declare.trace import TRACEPARENT
from tocsin.pipelines.runtime.engine.alerts import ACT, SOURCE, TYPE
from tocsin.pipelines.runtime.engine.plan import Model

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.rows import Rows
    from tocsin.pipelines.runtime.declare.stage import StepContext


class AlertsTableOptions(Options):
    """The options of the pipeline that writes alerts into a table.

    Args:
        into: the table.
    """

    into: str = ALERTS


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Build the pipeline that writes each alert as a row: `key` is the asset, `event_time` the alert's, `data` its JSON as sent.

    What a person does about an alert is a row, too: `about` is the alert's id, `by` the person, `reason` the reason. `traceparent`
    is the alert's trace context, if it has one.

    Args:
        options: of `AlertsTableOptions`.
        model: not used.

    Raises:
        ConfigError: an option is unknown, or `name` or `topic` is missing.
    """
    o = AlertsTableOptions.read(options)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        into=o.into,
        schema=pa.schema(
            [
                _field("id", "header:ce_id"),
                _field("source", "header:ce_source"),
                _field("type", "header:ce_type"),
                _field("subject", "header:ce_subject"),
                _field("time", "header:ce_time", pa.timestamp("us", tz="UTC")),
                pa.field("rule", pa.string(), nullable=False),
                pa.field("severity", pa.string(), nullable=False),
                _field("data", "value"),
                *(_field(name, f"header:ce_{name}", nullable=True) for name in (*ACT, TRACEPARENT)),
            ]
        ),
        key="subject",
        event_time="time",
        max_skew="90000d",  # accept any time that the codec reads: the alert's readings were checked before
        max_age="200000d",
        batch=Batch(wait="1s"),  # nobody waits for these rows, and each step costs milliseconds
        stages=[Named()],
        results=pa.schema(
            [(n, pa.string()) for n in ("id", "pipeline", "rule", "severity", "transition", "data", *ACT, TRACEPARENT)]
        ),
    )


class Named(Stage):
    """Derives the pipeline's name from the event's source, and the transition from its type."""

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        derived = {"pipeline": ("source", SOURCE), "transition": ("type", TYPE)}
        return rows.with_columns(
            {
                name: pc.replace_substring_regex(rows.table.column(column), f"^{re.escape(prefix)}", "")
                for name, (column, prefix) in derived.items()
            }
        )


def _field(name: str, source: str, dtype: pa.DataType | None = None, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, dtype or pa.string(), nullable=nullable, metadata={"from": source})
