"""Simulated films of a moving camera, rendered once for a session."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tocsin.models.domain import Shot
from tocsin.models.pose.simulation.film import Film
from tocsin.models.pose.simulation.path import Path

ROOM, SEA = 4_000, 4_001
"""Seeds of a room and of a sea floor."""


@cache
def film(seed: int, frames: int) -> tuple[tuple[NDArray[np.uint8], ...], Path, float]:
    """A film's frames, its true path and its focal length in frame widths."""
    made = Film(seed, seconds=frames / 10)
    return tuple(made), made.path, made.focal


def shots(seed: int, frames: int) -> list[Shot]:
    """A film's frames as they are fed."""
    return [Shot(picture) for picture in film(seed, frames)[0]]
