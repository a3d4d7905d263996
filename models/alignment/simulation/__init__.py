"""Scenes as two kinds of camera see them, made by chance."""
