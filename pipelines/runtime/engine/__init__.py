"""A shard: steps, alerts, checkpoints, recovery."""
