"""Pose: how a camera moves, and whether it has been here before."""
