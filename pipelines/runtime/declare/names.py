"""Every id and path that is written anywhere, once. They are formats: what was written under them must be found again."""

from __future__ import annotations

# Topics.
REPLAYED = "_tocsin.replayed"
"""The compacted topic that says which dead letters were sent again."""


def alert_topic(pipeline: str) -> str:
    """A pipeline's alerts."""
    return f"alerts.{pipeline}"


def dead_letter_topic(topic: str) -> str:
    """The dead letters of a topic."""
    return f"{topic}.dlq"


def journal_topic(pipeline: str) -> str:
    """The compacted topic of a pipeline's journals, a partition a shard."""
    return f"_tocsin.{pipeline}"


# Kafka's transactions and groups.
def transactional_id(pipeline: str, shard: int) -> str:
    """A shard's, not its worker's: whoever opens it fences the shard's older owner."""
    return f"{pipeline}/{shard}"


def replay_id(topic: str) -> str:
    """Of whoever sends dead letters of a topic again; one at a time."""
    return f"tocsin.replay/{topic}"


def lag_group(pipeline: str) -> str:
    """The group whose positions people's lag tools look at."""
    return f"tocsin.{pipeline}"


def sink_group(pipeline: str, sink: str) -> str:
    """The group that says how far an alert sink has got."""
    return f"tocsin.sink.{pipeline}.{sink}"


# Delta's transaction ids; their versions are int64.
def position_id(pipeline: str, topic: str, partition: int) -> str:
    """R, a partition's next input offset."""
    return f"{pipeline}/{topic}/{partition}"


def epoch_id(pipeline: str, shard: int) -> str:
    """Of a shard's owner."""
    return f"{pipeline}/{shard}#epoch"


def checkpoint_id(pipeline: str, shard: int) -> str:
    """The name of the snapshot that goes with R."""
    return f"{pipeline}/{shard}#checkpoint"


def shards_id(pipeline: str) -> str:
    """How many shards a pipeline has."""
    return f"{pipeline}#shards"


# Paths in the lake.
STATE, MODELS, DEAD_LETTERS, ORDERS, FRAMES = "_state", "_models", "_dead", "_orders", "frames"


def snapshot_folder(pipeline: str, shard: int) -> str:
    """A shard's snapshots, each in a folder by its checkpoint's name."""
    return f"{STATE}/{pipeline}/{shard}"


def model_folder(sha256: str) -> str:
    """A model's files."""
    return f"{MODELS}/{sha256}"


def orders_file(pipeline: str) -> str:
    """What people have ordered of a pipeline."""
    return f"{ORDERS}/{pipeline}.json"


# Ray's actors.
def supervisor_actor(pipeline: str) -> str:
    """A pipeline's supervisor."""
    return f"{pipeline}/supervisor"


def worker_slot(pipeline: str, number: int | str = "") -> str:
    """Where a worker runs; the worker's own name has a time behind it. Without a number: what all of a pipeline begin with."""
    return f"{pipeline}/worker-{number}"
