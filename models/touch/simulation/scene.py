"""A simulated egocentric clip with known truth: a person's hands at a table, seen from the person's head.

Bones, things and the table are solids in centimetres (`hand`, `things`, `table`). A script moves them (`script`, `acts`), and a
camera on a moving head films them (`head`, `sensor`). Touches are computed from the solids.

All of it is this project's own design. It contains no picture of a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation import table
from tocsin.models.touch.simulation.hand import RADII
from tocsin.models.touch.simulation.head import follow
from tocsin.models.touch.simulation.script import Script
from tocsin.models.touch.simulation.sensor import Sensor
from tocsin.models.touch.simulation.skin import Painter, Skin, capsules
from tocsin.models.touch.simulation.things import FINE, fixed, make

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

TRAIN_SEEDS = range(1000, 1480)
VALIDATION_SEEDS = range(700, 708)
TEST_SEEDS = range(9000, 9012)
"""Fixed before any model was trained. Test clips are for reporting, never for training or model selection."""
TRAIN_SECONDS = 8.0
"""Length of a training clip. Clips are short to cover many tables, since a network memorizes few tables."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Distribution that clips are drawn from. The defaults are those of training.

    Args:
        kinds: kinds of things, names in `things.KINDS`.
        skins: skins of hands, names in `skin.SKINS`.
        materials: materials of the table, names in `table.MATERIALS`.
        things: least and greatest number of things on the table.
        haste: bounds of a factor on the duration of acts.
        arc: bounds of the height that a hand's path rises by, cm.
        idle: mean time between two acts of a hand, s.
        missing: share of acts that only look as if they would touch.
        view: bounds of the horizontal field of view, degrees.
        height: bounds of the camera's height above the table, cm.
        sway: bounds of a factor on the head's random motion.
        walks: share of the time spent walking, 0 to 1.
        grain: bounds of the sensor's noise, levels.
        drift: bounds of the slow changes of exposure, as a share.
        shutter: bounds of the share of a frame's time that the shutter is open.
    """

    kinds: tuple[str, ...] = ("cup", "can", "bottle", "ball", "screwdriver", "carton", "book", "phone")
    skins: tuple[str, ...] = ("fair", "olive", "brown", "nitrile")
    materials: tuple[str, ...] = ("wood", "plain", "cloth")
    things: tuple[int, int] = (4, 7)
    haste: tuple[float, float] = (0.75, 1.3)
    arc: tuple[float, float] = (5.0, 11.0)
    idle: float = 3.2
    missing: float = 0.44
    view: tuple[float, float] = (58.0, 80.0)
    height: tuple[float, float] = (44.0, 76.0)
    sway: tuple[float, float] = (0.4, 1.2)
    walks: float = 0.1
    grain: tuple[float, float] = (1.5, 5.0)
    drift: tuple[float, float] = (0.01, 0.06)
    shutter: tuple[float, float] = (0.2, 0.6)


TRAIN = Distribution()
VALIDATION = Distribution(
    kinds=("can", "ball", "carton", "book", "jar", "marker", "remote"),
    skins=("fair", "tan", "work"),
    materials=("wood", "cloth", "steel"),
    view=(58.0, 74.0),
    height=(44.0, 58.0),
)
TEST = Distribution(
    kinds=("bowl", "spray", "torch", "pear", "cube", "soap", "cassette"),
    skins=("rose", "deep", "rubber", "latex"),
    materials=("marble", "tiles"),
    haste=(0.65, 1.15),
    arc=(7.0, 13.0),
    view=(64.0, 80.0),
    height=(42.0, 54.0),
    sway=(0.6, 1.5),
    walks=0.2,
)
"""Test shares no kind of thing, skin or material with training or validation. Validation has three kinds of things, two skins and a
material that training lacks."""


class Shot(NamedTuple):
    """One frame.

    Args:
        picture: `[H, W, 3]` uint8 RGB.
        hands: `[2, 4]` float32, boxes of the left and the right hand without the forearm, (x0, y0, x1, y1) as shares of the frame;
            NaN for a hand that is not visible.
        things: `[K, 4]`, the same for things.
    """

    picture: Frame
    hands: NDArray[np.float32]
    things: NDArray[np.float32]


def distribution_of(seed: int) -> Distribution:
    """`TEST` or `VALIDATION` for their seeds, `TRAIN` for any other."""
    return TEST if seed in TEST_SEEDS else VALIDATION if seed in VALIDATION_SEEDS else TRAIN


class Scene:
    """A clip that is rendered during iteration. The same arguments always give the same bytes.

    Args:
        seed: one of the seeds above, or any other.
        seconds: length of the clip.
        size: rows and columns. Every size shows the same scene, apart from the aspect ratio.
        rate: frames per second.
        distribution: to draw from; by default `distribution_of(seed)`.

    Attributes:
        touches, misses: the truth, in order, known before a frame is rendered.
        script: motion of hands and things.
        head: the camera.
    """

    def __init__(
        self,
        seed: int,
        *,
        seconds: float = 30,
        size: tuple[int, int] = (288, 512),
        rate: float = 30.0,
        distribution: Distribution | None = None,
    ) -> None:
        distribution = distribution or distribution_of(seed)
        self.size, count = size, max(1, round(seconds * rate))
        script_rng, appearance_rng, head_rng, sensor_rng = (np.random.default_rng((seed, part)) for part in range(4))
        kinds = appearance_rng.permutation(distribution.kinds)
        self._things = [
            make(str(kinds[at % len(kinds)]), appearance_rng)
            for at in range(appearance_rng.integers(*distribution.things, endpoint=True))
        ]
        self._skin = Skin.draw(str(appearance_rng.choice(distribution.skins)), appearance_rng)
        self._table = table.paint(str(appearance_rng.choice(distribution.materials)), appearance_rng)
        self.script = Script(
            self._things,
            count,
            rate,
            script_rng,
            haste=distribution.haste,
            arc=distribution.arc,
            idle=distribution.idle,
            missing=distribution.missing,
        )
        self.touches, self.misses = self.script.touches, self.script.misses
        self.head = follow(
            self.script.work,
            count,
            rate,
            size,
            head_rng,
            view=distribution.view,
            height=distribution.height,
            sway=head_rng.uniform(*distribution.sway),
            walks=distribution.walks,
        )
        self._sensor = Sensor(
            sensor_rng,
            count=count,
            rate=rate,
            size=size,
            grain=distribution.grain,
            drift=distribution.drift,
            shutter=distribution.shutter,
        )
        lamp = np.array([sensor_rng.uniform(-0.7, 0.7), sensor_rng.uniform(-0.6, 0.3), 1.0])
        self._lamp = lamp / np.linalg.norm(lamp)
        self._dark = sensor_rng.uniform(0.35, 0.6)

    def __len__(self) -> int:
        return len(self.head.place)

    def __iter__(self) -> Iterator[Shot]:
        for frame in range(len(self)):
            yield self.shot(frame)

    def shot(self, frame: int) -> Shot:
        """Render one frame."""
        spots = [self._corners(thing, frame) for thing in range(len(self._things))]
        hands = np.stack([self._hand_box(hand, frame) for hand in range(2)])
        things = np.stack([self._box(corners) for corners, _ in spots])
        picture = self._backdrop(frame)
        for _, paint in sorted(self._parts(frame, spots), key=lambda part: -part[0]):
            paint(picture)
        self._smear(picture, frame, hands)
        return Shot(self._sensor.sensed(picture, frame), hands, things)

    def _backdrop(self, frame: int) -> Frame:
        """The table under the lamp, with the shadows of hands and things on it."""
        rows, columns = self.size
        ground = cv2.warpPerspective(
            self._table,
            self.head.table(frame) @ np.linalg.inv(table.placed()),
            (columns, rows),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        shade = np.full((rows // 2, columns // 2), 255, np.uint8)
        for hull, height in self._shadows(frame):
            tone = 255 * (1 - self._dark / (1 + height / 14))
            patch = np.full_like(shade, 255)
            cv2.fillConvexPoly(patch, hull, tone, cv2.LINE_AA, FINE)
            np.minimum(shade, patch, out=shade)
        shade = cv2.resize(cv2.GaussianBlur(shade, (0, 0), 1.6), (columns, rows), interpolation=cv2.INTER_LINEAR)
        return cv2.multiply(ground, cv2.merge([shade] * 3), scale=1 / 255)

    def _shadows(self, frame: int) -> Iterator[tuple[NDArray[np.int32], float]]:
        """Yield outlines of shadows, as from `fixed`, at half the picture's size, and the height of what casts each, cm."""
        for thing, solid in enumerate(self._things):
            corners = solid.vertices @ self.script.turns[thing, frame].T + self.script.places[thing, frame]
            outline = cv2.convexHull(self._cast(corners, frame)[0].astype(np.float32))[:, 0]
            yield fixed(outline), float(self.script.places[thing, frame, 2])
        for joints in self.script.hands:
            fingers, wrist = joints.fingers[frame], joints.wrist[frame]
            arm = np.stack([wrist, joints.elbow[frame]])
            bones = np.concatenate([np.stack([fingers[:, :-1], fingers[:, 1:]], 2).reshape(-1, 2, 3), arm[None]])
            spots, scale = self._cast(bones, frame)
            wide = scale * np.concatenate([np.repeat([RADII[:, 1:].mean()], 15), [3.0]])[:, None]
            palm = np.concatenate([spots[::3][:5].reshape(-1, 2), spots[-1, :1]]).astype(np.float32)
            yield fixed(cv2.convexHull(palm)[:, 0]), float(wrist[2])
            yield from zip(capsules(spots, wide), bones[:, :, 2].mean(1).tolist(), strict=True)

    def _cast(self, points: Array, frame: int) -> tuple[Array, Array]:
        """The shadow of points `[..., 3]` on the table, in pixels at half size, and such pixels per centimetre there."""
        ground = points - points[..., 2:] / self._lamp[2] * self._lamp
        spots, depths = self.head.project(ground, frame)
        return spots / 2, self.head.focal / depths / 2

    def _parts(self, frame: int, spots: list[tuple[Array, Array]]) -> list[tuple[float, Painter]]:
        """Depths and painters of all things and hands."""
        parts: list[tuple[float, Painter]] = []
        for thing, (corners, depths) in enumerate(spots):
            turn = self.script.turns[thing, frame]
            paint = partial(self._things[thing].draw, corners=corners, depths=depths, turn=turn, light=self._lamp)
            parts.append((float(depths.mean()), paint))
        for joints in self.script.hands:
            parts += self._skin.parts(joints, self.head, frame)
        return parts

    def _smear(self, picture: Frame, frame: int, hands: NDArray[np.float32]) -> None:
        """Apply motion blur: to the whole picture by the head's motion, then to each hand by its own motion beyond that."""
        before = max(frame - 1, 0)
        spot = np.array([0.0, 20.0, 0.0])
        turned = self.head.project(spot, frame)[0] - self.head.project(spot, before)[0]
        picture[:] = self._sensor.smeared(picture, turned)
        for hand, box in enumerate(hands):
            fingers = self.script.hands[hand].fingers
            now, earlier = (self.head.project(fingers[at], at)[0] for at in (frame, before))
            moved = (now - earlier)[1:, 0].mean(0) - turned
            if np.isnan(box).any() or self._sensor.shutter * np.hypot(*moved) < 1:
                continue
            low = np.maximum((box[:2] * self.size[::-1]).astype(int) - 16, 0)
            high = (box[2:] * self.size[::-1]).astype(int) + 16
            piece = picture[low[1] : high[1], low[0] : high[0]]
            share = np.zeros(piece.shape[:2], np.uint8)
            hull = cv2.convexHull((now.reshape(-1, 2) - low).astype(np.float32))[:, 0]
            cv2.fillConvexPoly(share, fixed(hull), 255, cv2.LINE_AA, FINE)
            share = cv2.blur(cv2.dilate(share, np.ones((13, 13), np.uint8)), (13, 13))[..., None] / np.float32(255)
            piece[:] = piece + share * (self._sensor.smeared(piece, moved).astype(np.float32) - piece)

    def _corners(self, thing: int, frame: int) -> tuple[Array, Array]:
        solid = self._things[thing]
        world = solid.vertices @ self.script.turns[thing, frame].T + self.script.places[thing, frame]
        return self.head.project(world, frame)

    def _hand_box(self, hand: int, frame: int) -> NDArray[np.float32]:
        joints = self.script.hands[hand]
        spots, depths = self.head.project(joints.fingers[frame].reshape(-1, 3), frame)
        wide = (self.head.focal * RADII.ravel() / depths)[:, None] + 1
        wrist, far = self.head.project(joints.wrist[frame], frame)
        around = self.head.focal * 2.4 / far + 1
        return self._box(np.concatenate([spots - wide, spots + wide, [wrist - around], [wrist + around]]))

    def _box(self, points: Array) -> NDArray[np.float32]:
        """The box around pixels `[N, 2]` within the frame, as shares; NaN if no more than a tenth of it is visible."""
        rows, columns = self.size
        low, high = points.min(0) / (columns, rows), points.max(0) / (columns, rows)
        inside = np.concatenate([np.clip(low, 0, 1), np.clip(high, 0, 1)])
        seen = np.prod(inside[2:] - inside[:2]) / max(float(np.prod(high - low)), 1e-9)
        return (inside if seen > 0.1 else np.full(4, np.nan)).astype(np.float32)
