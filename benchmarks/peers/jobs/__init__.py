"""The jobs, as each engine's documentation writes them. Those of peers run in the peers' own environment."""
