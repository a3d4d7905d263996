"""The section of the settings that says how a pipeline is run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, PositiveInt

from tocsin.pipelines.runtime.declare.options import Duration, Size
from tocsin.pipelines.runtime.sections import Section

RUN_SETTINGS = {
    *(
        "factory",
        "model",
        "device",
        "shadow",
        "labels",
        "context",
        "assess",
        "assess_last",
        "shards",
        "workers",
        "max_workers",
    ),
    *("start", "on_gap", "sinks"),
}
"""Settings that the pipeline's factory does not get."""


class PipelineSettings(Section):
    """`[pipelines.<name>]`: how a pipeline is run. Any other setting is an option of the pipeline itself.

    Args:
        factory: `module:function`; default `tocsin.pipelines.<name>:pipeline`.
        model: "pumps@champion", "pumps/3" or a folder; default `<name>@champion` with the default factory; "": none.
        shadow: whether the challenger of the model's name, such as "pumps@challenger", runs beside an alias that the pipeline
            follows, if the registry has one.
        labels: whether the truth that arrives later, on the topic `labels.<name>`, is written to a table, and results are scored
            with it.
        context: whether intervals, such as maintenance, are read from the topic `context.<name>`, and rows are joined with them.
        assess: how often input drift and live scores are computed; "0s": never.
        assess_last: the age of the oldest results and labels that are scored.
        shards: the number of shards. Partition p belongs to shard p mod shards. A changed number moves the state at the next
            start.
        workers: processes that share the shards. With `max_workers` it is the minimum; a large backlog adds more.
        rows: the most rows in a step.
        wait: the least time from the beginning of a step to that of the next. Rows that come meanwhile share it.
        every: the time between checkpoints while there is something to commit. Up to a minute, the first results after a start
            and the last ones of a backlog are committed earlier.
        size: the size of uncommitted results at which a checkpoint is taken at once.
        forget_after: a key that is inactive for this long is forgotten.
        warmup: how much of the log is processed to rebuild the state when a new version of the pipeline cannot migrate it.
        max_skew: how far an event time may be ahead of Kafka's timestamp, like a broker's message.timestamp.after.max.ms.
        max_age: how far an event time may be behind Kafka's timestamp, like a broker's message.timestamp.before.max.ms. Raise it
            for history that is more than 27 years old.
        overload: "block" to skip nothing, or "latest" to skip readings older than `max_lag`.
        max_lag: the age, by Kafka's timestamp, from which readings are skipped; used only with `overload` "latest".
        content_type: the media type of messages that have no header `content-type`, such as "application/avro". A change takes
            effect when the pipeline is stopped and started.
        device: "auto" uses a GPU if there is one.
        max_workers: the most workers; by default as many as `workers`.
        start: where the very first start begins in the topic; partitions that are added later are read from their beginning.
        sinks: names of `[sinks.<name>]` sections; the pipeline's alerts go to these sinks besides their topic.
        on_gap: what a shard does when data that it needs is lost: "stop" with one line, or "skip", which records the gap and
            continues.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    factory: str = ""
    model: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shadow: bool = True
    labels: bool = False
    context: bool = False
    assess: Duration = "1min"
    assess_last: Duration = "90d"
    shards: PositiveInt = 1
    workers: PositiveInt = 1
    max_workers: PositiveInt | None = None
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    sinks: tuple[str, ...] = ()
    rows: PositiveInt | None = None
    wait: Duration | None = None
    every: Duration | None = None
    size: Size | None = None
    forget_after: Duration | None = None
    warmup: Duration | None = None
    max_skew: Duration | None = None
    max_age: Duration | None = None
    overload: Literal["block", "latest"] | None = None
    max_lag: Duration | None = None
    content_type: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options for the pipeline's factory, as plain JSON."""
        return self.model_dump(mode="json", exclude=RUN_SETTINGS, exclude_none=True)
