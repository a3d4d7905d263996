"""Logs, metrics, MLflow, and the points at which tests may kill a process."""
