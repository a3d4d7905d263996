"""Sprites of the novelties: fish and other animals, a diver, things that lie on the bottom, bubbles and a light.

Each painter draws one individual of its kind. Colours, proportions and patterns differ between individuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

LENGTH = 160  # columns of every sprite; its subject faces right


@dataclass(frozen=True)
class Sprite:
    """A picture with an opacity channel.

    Args:
        levels: `[h, w, 4]` float32, RGB in 0..255 already multiplied by the opacity, and the opacity in 0..1. Each level is half as
            large as the one before, so that a small sprite does not flicker.
        bend: amplitude of the tail's beat, as a share of the length.
        waves: number of waves along the body.
    """

    levels: tuple[Picture, ...]
    bend: float = 0.0
    waves: float = 0.6

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the largest picture."""
        return self.levels[0].shape[0], self.levels[0].shape[1]


def paint(kind: str, rng: np.random.Generator) -> Sprite:
    """Draw one individual of `kind`, a name in `PAINTERS`."""
    return PAINTERS[kind](rng)


def sprite(color: Picture, opacity: Picture, *, bend: float = 0.0, waves: float = 0.6) -> Sprite:
    """A sprite of a picture `[h, LENGTH, 3]` in 0..255 and its opacity `[h, LENGTH]` in 0..1."""
    opacity = np.clip(opacity, 0, 1).astype(np.float32)[..., None]
    levels = [np.concatenate([np.clip(color, 0, 255) * opacity, opacity], 2).astype(np.float32)]
    while min(levels[-1].shape[:2]) > 8 and len(levels) < 5:
        levels.append(cv2.pyrDown(levels[-1]))
    return Sprite(tuple(levels), bend, waves)


def _grid(rows: int) -> tuple[Picture, Picture]:
    """Coordinates x and y over the picture, in lengths: x from 0 (tail) to 1 (head), y below (+) or above (-) the middle."""
    y, x = np.mgrid[0:rows, 0:LENGTH].astype(np.float32)
    return x / (LENGTH - 1), (y - (rows - 1) / 2) / (LENGTH - 1)


def _inside(distance: NDArray[np.floating]) -> Picture:
    """Opacity of a shape whose inside is `distance` > 0, in lengths; its edge is one column wide."""
    return np.clip(distance * LENGTH + 0.5, 0, 1)


def _skin(rng: np.random.Generator, x: Picture, y: Picture, tall: float, colors: Picture, pattern: str) -> Picture:
    """Colours of an animal: dark above and light below, with bars, lines or spots."""
    light = np.clip(0.5 + y / max(tall, 0.05), 0, 1)[..., None]
    skin = colors[0] + light * (colors[1] - colors[0])
    if pattern == "bars":
        mark = np.sin(2 * np.pi * (x * rng.integers(3, 8) + rng.random())) > 0.3
    elif pattern == "lines":
        mark = np.sin(2 * np.pi * (y / max(tall, 0.05) * rng.integers(2, 4) + rng.random())) > 0.5
    elif pattern == "spots":
        blobs = cv2.resize(
            rng.standard_normal((8, 26)).astype(np.float32), x.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        mark = blobs > 0.7
    else:
        mark = np.abs(y) < 0.1 * tall
    skin = np.where(mark[..., None], 0.4 * skin + 0.6 * colors[2], skin)
    return (skin * (1 + 0.06 * rng.standard_normal(x.shape, np.float32))[..., None]).astype(np.float32)


def _colors(rng: np.random.Generator, *choices: tuple[tuple[int, int, int], ...]) -> Picture:
    chosen = np.array(choices[rng.integers(len(choices))], np.float32)
    return chosen * rng.uniform(0.85, 1.15, chosen.shape).astype(np.float32)


SILVERS = ((70, 80, 95), (215, 220, 225), (40, 50, 70)), ((85, 80, 60), (225, 215, 180), (50, 45, 30))
DARKS = ((25, 28, 30), (95, 95, 90), (15, 15, 20)), ((45, 35, 28), (130, 105, 80), (25, 20, 15))
BRIGHTS = ((230, 160, 30), (255, 225, 90), (40, 40, 60)), ((225, 90, 40), (250, 180, 120), (250, 245, 240))
STRANGE = ((40, 70, 190), (110, 160, 250), (250, 220, 60)), ((180, 40, 110), (240, 140, 180), (250, 250, 250))


def _fish(
    rng: np.random.Generator, tall: tuple[float, float], colors: Picture, patterns: tuple[str, ...], fork: float
) -> Sprite:
    height = rng.uniform(*tall)
    x, y = _grid(int(LENGTH * min(0.9, 1.9 * height)))
    along = np.clip((x - 0.16) / 0.84, 0, 1)
    front, back = rng.uniform(0.45, 0.7), rng.uniform(0.8, 1.2)
    profile = along**back * (1 - along) ** front
    half = 0.5 * height * profile / profile.max() + 0.018 * (along > 0) * (1 - along)
    body = _inside(np.where(x > 0.16, half - np.abs(y), -1))
    tail = _inside(np.minimum(0.3 * height + fork * (0.2 - x) - np.abs(y), np.abs(y) * fork * 0.6 + 0.2 - x)) * (
        x < 0.24
    )
    begin, end, fin = rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.78), rng.uniform(0.05, 0.3) * height
    back_fin = _inside(
        np.where((x > begin) & (x < end), half + fin * np.sqrt(np.clip((x - begin) / (end - begin), 0, 1)) + y, -1)
    )
    belly = _inside(np.where((x > 0.5) & (x < 0.62), half + 0.6 * fin - y, -1))
    fins = np.maximum(tail, np.maximum(back_fin * (y < 0), belly * (y > 0)))
    skin = _skin(rng, x, y, height, colors, str(rng.choice(patterns)))
    skin = np.where((body > 0.5)[..., None], skin, 0.5 * colors[0] + 0.5 * colors[2])
    eye = (x - 0.9) ** 2 + (y + 0.12 * height) ** 2
    skin = np.where((eye < 0.016**2)[..., None], np.float32(10), skin)
    return sprite(skin, np.maximum(body, 0.8 * fins), bend=rng.uniform(0.03, 0.07), waves=rng.uniform(0.5, 0.8))


def fish(rng: np.random.Generator) -> Sprite:
    """A slender swimmer, silver or dark."""
    return _fish(rng, (0.18, 0.32), _colors(rng, *SILVERS, *DARKS), ("plain", "lines", "spots"), rng.uniform(0.3, 0.8))


def reef_fish(rng: np.random.Generator) -> Sprite:
    """A tall fish with strong colours."""
    return _fish(rng, (0.42, 0.62), _colors(rng, *BRIGHTS, *STRANGE), ("bars", "lines", "plain"), rng.uniform(0.1, 0.4))


def eel(rng: np.random.Generator) -> Sprite:
    """A long body that swims in waves."""
    x, y = _grid(int(LENGTH * 0.42))
    half = rng.uniform(0.022, 0.036) * np.clip(x / 0.5, 0, 1) ** 0.6 * np.clip((1 - x) / 0.06, 0, 1) ** 0.5
    skin = _skin(rng, x, y, 0.08, _colors(rng, *DARKS, *SILVERS), str(rng.choice(["bars", "plain", "spots"])))
    return sprite(skin, _inside(half - np.abs(y)), bend=rng.uniform(0.06, 0.09), waves=rng.uniform(1.2, 1.8))


def ray(rng: np.random.Generator) -> Sprite:
    """A flat diamond with a thin tail, seen from above."""
    x, y = _grid(int(LENGTH * 0.84))
    wide = rng.uniform(0.32, 0.4)
    edge = np.where(x > 0.66, (1 - x) / 0.34, (x - 0.3) / 0.36)
    disc = _inside(wide * np.clip(edge, 0, 1) ** rng.uniform(0.8, 1.1) - np.abs(y)) * (x > 0.3)
    tail = _inside(0.008 - np.abs(y)) * (x < 0.36)
    skin = _skin(rng, x, y, 0.7, _colors(rng, *DARKS), "spots")
    return sprite(skin, np.maximum(disc, tail), bend=0.03, waves=0.5)


def turtle(rng: np.random.Generator) -> Sprite:
    """A shell with plates, a head and four flippers."""
    x, y = _grid(int(LENGTH * 0.9))
    tall = rng.uniform(0.24, 0.3)
    shell = _inside(0.3 * (1 - np.hypot((x - 0.45) / 0.32, y / tall)))
    head = _inside(0.08 * (1 - np.hypot((x - 0.87) / 0.1, y / 0.065)))
    flippers = np.zeros_like(x)
    for foot, reach, lean in ((0.66, 0.24, -0.5), (0.22, 0.14, -0.8)):
        for side in (-1, 1):
            along, across = side * y - 0.16, x - foot - lean * (side * y - 0.16)
            flippers = np.maximum(
                flippers, _inside(0.065 * (1 - np.hypot((along - reach / 2) / (reach * 0.6), across / 0.075)))
            )
    plates = (np.abs(np.sin(14 * x + 5 * y)) < 0.25) | (np.abs(np.sin(12 * y)) < 0.2)
    colors = _colors(rng, ((75, 70, 40), (150, 140, 90), (45, 40, 25)))
    skin = np.where(
        plates[..., None], colors[2], colors[0] + np.clip(0.5 - 2 * y, 0, 1)[..., None] * (colors[1] - colors[0])
    )
    skin = np.where((shell > 0.5)[..., None], skin, 0.6 * colors[1])
    return sprite(skin.astype(np.float32), np.maximum(shell, np.maximum(head, flippers)), bend=0.025, waves=0.4)


def squid(rng: np.random.Generator) -> Sprite:
    """A mantle with fins, and arms that trail behind it."""
    x, y = _grid(int(LENGTH * 0.44))
    mantle = _inside(0.095 * np.clip((1 - x) / 0.5, 0, 1) ** 0.6 - np.abs(y)) * (x > 0.42)
    fins = _inside(0.17 * (1 - np.abs(x - 0.84) / 0.14) - np.abs(y))
    arms = (
        _inside(0.013 - np.abs(np.abs(y) % 0.036 - 0.018))
        * (np.abs(y) < 0.075)
        * (x < 0.44)
        * (x > 0.4 * rng.random() * np.abs(y) / 0.075)
    )
    skin = _skin(rng, x, y, 0.2, _colors(rng, ((150, 70, 65), (235, 170, 155), (110, 40, 45))), "spots")
    return sprite(skin, np.maximum(mantle, np.maximum(0.8 * fins, 0.9 * arms)), bend=0.03, waves=0.7)


def jellyfish(rng: np.random.Generator) -> Sprite:
    """A bell that lets light through, with threads."""
    x, y = _grid(int(LENGTH * 0.5))
    bell = np.hypot((x - 0.68) / 0.3, y / 0.21)
    body = _inside(0.2 * (1 - bell)) * np.clip((x - 0.6) / 0.02, 0, 1)
    threads = (
        _inside(0.012 - np.abs((y + 0.012 * np.sin(25 * x)) % 0.07 - 0.035))
        * (np.abs(y) < 0.17)
        * (x < 0.62)
        * np.clip(x / 0.5, 0, 1)
    )
    colors = _colors(
        rng, ((235, 225, 240), (255, 250, 255), (190, 120, 180)), ((220, 180, 150), (250, 235, 220), (170, 80, 60))
    )
    skin = colors[0] + np.clip(bell, 0, 1)[..., None] * (colors[1] - colors[0])
    skin = np.where((np.sin(40 * y) > 0.6)[..., None], 0.5 * skin + 0.5 * colors[2], skin).astype(np.float32)
    return sprite(skin, np.maximum(body * (0.55 + 0.4 * np.clip(bell, 0, 1)), 0.6 * threads), bend=0.03, waves=0.9)


def diver(rng: np.random.Generator) -> Sprite:
    """A swimmer in a dark suit with a bottle, a mask and fins."""
    rows = int(LENGTH * 0.5)
    suit = _colors(rng, ((30, 30, 38),), ((40, 45, 60),))[0]
    bottle = _colors(rng, ((235, 200, 40),), ((190, 195, 200),), ((220, 80, 40),))[0]
    fins = _colors(rng, ((30, 80, 200),), ((240, 240, 60),), ((40, 40, 40),))[0]
    parts = [
        ((0.30, 0.06), (0.62, 0.0), 0.09, suit),
        ((0.14, 0.11), (0.32, 0.05), 0.055, suit),
        ((0.14, 0.0), (0.32, 0.03), 0.055, 0.8 * suit),
        ((0.01, 0.13), (0.12, 0.11), 0.04, fins),
        ((0.01, -0.04), (0.12, 0.0), 0.04, fins),
        ((0.60, 0.04), (0.78, rng.uniform(0.05, 0.16)), 0.035, suit),
        ((0.78, rng.uniform(0.05, 0.1)), (0.9, rng.uniform(0.0, 0.12)), 0.03, 0.9 * suit),
        ((0.40, -0.08), (0.62, -0.1), 0.06, bottle),
        ((0.70, -0.03), (0.72, -0.03), 0.085, np.array([190, 150, 125])),
        ((0.74, -0.04), (0.75, -0.03), 0.05, np.array([20, 25, 30])),
    ]
    return _strokes(rows, parts, bend=0.04, waves=0.45)


def anchor(rng: np.random.Generator) -> Sprite:
    """An iron anchor with a stock, a shank and two arms."""
    iron = _colors(rng, ((45, 42, 40),), ((110, 70, 45),))[0]
    parts = [
        ((0.1, 0.0), (0.9, 0.0), 0.06, iron),
        ((0.2, -0.25), (0.2, 0.25), 0.05, 0.85 * iron),
        ((0.06, 0.0), (0.07, 0.0), 0.11, iron),
    ]
    curve = np.linspace(-1, 1, 9)
    for one, two in pairwise(curve):
        ends = [(0.9 - 0.25 * abs(at) ** 1.7, 0.34 * at) for at in (one, two)]
        parts.append((ends[0], ends[1], 0.07 - 0.02 * abs(one), 1.1 * iron))
    parts += [((0.62, 0.34), (0.74, 0.26), 0.07, iron), ((0.62, -0.34), (0.74, -0.26), 0.07, iron)]
    return _strokes(int(LENGTH * 0.8), parts)


def _strokes(
    rows: int,
    parts: list[tuple[tuple[float, float], tuple[float, float], float, NDArray[np.floating]]],
    *,
    bend: float = 0.0,
    waves: float = 0.6,
) -> Sprite:
    """Draw thick lines with round ends between points, in lengths; later lines cover earlier ones."""
    x, y = _grid(rows)
    color, opacity = np.zeros((rows, LENGTH, 3), np.float32), np.zeros((rows, LENGTH), np.float32)
    for begin, end, thick, tone in parts:
        direction = np.subtract(end, begin)
        along = np.clip(
            ((x - begin[0]) * direction[0] + (y - begin[1]) * direction[1]) / (direction @ direction + 1e-9), 0, 1
        )
        distance = np.hypot(x - begin[0] - along * direction[0], y - begin[1] - along * direction[1])
        cover = _inside(thick / 2 - distance)
        shade = 1.15 - 0.5 * (y - begin[1] - along * direction[1] + thick / 2) / thick  # lit from above
        color = np.where((cover > 0)[..., None], np.asarray(tone) * shade[..., None], color).astype(np.float32)
        opacity = np.maximum(opacity, cover)
    return sprite(color, opacity, bend=bend, waves=waves)


def crate(rng: np.random.Generator) -> Sprite:
    """A wooden box with boards."""
    x, y = _grid(int(LENGTH * 0.8))
    half = rng.uniform(0.25, 0.36)
    boards = np.floor((y + 0.5) / rng.uniform(0.09, 0.15))
    wood = _colors(rng, ((150, 105, 60),), ((110, 90, 70),))[0] * (0.8 + 0.1 * (boards % 3))[..., None]
    wood *= (1 - 0.5 * (np.abs((y + 0.5) % 0.12) < 0.012))[..., None]
    frame = (np.abs(np.abs(x - 0.5) - 0.42) < 0.05) | (np.abs(np.abs(y) - half + 0.05) < 0.045)
    cross = np.abs(y - (x - 0.5) * half / 0.45) < 0.04
    wood = np.where((frame | cross)[..., None], 0.7 * wood + 30, wood)
    return sprite(wood.astype(np.float32), _inside(np.minimum(0.47 - np.abs(x - 0.5), half - np.abs(y))))


def tyre(rng: np.random.Generator) -> Sprite:
    """A black ring with a profile."""
    x, y = _grid(int(LENGTH * 0.98))
    away, around = np.hypot(x - 0.5, y), np.arctan2(y, x - 0.5)
    inner = rng.uniform(0.22, 0.28)
    shade = (
        30 + 45 * np.cos((away - inner) / (0.48 - inner) * np.pi - 1.2) + 12 * (np.sin(40 * around) > 0) * (away > 0.42)
    )
    color = np.repeat(shade[..., None], 3, 2) * rng.uniform(0.9, 1.1, 3) * rng.uniform(0.7, 1.4)
    return sprite(color.astype(np.float32), _inside(np.minimum(0.48 - away, away - inner)))


def pipe(rng: np.random.Generator) -> Sprite:
    """A straight tube with collars."""
    x, y = _grid(int(LENGTH * 0.26))
    thick = rng.uniform(0.06, 0.09)
    collar = (x * rng.integers(2, 4)) % 1 < 0.08
    half = thick + 0.02 * collar
    color = _colors(rng, ((180, 180, 175),), ((200, 90, 50),), ((60, 60, 62),))[0]
    shade = 0.45 + 0.75 * np.sqrt(np.clip(1 - ((y + 0.4 * thick) / (1.5 * thick)) ** 2, 0, 1))
    return sprite(
        (color * shade[..., None]).astype(np.float32), _inside(np.minimum(half - np.abs(y), 0.49 - np.abs(x - 0.5)))
    )


def amphora(rng: np.random.Generator) -> Sprite:
    """A clay jar with a neck and two handles."""
    x, y = _grid(int(LENGTH * 0.6))
    half = np.interp(
        x, (0.02, 0.1, 0.3, 0.5, 0.68, 0.76, 0.94, 0.95, 0.99), (0.01, 0.05, 0.16, 0.22, 0.17, 0.06, 0.05, 0.09, 0.09)
    )
    half = half * rng.uniform(0.85, 1.15)
    body = _inside(np.minimum(half - np.abs(y), 0.48 - np.abs(x - 0.5)))
    handles = _inside(0.014 - np.abs(np.hypot((x - 0.77) / 1.3, np.abs(y) - 0.09) - 0.065)) * (np.abs(y) > 0.08)
    clay = _colors(rng, ((190, 110, 70),), ((165, 130, 95),))[0]
    shade = 0.5 + 0.6 * np.sqrt(np.clip(1 - ((y + 0.05) / (half + 0.06)) ** 2, 0, 1))
    shade = shade * (1 - 0.2 * (np.abs(np.sin(60 * x)) < 0.15))
    return sprite((clay * shade[..., None]).astype(np.float32), np.maximum(body, handles))


def bubble(rng: np.random.Generator) -> Sprite:
    """A bright ring with a glint."""
    x, y = _grid(LENGTH)
    away = np.hypot(x - 0.5, y)
    glint = np.clip(1 - np.hypot(x - 0.36, y + 0.14) / 0.14, 0, 1)
    opacity = np.where(away < 0.46, 0.35 + 0.6 * (away / 0.46) ** 3, 0) + glint
    color = 175 + 80 * np.clip(glint + (away / 0.46) ** 2 * (y < 0.1), 0, 1)
    return sprite(np.repeat(color[..., None], 3, 2).astype(np.float32), opacity * _inside(0.47 - away))


def light(rng: np.random.Generator) -> Sprite:
    """A lamp in haze: a core and its glow."""
    x, y = _grid(LENGTH)
    away = np.hypot(x - 0.5, y)
    opacity = 0.8 * np.exp(-((away / 0.16) ** 2)) + np.clip(1.5 - away / 0.05, 0, 1)
    color = np.broadcast_to(_colors(rng, ((255, 250, 220),), ((225, 245, 255),))[0], (LENGTH, LENGTH, 3))
    return sprite(color.astype(np.float32), opacity * np.clip((0.5 - away) / 0.1, 0, 1))


PAINTERS: dict[str, Callable[[np.random.Generator], Sprite]] = {
    painter.__name__.replace("_", " "): painter
    for painter in (
        fish,
        reef_fish,
        eel,
        ray,
        turtle,
        squid,
        jellyfish,
        diver,
        anchor,
        crate,
        tyre,
        pipe,
        amphora,
        bubble,
        light,
    )
}
"""Painters by kind."""
