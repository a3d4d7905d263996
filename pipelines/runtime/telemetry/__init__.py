"""Logs, metrics, MLflow, and the points at which tests can kill a process."""
