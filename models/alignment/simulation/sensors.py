"""What kinds of camera make of a scene: intensity maps, regions with a gain of their own, soft lenses, noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]


@dataclass(frozen=True)
class Sensor:
    """A kind of camera.

    Args:
        mixes: whether the bands are mixed by chance; otherwise by their mean.
        map: of brightness to brightness: "same", "monotone", "inverted" or "any", which goes up and down.
        regions: whether each region of like brightness gets a gain and an offset of its own, as emissivity does.
        light: strength of a smooth change of gain and offset over the frame, 0 to 1.
        soft: largest deviation of the lens's blur, pixels.
        flat: whether small texture may be lost while outlines stay.
        noise: largest deviation of the noise, levels.
    """

    mixes: bool = False
    map: str = "same"
    regions: bool = False
    light: float = 0.0
    soft: float = 0.0
    flat: bool = False
    noise: float = 4.0


SENSORS = {
    "same": Sensor(light=0.2, soft=0.5),
    "light": Sensor(map="monotone", light=1.0, soft=1.0, noise=8.0),
    "inverted": Sensor(mixes=True, map="inverted", light=0.6, soft=1.2, noise=6.0),
    "any": Sensor(mixes=True, map="any", light=0.6, soft=1.2, noise=6.0),
    "heat": Sensor(mixes=True, map="any", regions=True, light=0.8, soft=2.0, flat=True, noise=8.0),
}
"""The gap between two cameras, by what the second one is."""


def seen(bands: Picture, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey frame `[H, W]` of a camera, from the bands `[H, W, C]` in its view."""
    weights = (
        rng.dirichlet(np.full(bands.shape[2], 0.5)) if sensor.mixes else np.full(bands.shape[2], 1 / bands.shape[2])
    )
    if sensor.mixes and rng.random() < 0.3:  # a difference of bands
        weights *= rng.choice([-1.0, 1.0], len(weights))
    shade = _stretched(bands @ weights.astype(np.float32))
    if sensor.flat and rng.random() < 0.6:
        shade = cv2.medianBlur((255 * shade).astype(np.uint8), int(rng.choice([3, 5, 7]))).astype(np.float32) / 255
    if sensor.regions and rng.random() < 0.7:
        shade = _remapped(shade, rng)
    shade = _mapped(shade, sensor.map, rng)
    if sensor.light:
        strength = sensor.light * rng.uniform(0, 1)
        shade = shade * (1 + 0.6 * strength * _smooth(shade.shape, rng)) + 0.35 * strength * _smooth(shade.shape, rng)
    if sensor.flat and rng.random() < 0.3:  # outlines that are brighter or darker than what they bound
        wide = cv2.GaussianBlur(shade, (0, 0), rng.uniform(1.5, 4))
        shade = shade + rng.uniform(-1, 1.5) * (shade - wide)
    if sensor.soft and (blur := rng.uniform(0, sensor.soft)) > 0.3:
        shade = cv2.GaussianBlur(shade, (0, 0), blur)
    shade = _stretched(shade)
    low, high = rng.uniform(0, 60), rng.uniform(150, 255)
    noise = rng.standard_normal(shade.shape, np.float32) * np.float32(rng.uniform(0.5, sensor.noise))
    if sensor.flat and rng.random() < 0.3:  # columns with an offset of their own
        noise += rng.standard_normal(shade.shape[1:], np.float32) * np.float32(rng.uniform(0, 0.5 * sensor.noise))
    return np.clip(low + (high - low) * shade + noise, 0, 255).astype(np.uint8)


def _stretched(shade: Picture) -> Picture:
    """From 0 to 1, but for the outermost hundredths."""
    low, high = np.quantile(shade[::3, ::3], [0.01, 0.99])
    return np.asarray(np.clip((shade - low) / max(float(high - low), 1e-3), -0.1, 1.1), np.float32)


def _mapped(shade: Picture, kind: str, rng: np.random.Generator) -> Picture:
    if kind == "same":
        return shade
    knots = np.linspace(0, 1, int(rng.integers(4, 8)))
    rising = np.cumsum(rng.dirichlet(np.ones(len(knots))))
    if kind == "any" and rng.random() < 0.6:
        values = rng.uniform(0, 1, len(knots))
    else:
        values = 1 - rising if kind == "inverted" or (kind == "any" and rng.random() < 0.5) else rising
    table = np.interp(np.linspace(0, 1, 256), knots, values).astype(np.float32)
    table = cv2.GaussianBlur(table[None], (0, 0), 8)[0]
    return table[(np.clip(shade, 0, 1) * 255).astype(np.uint8)]


def _remapped(shade: Picture, rng: np.random.Generator) -> Picture:
    """Give each range of brightness a gain and an offset of its own; the ranges are those of a smoothed frame."""
    smooth = cv2.GaussianBlur(cv2.medianBlur((np.clip(shade, 0, 1) * 255).astype(np.uint8), 5), (0, 0), 1.0)
    cuts = np.sort(rng.uniform(20, 235, int(rng.integers(2, 6))))
    label = np.digitize(smooth, cuts)
    gain = rng.uniform(-0.6, 0.6, len(cuts) + 1).astype(np.float32)[label]
    offset = rng.uniform(0, 1, len(cuts) + 1).astype(np.float32)[label]
    return np.asarray(
        cv2.GaussianBlur(offset + gain * (shade - smooth.astype(np.float32) / 255), (0, 0), 0.7), np.float32
    )


def _smooth(size: tuple[int, ...], rng: np.random.Generator) -> Picture:
    """A smooth field from about -1 to 1."""
    coarse = rng.uniform(-1, 1, (int(rng.integers(2, 5)), int(rng.integers(2, 5)))).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC), np.float32)
