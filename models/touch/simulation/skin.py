"""Appearance of a hand: skin or a glove, nails, a sleeve. It is painted bone by bone, so that things can lie between fingers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation.hand import ELBOW, RADII, WRIST, Joints
from tocsin.models.touch.simulation.head import Head
from tocsin.models.touch.simulation.things import FINE, Color, fixed

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

SKINS: dict[str, tuple[Color, bool]] = {
    "fair": ((228, 180, 152), True),
    "olive": ((196, 148, 112), True),
    "brown": ((140, 94, 68), True),
    "nitrile": ((70, 110, 190), False),
    "tan": ((212, 160, 124), True),
    "work": ((178, 150, 96), False),
    "rose": ((236, 176, 164), True),
    "deep": ((92, 60, 46), True),
    "rubber": ((226, 196, 70), False),
    "latex": ((226, 222, 210), False),
}
"""Colour, and whether nails are visible; without nails it is a glove."""
Painter = Callable[[Frame], None]
_COATS = ((0.68, 1.0, 0.0), (1.0, 0.84, 0.16), (1.08, 0.4, 0.34))
"""Layers of a bone: brightness, then width and shift towards the light as shares of the radius."""
_TONES = (1.0, 0.97, 0.94, 0.97, 0.93)
_COS, _SIN = np.cos(np.linspace(-np.pi / 2, np.pi / 2, 7)), np.sin(np.linspace(-np.pi / 2, np.pi / 2, 7))
_CIRCLE = np.stack([np.cos(np.linspace(0, 6, 12)), np.sin(np.linspace(0, 6, 12))], 1)


@dataclass(frozen=True)
class Skin:
    """Surface of a hand and its forearm.

    Args:
        color: `[3]` RGB, of the hand.
        nails: whether nails are visible.
        sleeve: `[3]` RGB.
        cuff: where the sleeve begins, as a share of the arm from the wrist on; 1 or more: no sleeve.
    """

    color: Array
    nails: bool
    sleeve: Array
    cuff: float

    @classmethod
    def draw(cls, name: str, rng: np.random.Generator) -> Skin:
        """Draw a variant of one of `SKINS`, with a random sleeve."""
        color, nails = SKINS[name]
        return cls(
            np.array(color) * rng.uniform(0.92, 1.06),
            nails,
            rng.uniform(25, 225, 3),
            rng.choice([rng.uniform(0.03, 0.5), 1.0]),
        )

    def parts(self, joints: Joints, head: Head, frame: int) -> list[tuple[float, Painter]]:
        """Parts of a hand in a frame: depths, cm, and painters of a picture `[H, W, 3]`; the first is the forearm."""
        spots, depth = head.project(joints.fingers[frame], frame)
        radii = head.focal * RADII / depth
        arm, far = head.project(np.stack([joints.wrist[frame], joints.elbow[frame]]), frame)
        thick = head.focal * np.array([WRIST, ELBOW]) / far
        parts = [(float(far.mean()), self._forearm(arm, thick))]
        wide = np.stack([radii[:, :-1], radii[:, 1:]], -1)
        bones = np.stack([spots[:, :-1], spots[:, 1:]], -2)
        nails = self._visible_nails(joints, head, frame) if self.nails else np.zeros(5, bool)
        middles = (depth[:, 1:] + depth[:, :-1]) / 2
        coats = [(shade, capsules(bones - shift * wide[..., None], inner * wide)) for shade, inner, shift in _COATS]
        tips = np.stack([spots[:, 2] + 0.72 * (spots[:, 3] - spots[:, 2]), spots[:, 3]], 1)
        beds = capsules(tips, 0.5 * wide[:, 2, [1, 1]])
        for finger in range(5):
            for bone in range(3):
                tone = _TONES[finger] * (0.94, 1.0, 1.04)[bone] * self.color
                fills = [(outline[finger, bone], shade * tone) for shade, outline in coats]
                if bone == 2 and nails[finger]:
                    fills.append((beds[finger], 0.6 * self.color + [98, 84, 80]))
                parts.append((float(middles[finger, bone]), painter(fills)))
        rim = np.concatenate([spots[1:, 0], (spots[0, 0] + arm[0])[None] / 2, arm[:1]])
        around = np.concatenate([radii[1:, 0], radii[0, :1], thick[:1] * 0.95])
        parts.append((float(depth[1:, 0].mean()) - 0.5, self._palm(rim, around)))
        return parts

    def _palm(self, rim: Array, around: Array) -> Painter:
        middle, fills = rim.mean(0), []
        for inner, shade in ((1.0, 0.7), (0.86, 1.0), (0.5, 1.05)):
            spots = middle + (1.0 if inner > 0.8 else 0.65) * (rim - middle) - 0.5 * (1 - inner) * around[:, None]
            cloud = (spots[:, None] + inner * around[:, None, None] * _CIRCLE).reshape(-1, 2)
            fills.append((fixed(cv2.convexHull(cloud.astype(np.float32))[:, 0]), shade * self.color))
        knuckles = capsules(np.stack([rim[:4], rim[:4]], 1), 0.45 * np.stack([around[:4], around[:4]], 1))
        return painter(fills + [(knuckle, 0.94 * self.color) for knuckle in knuckles])

    def _forearm(self, arm: Array, thick: Array) -> Painter:
        bare = self.color if self.nails else 0.6 * self.color + 60
        pieces = [(0.0, 1.0, 1.0, bare)]  # begin and end, as shares of the arm; width factor; colour
        if not self.nails:
            pieces.append((0.0, 0.1, 1.08, self.color))  # a glove reaches over the wrist
        if self.cuff < 1:
            pieces.append((self.cuff, 1.0, 1.15, self.sleeve))
        way = arm[1] - arm[0]
        across = np.array([-way[1], way[0]]) / max(float(np.hypot(*way)), 1e-6)
        fills = []
        for begin, end, wider, color in pieces:
            share = np.array([begin, end, end, begin])
            wide = wider * (thick[0] + share * (thick[1] - thick[0]))
            middles = arm[0] + share[:, None] * way
            for inner, shade in ((1.0, 0.68), (0.84, 0.9), (0.58, 1.0), (0.28, 1.06)):
                off = wide * (
                    inner * np.array([1, 1, -1, -1]) - 0.6 * (1 - inner) * np.sign(across[0] + 0.2 * across[1])
                )
                fills.append((fixed(middles + off[:, None] * across), shade * color))
        return painter(fills)

    @staticmethod
    def _visible_nails(joints: Joints, head: Head, frame: int) -> NDArray[np.bool_]:
        """Whether each finger's nail faces the camera, `[5]`."""
        way = joints.fingers[frame, :, 3] - joints.fingers[frame, :, 2]
        way = way / np.linalg.norm(way, axis=1, keepdims=True)
        back = np.tile(joints.back[frame], (5, 1))
        back[0] -= joints.side[frame]
        out = back - np.sum(back * way, 1, keepdims=True) * way
        return np.sum(out * (head.place[frame] - joints.fingers[frame, :, 3]), 1) > 0


def capsules(ends: Array, wide: Array) -> NDArray[np.int32]:
    """Outlines `[..., 14, 2]`, as from `fixed`, of capsules from `ends` `[..., 2, 2]` pixels and half widths `wide` `[..., 2]`."""
    way = ends[..., 1, :] - ends[..., 0, :]
    way = way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
    across = np.stack([-way[..., 1], way[..., 0]], -1)
    front = _COS[:, None] * way[..., None, :] + _SIN[:, None] * across[..., None, :]
    tail = ends[..., 0, None, :] - wide[..., 0, None, None] * front
    return fixed(np.concatenate([ends[..., 1, None, :] + wide[..., 1, None, None] * front, tail], -2))


def painter(fills: list[tuple[NDArray[np.int32], Array]]) -> Painter:
    """A painter that fills outlines with colours, in order."""

    def paint(picture: Frame) -> None:
        for outline, color in fills:
            cv2.fillConvexPoly(picture, outline, color.tolist(), cv2.LINE_AA, FINE)

    return paint
