"""Pipelines: a file each, their runtime, and the command."""
