"""Things that hands touch, as solids with painted faces, in centimetres.

Turned things (cups, cans, bottles, balls, tools) are solids of revolution; the others are boxes. A thing's own frame has its origin
at the middle of its foot, with z up. A turned thing that lies has its axis along x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Color = tuple[int, int, int]

AROUND = 16
"""Faces around a turned thing."""
FINE = 4
"""Fractional bits of pixel coordinates in drawing."""


class Kind(NamedTuple):
    """Properties that things of a kind share.

    Args:
        size: bounds of the radius and the height (turned), or of half width, half depth and height (box), cm.
        colors: base colours to choose from.
        pattern: a name in `PATTERNS`.
        profile: (share of the height, share of the radius) from the foot up; empty for a box.
        lies: whether the axis is level.
    """

    size: tuple[tuple[float, float], ...]
    colors: tuple[Color, ...]
    pattern: str
    profile: tuple[tuple[float, float], ...] = ()
    lies: bool = False


_BALL = tuple((float((1 - np.cos(a)) / 2), float(max(np.sin(a), 0.05))) for a in np.linspace(0.1, np.pi - 0.1, 9))
_CAN = ((0, 0.9), (0.04, 1), (0.95, 1), (1, 0.9))
_CUP = ((0, 0.75), (0.3, 0.9), (1, 1))
_BOTTLE = ((0, 0.95), (0.05, 1), (0.6, 1), (0.78, 0.42), (0.9, 0.38), (0.9, 0.46), (1, 0.46))
_DRIVER = ((0, 0.7), (0.05, 1), (0.4, 0.85), (0.46, 0.95), (0.48, 0.25), (0.97, 0.25), (1, 0.1))
_PEAR = ((0, 0.3), (0.06, 0.75), (0.2, 1), (0.4, 0.98), (0.65, 0.62), (0.88, 0.42), (1, 0.12))
_TORCH = ((0, 0.65), (0.03, 0.7), (0.66, 0.7), (0.78, 1), (1, 1))
_SPRAY = ((0, 0.95), (0.04, 1), (0.78, 1), (0.84, 0.7), (0.86, 0.85), (1, 0.8))
_BOWL = ((0, 0.5), (0.15, 0.62), (0.5, 0.88), (1, 1))
_JAR = ((0, 0.9), (0.06, 1), (0.72, 1), (0.78, 0.88), (0.79, 0.95), (1, 0.95))
_MARKER = ((0, 0.8), (0.04, 1), (0.68, 1), (0.7, 1.1), (0.98, 1.05), (1, 0.5))

KINDS: dict[str, Kind] = {
    "cup": Kind(((3.2, 4.2), (7.5, 10)), ((235, 232, 225), (70, 110, 160), (190, 80, 60)), "rim", _CUP),
    "can": Kind(((3.0, 3.5), (9, 12.5)), ((200, 40, 45), (40, 90, 60), (210, 160, 40)), "label", _CAN),
    "bottle": Kind(((3.0, 3.8), (14, 18)), ((60, 130, 90), (120, 75, 40), (170, 200, 215)), "label", _BOTTLE),
    "ball": Kind(((2.8, 3.6), (5.6, 7.2)), ((220, 210, 60), (225, 110, 50), (60, 120, 200)), "wedges", _BALL),
    "screwdriver": Kind(((1.4, 1.8), (18, 23)), ((220, 60, 40), (40, 70, 150), (240, 190, 30)), "shaft", _DRIVER, True),
    "carton": Kind(((2.6, 3.6), (2.6, 5.5), (5, 15)), ((205, 175, 125), (235, 235, 230), (90, 150, 200)), "label"),
    "book": Kind(((3.1, 3.9), (7, 9), (1.6, 3.2)), ((130, 35, 45), (30, 60, 95), (225, 205, 150)), "cover"),
    "phone": Kind(((3.3, 3.7), (7.2, 8.0), (1.0, 1.3)), ((28, 28, 32), (220, 220, 225)), "screen"),
    "jar": Kind(((3.0, 4.0), (7, 11)), ((225, 190, 150), (150, 50, 40), (235, 235, 235)), "lid", _JAR),
    "marker": Kind(((1.1, 1.3), (13, 15)), ((30, 30, 30), (40, 120, 70), (235, 235, 235)), "cap", _MARKER, True),
    "remote": Kind(((2.3, 2.8), (8, 10), (1.6, 2.2)), ((45, 45, 50), (200, 200, 205)), "keys"),
    "bowl": Kind(((3.7, 4.6), (4, 6)), ((245, 240, 232), (120, 160, 150), (170, 120, 80)), "rings", _BOWL),
    "spray": Kind(((2.6, 3.3), (13, 17)), ((250, 250, 250), (60, 180, 190), (150, 90, 170)), "zigzag", _SPRAY),
    "torch": Kind(((2.0, 2.6), (14, 19)), ((35, 35, 38), (160, 165, 170), (180, 30, 35)), "knurled", _TORCH, True),
    "pear": Kind(((3.2, 3.9), (7.5, 9.5)), ((185, 195, 70), (165, 150, 50), (200, 120, 70)), "speckled", _PEAR),
    "cube": Kind(((2.7, 3.1), (2.7, 3.1), (5.4, 6.2)), ((35, 35, 35), (240, 240, 240)), "tiles"),
    "soap": Kind(((2.6, 3.1), (3.8, 4.6), (2.2, 3.2)), ((245, 205, 215), (190, 225, 200), (235, 230, 190)), "waves"),
    "cassette": Kind(((3.2, 4.0), (5.2, 6.2), (1.6, 2.2)), ((60, 60, 66), (210, 200, 180), (150, 60, 60)), "reels"),
}
"""Kinds of things by name."""


@dataclass(frozen=True)
class Thing:
    """One thing.

    Args:
        kind: a name in `KINDS`.
        half: half width and half depth of its foot as it stands or lies, cm.
        height: cm.
        radii: radii of a turned thing at evenly spaced points along its axis, cm; empty for a box.
        lies: whether the axis is along x.
        vertices: `[V, 3]`.
        faces: `[F, 4]`, indices of vertices, counterclockwise from outside.
        colors: `[F, 3]` RGB.
    """

    kind: str
    half: tuple[float, float]
    height: float
    radii: Array
    lies: bool
    vertices: Array
    faces: NDArray[np.int64]
    colors: Array

    @property
    def round(self) -> bool:
        """Whether it can be grasped from any side."""
        return len(self.radii) > 0 and not self.lies

    @property
    def handle(self) -> float:
        """Where a hand takes it along its longer side, cm from the middle."""
        return -0.25 * 2 * self.half[0] if self.lies else 0.0

    def section(self, along: float, z: float) -> tuple[float, float]:
        """Its width at height `z` and its top, both at `along` from the middle of its longer side, all in cm."""
        if not len(self.radii):
            return 2 * min(self.half), self.height
        if not self.lies:
            return 2 * float(self._radius(np.array(z - self.height / 2))), self.height
        radius = float(self._radius(np.array(along)))
        return float(2 * np.sqrt(max(radius**2 - (z - self.height / 2) ** 2, 0.04))), self.height / 2 + radius

    def _radius(self, along: Array) -> Array:
        """Radius of a turned thing at `along` on its axis, from the middle."""
        length = 2 * self.half[0] if self.lies else self.height
        return np.interp(along / length + 0.5, np.linspace(0, 1, len(self.radii)), self.radii)

    def gap(self, points: Array, place: Array, turn: Array) -> Array:
        """Signed distance of points from the surface, `[T, N]` cm, negative inside.

        For a turned thing it is an upper bound where the profile slants.

        Args:
            points: `[T, N, 3]`.
            place: `[T, 3]`, position of the origin.
            turn: `[T, 3, 3]`, rotation from the thing's frame to the world's.
        """
        local = np.einsum("tnj,tji->tni", points - place[:, None], turn) - [0, 0, self.height / 2]
        if not len(self.radii):
            away = np.abs(local) - [*self.half, self.height / 2]
            return np.linalg.norm(np.maximum(away, 0), axis=-1) + np.minimum(away.max(-1), 0)
        along, off = (local[..., 0], local[..., 1:]) if self.lies else (local[..., 2], local[..., :2])
        length = 2 * self.half[0] if self.lies else self.height
        away = np.stack([np.linalg.norm(off, axis=-1) - self._radius(along), np.abs(along) - length / 2], -1)
        return np.linalg.norm(np.maximum(away, 0), axis=-1) + np.minimum(away.max(-1), 0)

    @cached_property
    def normals(self) -> Array:
        """Outward unit vectors `[F, 3]`."""
        corners = self.vertices[self.faces]
        normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    def draw(self, picture: NDArray[np.uint8], corners: Array, depths: Array, turn: Array, light: Array) -> None:
        """Paint the thing into a picture.

        Args:
            picture: `[H, W, 3]` uint8, modified in place.
            corners: `[V, 2]`, projected vertices, pixels.
            depths: `[V]`, depths of the vertices, cm.
            turn: `[3, 3]`, rotation from its frame to the world's.
            light: `[3]`, unit vector towards the lamp.
        """
        spots = corners[self.faces]
        one, two = spots[:, 2] - spots[:, 0], spots[:, 3] - spots[:, 1]
        visible = np.flatnonzero(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] < 0)
        visible = visible[np.argsort(-depths[self.faces[visible]].mean(1))]
        bright = 0.55 + 0.55 * np.clip(self.normals[visible] @ turn.T @ light, 0, 1)
        tones = np.clip(self.colors[visible] * bright[:, None], 0, 255)
        grown = spots[visible] - spots[visible].mean(1, keepdims=True)  # faces grow to cover the seams
        grown = spots[visible] + 0.5 * grown / np.maximum(np.linalg.norm(grown, axis=-1, keepdims=True), 0.5)
        for spot, tone in zip(fixed(grown), tones.tolist(), strict=True):
            cv2.fillConvexPoly(picture, spot, tone, cv2.LINE_AA, FINE)


def fixed(points: Array) -> NDArray[np.int32]:
    """Convert pixels to OpenCV's fixed-point coordinates with `FINE` fractional bits."""
    return np.rint(np.minimum(np.maximum(points, -2000), 4000) * (1 << FINE)).astype(np.int32)


def make(kind: str, rng: np.random.Generator) -> Thing:
    """Draw a thing of a kind.

    Raises:
        KeyError: there is no such kind.
    """
    spec = KINDS[kind]
    size = [float(rng.uniform(*bounds)) for bounds in spec.size]
    base = np.array(spec.colors[rng.integers(len(spec.colors))]) * rng.uniform(0.85, 1.1, 3)
    mark = rng.uniform(20, 240, 3)
    if not spec.profile:
        vertices, faces, u, v, top = _box(size[0], size[1], size[2])
        half, height, radii = (size[0], size[1]), size[2], np.zeros(0)
    else:
        vertices, faces, u, v, top = _turned(spec.profile, size[0], size[1])
        shares, widths = np.array(spec.profile).T
        radii = size[0] * np.interp(np.linspace(0, 1, 257), shares, widths)
        half, height = (size[0], size[0]), size[1]
        if spec.lies:
            radius = float(radii.max())
            vertices = np.column_stack([vertices[:, 2] - size[1] / 2, vertices[:, 0], vertices[:, 1] + radius])
            half, height = (size[1] / 2, radius), 2 * radius
    painted = PATTERNS[spec.pattern](u, v, top, rng)
    share = np.clip(painted, 0, 1)[:, None]
    colors = np.clip(base * (1 - share) + mark * share, 12, 250) * rng.uniform(0.94, 1.04, (len(share), 1))
    return Thing(kind, half, height, radii, spec.lies, vertices, faces, colors)


Mesh = tuple[Array, NDArray[np.int64], Array, Array, NDArray[np.bool_]]
"""Vertices, faces, and for each face its share around or across, its share along, and whether it is on top."""


def _turned(profile: tuple[tuple[float, float], ...], radius: float, height: float) -> Mesh:
    shares, widths = np.array(profile).T
    extra = np.linspace(0, 1, 7)
    shares, widths = (
        np.concatenate([shares, extra]),
        np.concatenate([widths, np.interp(extra, shares, widths)]),
    )
    order = np.argsort(shares, kind="stable")
    shares, widths = shares[order], widths[order]
    angles = np.arange(AROUND) / AROUND * 2 * np.pi
    rings = np.stack(
        [
            radius * widths[:, None] * np.cos(angles),
            radius * widths[:, None] * np.sin(angles),
            np.repeat(height * shares[:, None], AROUND, 1),
        ],
        -1,
    )
    count = len(shares)
    ends = np.array([[0, 0, height], [0, 0, 0]])
    vertices = np.concatenate([rings.reshape(-1, 3), ends])
    index = np.arange(AROUND)
    after = (index + 1) % AROUND
    mantle = [
        np.stack(
            [low * AROUND + index, low * AROUND + after, (low + 1) * AROUND + after, (low + 1) * AROUND + index], 1
        )
        for low in range(count - 1)
        if shares[low + 1] > shares[low]
    ]
    level = [(shares[low] + shares[low + 1]) / 2 for low in range(count - 1) if shares[low + 1] > shares[low]]
    upper, lower = (count - 1) * AROUND, count * AROUND
    lid = np.stack([upper + index, upper + after, np.full(AROUND, lower), np.full(AROUND, lower)], 1)
    foot = np.stack([after, index, np.full(AROUND, lower + 1), np.full(AROUND, lower + 1)], 1)
    faces = np.concatenate([*mantle, lid, foot])
    u = np.tile(index / AROUND, len(mantle) + 2)
    v = np.concatenate([np.repeat(level, AROUND), np.full(AROUND, 1.0), np.full(AROUND, 0.0)])
    top = np.zeros(len(faces), bool)
    top[len(mantle) * AROUND : (len(mantle) + 1) * AROUND] = True
    return vertices, faces, u, v, top


def _box(width: float, depth: float, height: float) -> Mesh:
    """Mesh of a box from half width, half depth and height, each side divided into cells."""
    vertices: list[Array] = []
    faces, us, vs, tops = [], [], [], []
    middle = np.array([0, 0, height / 2])
    x, y, z = np.diag([width, depth, height / 2])
    for out, one, two in ((z, x, y), (x, y, z), (-x, -y, z), (y, -x, z), (-y, x, z)):
        columns, rows = (int(np.clip(np.linalg.norm(way) / 0.9, 1, 7)) for way in (one, two))
        u, v = np.meshgrid(np.linspace(-1, 1, columns + 1), np.linspace(-1, 1, rows + 1))
        first = sum(len(part) for part in vertices)
        vertices.append((middle + out + u[..., None] * one + v[..., None] * two).reshape(-1, 3))
        cell = first + (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
        faces.append(np.stack([cell, cell + 1, cell + columns + 2, cell + columns + 1], 1))
        us.append(np.tile((np.arange(columns) + 0.5) / columns, rows))
        vs.append(np.repeat((np.arange(rows) + 0.5) / rows, columns))
        tops.append(np.full(rows * columns, out is z))
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(us), np.concatenate(vs), np.concatenate(tops)


Pattern = Callable[[Array, Array, NDArray[np.bool_], np.random.Generator], NDArray[np.floating]]
PATTERNS: dict[str, Pattern] = {
    "rim": lambda u, v, top, rng: np.where(top, 0.8, (v > 0.85) * 0.6),
    "label": lambda u, v, top, rng: (np.abs(v - 0.42) < 0.24) * (0.5 + 0.5 * (rng.random(len(u)) < 0.6)) * ~top,
    "wedges": lambda u, v, top, rng: (np.floor(u * 4) % 2) * 1.0,
    "shaft": lambda u, v, top, rng: (v > 0.45) * 0.8,
    "cover": lambda u, v, top, rng: np.where(top, (np.abs(u - 0.5) < 0.3) * (np.abs(v - 0.6) < 0.25) * 0.9, 0.25),
    "screen": lambda u, v, top, rng: np.where(top & (np.abs(v - 0.5) < 0.42), 0.3 + 0.4 * rng.random(len(u)), 0.0),
    "lid": lambda u, v, top, rng: (v > 0.78) * 0.9 + (np.abs(v - 0.4) < 0.15) * 0.4,
    "cap": lambda u, v, top, rng: (v > 0.68) * 0.9,
    "keys": lambda u, v, top, rng: np.where(top, rng.random(len(u)) < 0.35, 0.0) * 0.8,
    "rings": lambda u, v, top, rng: np.where(top, 0.15, (np.floor(v * 5) % 2) * 0.7),
    "zigzag": lambda u, v, top, rng: (np.floor(u * 8 + v * 6) % 2) * (v < 0.8) * 0.7,
    "knurled": lambda u, v, top, rng: np.where(v < 0.6, (np.floor(u * 16) % 2) * 0.25, 0.1),
    "speckled": lambda u, v, top, rng: 0.25 * rng.random(len(u)) ** 3,
    "tiles": lambda u, v, top, rng: 0.25 + 0.75 * rng.random(len(u)),
    "waves": lambda u, v, top, rng: 0.15 + 0.12 * np.sin(9 * v),
    "reels": lambda u, v, top, rng: np.where(
        top, (np.abs(np.abs(u - 0.5) - 0.22) < 0.14) * (np.abs(v - 0.5) < 0.2), 0.2
    ),
}
"""Patterns by name: the share of a second colour in each face, from the face's position."""
