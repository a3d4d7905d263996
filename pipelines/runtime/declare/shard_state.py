"""What a shard is doing."""

from enum import StrEnum


class ShardState(StrEnum):
    """As `tocsin status` and the metrics have it."""

    STARTING = "starting"
    """It recovers."""
    WAITING = "waiting"
    """For a broker or a lake; its error says which."""
    RUNNING = "running"
    STOPPING = "stopping"
    """It commits and lets go."""
    STOPPED = "stopped"
    """By an order."""
    REFUSED = "refused"
    """A person has to act on its error."""
    RESTARTING = "restarting"
    """Its worker died; another one starts."""
    MOVING = "moving"
    """To another worker."""
    PAUSED = "paused"
    """By a person."""
