"""Simulated plants."""
