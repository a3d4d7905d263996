"""Masonry from close by: a few rough bricks or stones, with deep or shallow joints, smeared mortar, and deep gaps between them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.simulation.walls import Canvas, noise

Mask = NDArray[np.float32]


def near(rng: np.random.Generator, size: tuple[int, int], *, gap: bool) -> tuple[Canvas, Mask]:
    """A few bricks or stones of a wall, and the damaged share of each pixel.

    Args:
        size: rows and columns.
        gap: whether the wall has come apart: a deep, dark gap in joints, or through bricks.
    """
    side = 2 * max(size)
    height = float(np.exp(rng.uniform(np.log(45), np.log(260))))
    joint = height * rng.uniform(0.08, 0.45)
    width = height * rng.uniform(1.1, 3.6)
    solid, shades = _units(rng, side, height, width, joint)
    away = [
        rng.uniform(0.3, 2.5) * noise(rng, 5, solid.shape)
        + rng.uniform(0.3, 1.0) * 0.12 * joint * noise(rng, max(6, joint), solid.shape)
        for _ in range(2)
    ]
    hole = np.zeros_like(solid)
    if gap:
        hole = _open(rng, solid) if rng.random() < 0.3 else _apart(rng, side, height, width, joint)
    solid, shades, hole = (_moved(part, away) for part in (solid, shades, hole))
    turn = cv2.getRotationMatrix2D(
        (side / 2, side / 2), rng.normal(0, 5) + (90 if rng.random() < 0.2 else 0), rng.uniform(0.9, 1.3)
    )
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    solid, shades, hole = (
        cv2.warpAffine(part, turn, (side, side), borderMode=cv2.BORDER_REFLECT)[
            top : top + size[0], left : left + size[1]
        ]
        for part in (solid, shades, hole)
    )
    return _coloured(rng, solid, shades, np.clip(hole, 0, 1), joint)


def _units(rng: np.random.Generator, side: int, height: float, width: float, joint: float) -> tuple[Mask, Mask]:
    """Where bricks or stones are, and a shade of each, from -1 to 1."""
    solid, shades = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    uneven, y, row = rng.uniform(0, 0.25), -height * rng.uniform(0, 1), 0
    while y < side:
        high = height * (1 + uneven * rng.uniform(-1, 1))
        x = -width * (rng.uniform(0, 1) if uneven > 0.12 else 0.5 * (row % 2)) - width
        while x < side:
            wide = width * (1 + uneven * rng.uniform(-1, 1))
            worn = rng.uniform(-0.15, 0.15, 4) * joint
            corners = np.array([[x, y], [x + wide, y], [x + wide, y + high], [x, y + high]], np.float32)
            corners += np.array([worn[:2], worn[1:3], worn[2:], worn[[3, 0]]], np.float32)
            points = [(corners * 16).astype(np.int32)]
            cv2.fillPoly(solid, points, 1.0, cv2.LINE_AA, 4)
            cv2.fillPoly(shades, points, float(rng.uniform(-1, 1)), cv2.LINE_AA, 4)
            x += wide + joint
        y, row = y + high + joint, row + 1
    return solid, shades


def _apart(rng: np.random.Generator, side: int, height: float, width: float, joint: float) -> Mask:
    """A gap: down through joints and bricks, or along joints, wider here and narrower there."""
    hole = np.zeros((side, side), np.float32)
    wide = float(np.clip(joint * rng.uniform(0.4, 1.3), 6, 70))
    middle = side / 2 + rng.uniform(-0.2, 0.2) * side
    lines, kind = [], rng.random()
    if kind < 0.6:  # down
        step, drift = rng.uniform(8, 40), rng.uniform(0, 0.5)
        across = middle + np.cumsum(rng.normal(0, drift * step, int(side / step) + 2))
        lines.append(np.stack([across, step * np.arange(len(across))], 1))
    elif kind < 0.8:  # in steps
        x, y, stairs = middle - side / 2, rng.uniform(0, side / 2), []
        while y < side and x < side:
            stairs += [[x, y], [x, y + height + joint]]
            x, y = x + rng.choice([0.5, 1.0]) * (width + joint), y + height + joint
            stairs.append([x, y])
        lines.append(np.array(stairs))
    else:  # across
        lines.append(np.array([[0, middle + rng.normal(0, 8)], [side, middle + rng.normal(0, 8)]]))
    for points in lines:
        grown = np.linspace(0, 1, 1 + len(points) * 8)
        fine = np.stack([np.interp(grown, np.linspace(0, 1, len(points)), points[:, n]) for n in (0, 1)], 1)
        jitter = cv2.GaussianBlur(rng.uniform(0.3, 1.7, (len(fine), 1)).astype(np.float32), (1, 9), 0)[:, 0]
        taper = np.interp(np.linspace(0, 1, len(fine)), np.linspace(0, 1, 4), rng.uniform(0.3, 1.2, 4))
        for a, b, w in zip(fine[:-1], fine[1:], wide * jitter * taper, strict=False):
            cv2.line(hole, (a * 16).astype(int).tolist(), (b * 16).astype(int).tolist(), 1.0, max(1, round(w)), 8, 4)
    return hole


def _open(rng: np.random.Generator, solid: Mask) -> Mask:
    """Joints without mortar, about the middle."""
    side = len(solid)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    middle = side / 2 + rng.uniform(-0.12, 0.12, 2) * side
    away = np.hypot(y - middle[0], x - middle[1]) / side + 0.05 * noise(rng, 40, solid.shape)
    return np.asarray((1 - solid) * (away < rng.uniform(0.12, 0.3)), np.float32)


def _moved(part: Mask, away: list[Canvas]) -> Mask:
    """A part of the wall whose edges are no longer straight."""
    y, x = np.mgrid[0 : part.shape[0], 0 : part.shape[1]].astype(np.float32)
    at = x + away[0], y + away[1]
    return np.asarray(
        cv2.remap(part, at[0].astype(np.float32), at[1].astype(np.float32), 1, borderMode=cv2.BORDER_REFLECT)
    )


def _coloured(rng: np.random.Generator, solid: Mask, shades: Mask, hole: Mask, joint: float) -> tuple[Canvas, Mask]:
    """The wall in its colours, with grain, shadows and what is seen in the gap."""
    size = solid.shape[0], solid.shape[1]
    base = rng.uniform(60, 210) + rng.normal(0, 6, 3)
    if rng.random() < 0.65:  # fired clay
        base = rng.uniform(70, 225) * np.array([1, rng.uniform(0.4, 0.85), rng.uniform(0.25, 0.75)])
    pale = rng.random() < 0.65
    mortar = (rng.uniform(120, 235) if pale else base.mean() * rng.uniform(0.4, 1.1)) + rng.normal(0, 5, 3)
    hue = rng.normal(0, 6, 3)
    brick = base + shades[..., None] * (rng.uniform(0, 30) + hue) + _grain(rng, size, rng.uniform(0.1, 1))[..., None]
    if rng.random() < 0.4:  # burnt or stained parts
        burnt = np.clip(noise(rng, rng.uniform(12, 60), size) - rng.uniform(0, 1), 0, 1)[..., None]
        brick = brick * (1 - burnt * rng.uniform(0.2, 0.7))
    between = mortar + _grain(rng, size, rng.uniform(0.2, 1.3))[..., None]
    lie = solid
    if rng.random() < 0.5:  # mortar on the faces of bricks
        close = 1 - cv2.GaussianBlur(solid, (0, 0), rng.uniform(0.2, 0.9) * joint)
        smear = noise(rng, rng.uniform(4, 16), size) * 0.35 + close > rng.uniform(0.5, 0.8)
        lie = solid * (1 - cv2.GaussianBlur(smear.astype(np.float32), (0, 0), 0.8) * rng.uniform(0.4, 1))
    lie = cv2.GaussianBlur(lie, (0, 0), rng.uniform(0.5, 1.6))[..., None]
    out = lie * brick + (1 - lie) * between
    light, deep = rng.uniform(0, 2 * np.pi), rng.uniform(1, max(2.0, 0.18 * joint))
    step = round(deep * np.sin(light)), round(deep * np.cos(light))
    rim = cv2.GaussianBlur(solid - np.roll(solid, step, (0, 1)), (0, 0), 0.5 * deep)[..., None]
    sign = 1 if rng.random() < 0.75 else -0.6  # deep joints, or proud mortar
    out = out * (1 + np.clip(sign * rim, -1, 0) * rng.uniform(0.1, 0.85)) + 40 * rng.random() * np.clip(
        sign * rim, 0, 1
    )
    if not hole.any():
        return np.asarray(out, np.float32), np.zeros(size, np.float32)
    soft = cv2.GaussianBlur(hole, (0, 0), rng.uniform(0.6, 2.0))[..., None]
    inside = out.mean((0, 1)) * rng.uniform(0.02, 0.25) * (1 + 0.3 * noise(rng, 12, size)[..., None])
    shade = cv2.GaussianBlur(np.roll(hole, (step[0] * 2, step[1] * 2), (0, 1)), (0, 0), 2 + deep)[..., None]
    out = out * (1 - rng.uniform(0, 0.6) * shade)
    return np.asarray(out * (1 - soft) + soft * inside, np.float32), np.asarray(soft[..., 0], np.float32)


def _grain(rng: np.random.Generator, size: tuple[int, int], rough: float) -> Canvas:
    """The rough surface of a brick or of mortar in light from one side, with pits and grains."""
    light = int(rng.integers(-1, 2)), 1
    out = np.zeros(size, np.float32)
    for scale, strength in ((1.3, 14), (2.5, 16), (5, 18), (11, 20), (25, 20)):
        bumps = noise(rng, scale, size)
        out += rough * rng.uniform(0, strength) * (bumps - np.roll(bumps, light, (0, 1))) + rng.uniform(0, 5) * bumps
    if rng.random() < 0.5:
        out -= rng.uniform(10, 60) * cv2.GaussianBlur(
            (noise(rng, rng.uniform(2.5, 6), size) > rng.uniform(1.4, 2.5)).astype(np.float32), (0, 0), 0.7
        )
    if rng.random() < 0.3:  # drag marks
        marks = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 12, sigmaY=0.8)
        out += rng.uniform(20, 120) * marks * rough
    return out
