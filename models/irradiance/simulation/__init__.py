"""Simulated weather sites."""
