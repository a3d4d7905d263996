"""Simulated halls with signal and temperature fields."""
