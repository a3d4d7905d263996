"""Detects what is new in front of a moving camera: the prediction error of the scene, not of the vehicle."""
