"""The types that a pipeline is declared with."""
