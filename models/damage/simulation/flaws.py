"""Damage drawn over a wall, each with the share of every pixel that it covers; and what only looks like damage."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.simulation.walls import Canvas, noise

Mask = NDArray[np.float32]
"""`[H, W]`, 0 to 1: the share of a pixel that is damaged."""
Flaw = Callable[[np.random.Generator, Canvas, float], tuple[Canvas, Mask]]
"""A generator, a wall and a size (1: usual for a picture of 224 x 224) -> the damaged wall, and where it is damaged."""


def _path(rng: np.random.Generator, size: tuple[int, int], long: float, straight: bool = False) -> NDArray[np.float32]:
    """The points of a line that wanders, [N, 2]; half of the lines begin at an edge."""
    rows, columns = size
    point = rng.uniform((0, 0), (columns, rows)) if rng.random() < 0.5 else np.array([rng.uniform(0, columns), -4.0])
    if point[1] < 0 and rng.random() < 0.5:
        point = np.array([-4.0, rng.uniform(0, rows)])
    heading = np.arctan2(rows / 2 - point[1], columns / 2 - point[0]) + rng.normal(0, 0.6)
    steps = rng.random() < 0.25  # along joints: across, then down
    turn, wander, step, points = heading, rng.uniform(0.1, 0.7), rng.uniform(3, 9), [point.copy()]
    for _ in range(max(4, int(long / step))):
        if steps and rng.random() < 0.15:
            turn = heading + rng.choice([-0.8, 0.8])
        elif not straight:
            turn = (turn if steps else heading + 0.7 * (turn - heading)) + rng.normal(0, wander * (0.3 if steps else 1))
        point = point + step * np.array([np.cos(turn), np.sin(turn)])
        points.append(point.copy())
    return np.array(points, np.float32)


def _stroke(mask: Mask, points: NDArray[np.float32], widths: NDArray[np.float32]) -> None:
    """Draw a line of changing width, anti-aliased, into a mask of twice the size."""
    for a, b, width in zip(points[:-1], points[1:], widths, strict=False):
        ends = [(int(v[0] * 32), int(v[1] * 32)) for v in (a, b)]
        cv2.line(mask, ends[0], ends[1], 1.0, max(1, round(2 * float(width))), cv2.LINE_AA, 4)


def crack(rng: np.random.Generator, image: Canvas, scale: float = 1.0) -> tuple[Canvas, Mask]:
    """A dark crack with branches; its edge may be chipped, and lit on one side."""
    size = image.shape[0], image.shape[1]
    widths = [rng.uniform(0.8, 2), rng.uniform(1.5, 5), rng.uniform(4, 14)]
    width = scale * widths[int(rng.choice(3, p=[0.35, 0.4, 0.25]))]
    trunk = _path(rng, size, scale * rng.uniform(80, 360))
    lines = [(trunk, width)]
    for _ in range(int(rng.integers(0, 4))):
        branch = _path(rng, size, scale * rng.uniform(30, 160))
        lines.append((branch - branch[0] + trunk[rng.integers(len(trunk))], width * rng.uniform(0.4, 0.8)))
    mask = np.zeros((2 * size[0], 2 * size[1]), np.float32)
    for points, wide in lines:
        jitter = cv2.GaussianBlur(rng.uniform(0.3, 1.7, (len(points), 1)).astype(np.float32), (1, 5), 0)[:, 0]
        taper = np.minimum(1, np.linspace(rng.uniform(0.8, 4), rng.uniform(0.2, 4), len(points)))
        _stroke(mask, points, (wide * jitter * taper).astype(np.float32))
    ragged = rng.uniform(0, 1.5) * noise(rng, rng.uniform(2, 6), mask.shape)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 1.6) * max(1.0, width / 4))
    mask = np.clip(mask * (1 + 0.4 * ragged * (mask < 0.9)), 0, 1).astype(np.float32)
    mask = np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA), np.float32)
    mean = image.mean((0, 1))
    dark = mean * rng.uniform(0.03, 0.5) + rng.normal(0, 4, 3)
    alpha = np.clip(mask * rng.uniform(0.65, 1.1), 0, 1)[..., None]
    out = image * (1 - alpha) + alpha * (dark + 5 * noise(rng, 3, size)[..., None])
    if rng.random() < 0.5:  # one edge catches the light
        step = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
        out = out + np.clip(np.roll(mask, step, (0, 1)) - mask, 0, 1)[..., None] * rng.uniform(10, 70)
    if rng.random() < 0.3:  # chipped edges: pale grains along the crack
        near = np.clip(cv2.GaussianBlur(mask, (0, 0), 2 + width) * 3 - 2 * mask, 0, 1)
        grains = (noise(rng, 2.5, size) > 0.8).astype(np.float32) * near
        out = out + cv2.GaussianBlur(grains, (0, 0), 0.6)[..., None] * rng.uniform(-40, 90)
    return np.asarray(out, np.float32), mask


def _blob(rng: np.random.Generator, size: tuple[int, int], share: float, rough: float) -> Mask:
    """A ragged region that covers about `share` of the picture, often at an edge of it."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    middle = rng.uniform(-0.05, 1.05, 2) * size
    across = np.sqrt(share * size[0] * size[1] / np.pi)
    stretch = rng.uniform(0.6, 1.7)
    distance = np.hypot((y - middle[0]) * stretch, (x - middle[1]) / stretch) / across
    field = (
        distance + rough * noise(rng, max(4, 0.5 * across), size) + 0.4 * rough * noise(rng, max(3, 0.1 * across), size)
    )
    return cv2.GaussianBlur((field < 1).astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))


def spalling(rng: np.random.Generator, image: Canvas, scale: float = 1.0) -> tuple[Canvas, Mask]:
    """The surface has come off: a ragged hollow of another shade, rougher inside, with a shaded and a lit rim."""
    size = image.shape[0], image.shape[1]
    share = np.clip(scale**2 * rng.uniform(0.04, 0.5) * 224**2 / (size[0] * size[1]), 0, 0.7)
    mask = _blob(rng, size, float(share), rng.uniform(0.15, 0.5))
    inside = image * rng.uniform(0.5, 1.15) + rng.normal(0, 14, 3)
    if rng.random() < 0.5:  # another material shows
        inside = 0.4 * inside + 0.6 * (image.mean((0, 1)) * rng.uniform(0.4, 1.3) + rng.normal(0, 20, 3))
    inside = np.asarray(inside, np.float32)
    for grain in (2.0, 4.0, 9.0, 20.0):
        bumps = noise(rng, grain * max(scale, 0.5), size)
        relief = bumps - np.roll(bumps, (1, 1), (0, 1))
        inside = inside + rng.uniform(2, 22) * relief[..., None] + rng.uniform(0, 9) * bumps[..., None]
    out = image * (1 - mask[..., None]) + inside * mask[..., None]
    wide = max(1, round(scale * rng.uniform(1, 5)))
    light = rng.uniform(0, 2 * np.pi)
    step = round(wide * np.sin(light)), round(wide * np.cos(light))
    rim = cv2.GaussianBlur(mask - np.roll(mask, step, (0, 1)), (0, 0), 0.6 * wide)
    out = (
        out - rng.uniform(20, 110) * np.clip(rim, 0, 1)[..., None] + rng.uniform(0, 45) * np.clip(-rim, 0, 1)[..., None]
    )
    return np.asarray(out, np.float32), mask


def efflorescence(rng: np.random.Generator, image: Canvas, scale: float = 1.0) -> tuple[Canvas, Mask]:
    """Salt: pale, powdery patches and crusts, bands and runs, with blistered grain."""
    size = image.shape[0], image.shape[1]
    share = np.clip(scale**2 * rng.uniform(0.08, 0.7) * 224**2 / (size[0] * size[1]), 0, 0.8)
    where = cv2.GaussianBlur(_blob(rng, size, float(share), rng.uniform(0.3, 0.8)), (0, 0), scale * rng.uniform(1, 14))
    if rng.random() < 0.3:  # a band of rising damp
        level = size[0] * rng.uniform(0.2, 0.9) + 12 * scale * noise(rng, 30 * scale, size)
        y = np.arange(size[0], dtype=np.float32)[:, None]
        where = np.exp(-(((y - level) / (scale * rng.uniform(8, 40))) ** 2)).astype(np.float32)
    powder = np.mean([2 * noise(rng, g * max(scale, 0.5), size) for g in (1.5, 4.0, 10.0, 25.0)], 0)
    alpha = np.clip(where * (rng.uniform(0.2, 0.9) + rng.uniform(0.2, 0.6) * powder), 0, 1)
    salt = np.clip(rng.uniform(165, 250) + rng.normal(0, 7, 3), 120, 255)
    bumps = noise(rng, scale * rng.uniform(2, 7), size)
    relief = (bumps - np.roll(bumps, (1, 1), (0, 1))) * rng.uniform(0, 40)
    brightness = float(image.mean())
    salt = np.minimum(salt, max(150.0, 2.4 * brightness)) if rng.random() < 0.7 else salt
    out = image * (1 - alpha[..., None]) + alpha[..., None] * (salt + relief[..., None] + 6 * powder[..., None])
    return np.asarray(out, np.float32), np.asarray(np.clip(1.5 * alpha, 0, 1), np.float32)


FLAWS: dict[str, Flaw] = {"crack": crack, "spalling": spalling, "efflorescence": efflorescence}
"""How each class is drawn."""


def distraction(rng: np.random.Generator, image: Canvas) -> Canvas:
    """Something harmless: the edge of a shadow, a cable, a soft stain, a scratch, a joint, or a fixture."""
    size = image.shape[0], image.shape[1]
    mean, kind = image.mean((0, 1)), rng.random()
    if kind < 0.3:
        mask = np.zeros(size, np.float32)
        corners = rng.integers(-50, max(size) + 50, (int(rng.integers(3, 6)), 2)).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1.0)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.8, 6))
        return np.asarray(image * (1 - rng.uniform(0.2, 0.6) * mask[..., None]), np.float32)
    if kind < 0.5:
        line = (_path(rng, size, 2.0 * max(size), straight=True) * 16).astype(np.int32)
        colour, wide = (mean * rng.uniform(0.15, 1.6)).tolist(), int(rng.integers(1, 7))
        return np.asarray(cv2.polylines(image.copy(), [line], False, colour, wide, cv2.LINE_AA, 4), np.float32)
    if kind < 0.65:
        stain = (noise(rng, rng.uniform(15, 60), size) > rng.uniform(0.3, 1.2)).astype(np.float32)
        stain = cv2.GaussianBlur(stain, (0, 0), rng.uniform(2, 10))
        return np.asarray(image + stain[..., None] * rng.uniform(-50, 25), np.float32)
    if kind < 0.75:
        line = (_path(rng, size, rng.uniform(40, 250)) * 16).astype(np.int32)
        colour = np.clip(mean + rng.uniform(20, 60), 0, 255).tolist()
        return np.asarray(cv2.polylines(image.copy(), [line], False, colour, 1, cv2.LINE_AA, 4), np.float32)
    if kind < 0.9:  # straight joints between slabs
        out, colour, wide = image.copy(), (mean * rng.uniform(0.1, 1.3)).tolist(), int(rng.integers(1, 9))
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(0, min(size)))
            ends = [(0, at), (size[1], at)] if rng.random() < 0.5 else [(at, 0), (at, size[0])]
            cv2.line(out, ends[0], ends[1], colour, wide, cv2.LINE_AA)
        return out
    out = image.copy()
    corner = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
    end = corner[0] + int(rng.integers(8, 60)), corner[1] + int(rng.integers(8, 60))
    cv2.rectangle(out, corner, end, rng.uniform(5, 250, 3).tolist(), -1 if rng.random() < 0.7 else 2, cv2.LINE_AA)
    return out
