"""The pipeline that writes a pipeline's labels, the truth that arrives later, to the table `labels.<pipeline>`."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.options import Options
from tocsin.pipelines.runtime.declare.pipeline import Batch, Pipeline
from tocsin.pipelines.runtime.declare.truth import Truth
from tocsin.pipelines.runtime.engine.plan import Model, Plan


class LabelsTableOptions(Options):
    """The options of the pipeline that writes labels into a table.

    Args:
        label: a label's schema, as Arrow serializes it, in base64.
        key, event_time: see `Truth`.
    """

    label: str
    key: str
    event_time: str | None = None


def labels_table_plan(pipeline: str, truth: Truth) -> Plan:
    """The plan that writes a pipeline's labels to their table."""
    name, label = names.label_topic(pipeline), b64encode(truth.schema.serialize().to_pybytes()).decode()
    options = {"name": name, "topic": name, "label": label, "key": truth.key, "event_time": truth.event_time}
    return Plan("tocsin.pipelines.runtime.control.labels_table:pipeline", options)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pipeline that writes each label as a row.

    Args:
        options: of `LabelsTableOptions`.
        model: not used.
    """
    o = LabelsTableOptions.read(options)
    label = pa.ipc.read_schema(pa.py_buffer(b64decode(o.label)))
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=label,
        key=o.key,
        event_time=o.event_time,
        stages=[],
        results=label,
        batch=Batch(wait="1s"),  # nobody waits for these rows
    )
