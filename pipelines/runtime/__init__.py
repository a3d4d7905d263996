"""The streaming engine, and the types that pipelines are declared with. Reusable stages are in `stages`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tocsin.pipelines.exports import exported

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.alert_sinks import AlertSink
    from tocsin.pipelines.runtime.declare.context import ContextTopic, Intervals
    from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
    from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError, TocsinError, Unavailable
    from tocsin.pipelines.runtime.declare.options import Duration, Lateness, Options, Size, parsed
    from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Batch, Commit, Pipeline
    from tocsin.pipelines.runtime.declare.rows import Rows
    from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
    from tocsin.pipelines.runtime.declare.state import StateDelta
    from tocsin.pipelines.runtime.declare.stores import Cell, CellStore, Declared, Pending, Ring, Stores
    from tocsin.pipelines.runtime.declare.truth import Truth
    from tocsin.pipelines.runtime.engine.alerts import Alert
    from tocsin.pipelines.runtime.engine.plan import Model
    from tocsin.pipelines.runtime.engine.replay import replay, replay_clip
    from tocsin.pipelines.runtime.formats.jpeg import FACTS, frame_fields
    from tocsin.pipelines.runtime.formats.message import MessageFormat
    from tocsin.pipelines.runtime.lake.object_store import ObjectStore
    from tocsin.pipelines.runtime.settings import Settings

__all__ = [
    "FACTS",
    "NEVER",
    "Alert",
    "AlertRule",
    "AlertSink",
    "Batch",
    "Cell",
    "CellStore",
    "Commit",
    "ConfigError",
    "ContextTopic",
    "Declared",
    "Duration",
    "Intervals",
    "Lateness",
    "MessageFormat",
    "Model",
    "ModelError",
    "ObjectStore",
    "Options",
    "Pending",
    "Pipeline",
    "Ring",
    "Rows",
    "Settings",
    "Size",
    "Stage",
    "StateDelta",
    "StepContext",
    "Stores",
    "Timer",
    "TocsinError",
    "Truth",
    "Unavailable",
    "frame_fields",
    "milliseconds",
    "parsed",
    "replay",
    "replay_clip",
]

__getattr__ = exported(
    __name__,
    {
        "declare.context": "ContextTopic Intervals",
        "declare.durations": "NEVER milliseconds",
        "declare.errors": "ConfigError ModelError TocsinError Unavailable",
        "declare.options": "Duration Lateness Options Size parsed",
        "declare.pipeline": "AlertRule Batch Commit Pipeline",
        "declare.rows": "Rows",
        "declare.stage": "Stage StepContext Timer",
        "declare.state": "StateDelta",
        "declare.stores": "Cell CellStore Declared Pending Ring Stores",
        "declare.truth": "Truth",
        "engine.alerts": "Alert",
        "engine.plan": "Model",
        "engine.replay": "replay replay_clip",
        "formats.message": "MessageFormat",
        "control.alert_sinks": "AlertSink",
        "lake.object_store": "ObjectStore",
        "formats.jpeg": "FACTS frame_fields",
        "settings": "Settings",
    },
)
