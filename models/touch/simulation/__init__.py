"""Simulated clips of hands at a table."""
