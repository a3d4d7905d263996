"""Grafana's dashboards of Tocsin's metrics."""
