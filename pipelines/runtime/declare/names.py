"""Every id and path that the runtime writes. They are formats: data stored under them must be found again."""

from __future__ import annotations

# Topics.
REPLAYED = "_tocsin.replayed"
"""The compacted topic that records which dead letters were sent again."""


def alert_topic(pipeline: str) -> str:
    """The topic of a pipeline's alerts."""
    return f"alerts.{pipeline}"


def label_topic(pipeline: str) -> str:
    """The topic of a pipeline's labels: the truth that arrives later. Their table has the same name."""
    return f"labels.{pipeline}"


def context_topic(pipeline: str) -> str:
    """The topic of a pipeline's context: intervals such as maintenance. Their table has the same name."""
    return f"context.{pipeline}"


def dead_letter_topic(topic: str) -> str:
    """The dead-letter topic of a topic."""
    return f"{topic}.dlq"


def journal_topic(pipeline: str) -> str:
    """The compacted topic of a pipeline's journals, one partition a shard."""
    return f"_tocsin.{pipeline}"


# Pipelines that belong to others.
IN_SHADOW = "in_shadow"
"""The column of a table that is true in rows of a shadow."""


def shadow(pipeline: str, version: str = "") -> str:
    """The pipeline that runs a model's version in another pipeline's shadow. Without a version: how its name begins."""
    return f"{pipeline}.shadow-{version}"


# Kafka's transactions and groups.
def transactional_id(pipeline: str, shard: int) -> str:
    """The id belongs to the shard, not to its worker: opening it fences the shard's previous owner."""
    return f"{pipeline}/{shard}"


def replay_id(topic: str) -> str:
    """The transactional id for sending a topic's dead letters again; only one process does so at a time."""
    return f"tocsin.replay/{topic}"


def lag_group(pipeline: str) -> str:
    """The consumer group whose positions lag tools read."""
    return f"tocsin.{pipeline}"


def sink_group(pipeline: str, sink: str) -> str:
    """The consumer group that holds an alert sink's position."""
    return f"tocsin.sink.{pipeline}.{sink}"


# Delta's transaction ids; their versions are int64.
def position_id(pipeline: str, topic: str, partition: int) -> str:
    """The id whose version is R, a partition's next input offset."""
    return f"{pipeline}/{topic}/{partition}"


def epoch_id(pipeline: str, shard: int) -> str:
    """The id whose version is the epoch of a shard's owner."""
    return f"{pipeline}/{shard}#epoch"


def checkpoint_id(pipeline: str, shard: int) -> str:
    """The id whose version names the snapshot that belongs to R."""
    return f"{pipeline}/{shard}#checkpoint"


def shards_id(pipeline: str) -> str:
    """The id whose version is a pipeline's number of shards."""
    return f"{pipeline}#shards"


# Paths in the lake.
STATE, MODELS, DEAD_LETTERS, ORDERS, FRAMES, CONTEXT = "_state", "_models", "_dead", "_orders", "frames", "_context"


def snapshot_folder(pipeline: str, shard: int) -> str:
    """A shard's snapshots, each in a folder named after its checkpoint."""
    return f"{STATE}/{pipeline}/{shard}"


def model_folder(sha256: str) -> str:
    """A model's files."""
    return f"{MODELS}/{sha256}"


def context_folder(pipeline: str) -> str:
    """The states of a pipeline's context, each in a file named after its content."""
    return f"{CONTEXT}/{pipeline}"


def orders_file(pipeline: str) -> str:
    """The file with people's orders to a pipeline."""
    return f"{ORDERS}/{pipeline}.json"


def drift_file(pipeline: str) -> str:
    """The file with the state of a pipeline's alert `drift`."""
    return f"{ORDERS}/{pipeline}.drift.json"


# Ray's actors.
def supervisor_actor(pipeline: str) -> str:
    """A pipeline's supervisor."""
    return f"{pipeline}/supervisor"


def worker_slot(pipeline: str, number: int | str = "") -> str:
    """The name of a worker's slot; a worker's own name adds a time to it. Without a number: the prefix of a pipeline's slots."""
    return f"{pipeline}/worker-{number}"
