"""The states of a shard."""

from enum import StrEnum


class ShardState(StrEnum):
    """A shard's state, as `tocsin status` and the metrics show it."""

    STARTING = "starting"
    """It is recovering."""
    WAITING = "waiting"
    """It waits for a broker or a lake; its error names which."""
    RUNNING = "running"
    STOPPING = "stopping"
    """It commits and releases its resources."""
    STOPPED = "stopped"
    """It was ordered to stop."""
    REFUSED = "refused"
    """A person has to act on its error."""
    RESTARTING = "restarting"
    """Its worker died; another one starts."""
    MOVING = "moving"
    """It moves to another worker."""
    PAUSED = "paused"
    """A person has paused it."""
