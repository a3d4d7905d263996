"""Where shards run: supervisor, workers, Ray."""
