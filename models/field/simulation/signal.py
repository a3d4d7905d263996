"""The power that transmitters give in a hall, by image sources: the direct path, and one reflection at each wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tocsin.models.field.hall import Array, Hall
from tocsin.models.field.rays import crossed

NEAREST = 0.5
"""Distance below which power does not rise, m."""
CLUTTER, PATCH, WAVES = 1.5, 2.5, 32
"""Standard deviation of what the model leaves out, dB; its length, m; and the waves that it is made of."""
FAINTEST = -120.0


@dataclass(frozen=True)
class Radio:
    """What holds for all transmitters of a hall.

    Args:
        exponent: of the power's decay with distance.
        mirrored: what a reflection at each wall costs, dB, `[W]`.
        waves, phases: of the clutter.
    """

    exponent: float
    mirrored: Array
    waves: Array
    phases: Array

    @classmethod
    def drawn(cls, hall: Hall, draw: np.random.Generator) -> Radio:
        return cls(
            float(draw.uniform(1.8, 2.4)),
            draw.uniform(5, 12, len(hall.segments)),
            draw.normal(0, 1 / PATCH, (WAVES, 2)),
            draw.uniform(0, 2 * np.pi, WAVES),
        )


def power(hall: Hall, radio: Radio, transmitter: Array, places: Array) -> Array:
    """The power that a transmitter of 0 dBm (at 1 m) gives at places, mW, `[N]`.

    Args:
        transmitter: x, y.
        places: `[N, 2]`.
    """
    walls, blocks = hall.segments, hall.blocking

    def lost(start: Array, end: Array, without: int | None = None) -> Array:
        """dB on rays, apart from the wall that mirrors."""
        through = crossed(start, end, walls) * blocks
        if without is not None:
            through[..., without] = 0
        return np.asarray(through.sum(-1))

    def faded(distance: Array) -> Array:
        return np.asarray(10 * radio.exponent * np.log10(np.maximum(distance, NEAREST)))

    everywhere = np.broadcast_to(transmitter, places.shape)
    direct = faded(np.linalg.norm(places - transmitter, axis=-1)) + lost(everywhere, places)
    total = 10 ** (-direct / 10)
    for number, wall in enumerate(walls):
        along = (wall[2:] - wall[:2]) / np.linalg.norm(wall[2:] - wall[:2])
        across = np.array([-along[1], along[0]])
        off = float((transmitter - wall[:2]) @ across)
        image = transmitter - 2 * off * across
        seen = np.flatnonzero(crossed(np.broadcast_to(image, places.shape), places, wall[None])[:, 0])
        far = places[seen]
        share = off / (off + (far - wall[:2]) @ across)  # what sees the image is on the transmitter's side
        at = image + (far - image) * share[:, None]
        path = faded(np.linalg.norm(far - image, axis=-1)) + radio.mirrored[number]
        path = path + lost(everywhere[seen], at, number) + lost(at, far, number)
        total[seen] += 10 ** (-path / 10)
    return np.asarray(total)


def level(hall: Hall, radio: Radio, total: Array, places: Array) -> Array:
    """The level of a power in mW, with the clutter, dBm, `[N]`."""
    clutter = CLUTTER * np.sqrt(2 / WAVES) * np.cos(places @ radio.waves.T + radio.phases).sum(-1)
    with np.errstate(divide="ignore"):
        return np.maximum(10 * np.log10(total) + clutter, FAINTEST)
