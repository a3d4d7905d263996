"""Simulated buildings."""
