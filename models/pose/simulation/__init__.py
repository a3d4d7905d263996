"""Worlds with a known camera path: rooms and sea floors."""
