"""Effects of light and camera: caustics, haze, slow changes of light, exposure, blur, noise and compression loss.

None of them is new, and all of them differ from frame to frame.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.bottom import noise

Array = NDArray[np.float64]
Picture = NDArray[np.float32]

NET = 512  # units after which the caustics repeat
GREY = 95.0  # target level of the camera's exposure
LAG = 1.2  # s, time constant of the exposure


def wrapped(texture: NDArray, camera: Array, size: tuple[int, int], shift: tuple[float, float] = (0.0, 0.0)) -> NDArray:
    """A repeating texture as the camera sees it; `shift` moves it on the plane, units."""
    side = np.array(texture.shape[1::-1])
    place = camera @ np.array([size[1] / 2, size[0] / 2, 1])
    whole = np.floor((place[:2] / place[2] + shift) / side) * side  # near the origin, for exact coordinates
    moved = np.array([[1, 0, shift[0] - whole[0]], [0, 1, shift[1] - whole[1]], [0, 0, 1]]) @ camera
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(texture, moved, size[::-1], flags=flags, borderMode=cv2.BORDER_WRAP)


class Water:
    """The water of one clip, and the camera in it.

    Args:
        rng: source of all random values.
        count: frames.
        rate: frames a second.
        size: rows and columns.
        haze: attenuation of green light at distance 1.
        caustics, flicker: strength of the caustics and of the slow changes of light, 0 to 1.
        grain: standard deviation of the sensor's noise, levels.

    Attributes:
        color: `[3]` float32, the colour of distant things.
        attenuation: `[3]` float32 at distance 1, in the last frame that `veiled` drew.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        count: int,
        rate: float,
        size: tuple[int, int],
        haze: float,
        caustics: float,
        flicker: float,
        grain: float,
    ) -> None:
        self.rate, self.size, self.caustics = rate, size, caustics
        green = rng.random()  # from blue to green water
        tone = np.array([20, 95, 125]) * (1 - green) + np.array([55, 115, 75]) * green
        self.color: Picture = (tone * rng.uniform(0.75, 1.3)).astype(np.float32)
        self.clear = (haze * np.array([rng.uniform(1.5, 2.2), 1.0, 0.85 + 0.5 * green])).astype(np.float32)
        self.attenuation = self.clear
        seconds = np.arange(count) / rate
        self.turbid = np.exp(0.15 * _waves(rng, seconds, (4.0, 30.0)))
        self.light = 1 + flicker * _waves(rng, seconds, (0.8, 6.0))
        for begin in rng.uniform(0, count / rate, rng.poisson(3 * count / rate / 60)):  # clouds and waves
            depth, edge, lasts = rng.uniform(-2.5, 2.5) * flicker, rng.uniform(0.08, 0.5), rng.uniform(1, 5)
            rise, fall = ((np.tanh((seconds - at) / edge) + 1) / 2 for at in (begin, begin + lasts))
            self.light = self.light * (1 + depth * (rise - fall))
        self.nets = [np.clip(1.25 - 1.6 * np.abs(noise(rng, NET, cell)), 0, 1) ** 3 for cell in (32, 16)]
        self.streams = rng.normal(0, 22, (2, 2))  # units/s
        y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
        lamp = 1.08 - rng.uniform(0.1, 0.4) * ((x - rng.normal(0, 0.15)) ** 2 + (y - rng.normal(0, 0.15)) ** 2)
        self.lamp = np.repeat(lamp[..., None], 3, 2).astype(np.float32)
        self.shutter = rng.uniform(0.2, 0.6)  # share of a frame's time that it is open
        self.grains = (grain * rng.standard_normal((size[0] + 64, size[1] + 64, 3))).astype(np.float32)
        self.corners = rng.integers(0, 64, (count, 2))
        self.exposure = 0.0

    def sunlit(self, picture: Picture, camera: Array, frame: int, distance: Picture) -> None:
        """Cast caustics on the bottom `[H, W, 3]`, in place; they fade with the distance of each row, `[H]`."""
        shifts = self.streams * frame / self.rate
        nets = [wrapped(net, camera, self.size, tuple(shift)) for net, shift in zip(self.nets, shifts, strict=True)]
        net = nets[0] * 0.8 + nets[1] * 0.5 + nets[0] * nets[1] * 1.5 - 0.45
        strength = self.caustics / (1 + 0.5 * distance**2)
        picture *= cv2.merge([1 + strength[:, None] * net] * 3)

    def veiled(self, picture: Picture, frame: int, distance: Picture) -> None:
        """Add haze to each row by its distance, in place."""
        self.attenuation = self.clear * np.float32(self.turbid[frame])
        through = np.exp(-distance[:, None] * self.attenuation)
        flat = picture.reshape(len(picture), -1)  # flat rows: broadcasting over three channels is slow
        flat *= np.tile(through, self.size[1])
        flat += np.tile(self.color * (1 - through), self.size[1])

    def smeared(self, picture: Picture, motion: Array) -> Picture:
        """Blur by the camera's motion, `[4]` as in `Path.motion`, while the shutter is open."""
        shift = motion[:2] * self.shutter
        reach = int(min(np.ceil(np.abs(shift).max() / 2), 12))
        if reach < 1:
            return picture
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        for share in np.linspace(-0.5, 0.5, 4 * reach + 1):
            x, y = np.clip(np.round(reach + share * shift), 0, 2 * reach).astype(int)
            kernel[y, x] += 1
        return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)

    def sensed(self, picture: Picture, frame: int, quality: int | None) -> NDArray[np.uint8]:
        """The frame as the camera records it, uint8: lamp, light, lagging exposure, noise, and JPEG loss if `quality` is given."""
        picture = picture * self.lamp
        mean = float(picture[::8, ::8].mean()) * float(self.light[frame])
        target = np.clip(GREY / max(mean, 1), 0.5, 3.0)
        self.exposure += (target - self.exposure) * (1 - np.exp(-1 / (LAG * self.rate)) if self.exposure else 1)
        picture *= np.float32(self.exposure * self.light[frame])
        picture += self.grain(frame)
        exposed = np.clip(picture, 0, 255).astype(np.uint8)
        return exposed if quality is None else compressed(exposed, quality)

    def grain(self, frame: int) -> Picture:
        """The sensor's noise in a frame, `[H, W, 3]`."""
        row, column = self.corners[frame]
        return self.grains[row : row + self.size[0], column : column + self.size[1]]


def compressed(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An RGB frame after JPEG loss."""
    _, packed = cv2.imencode(".jpg", frame[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB), np.uint8)


def _waves(rng: np.random.Generator, seconds: Array, periods: tuple[float, float]) -> Array:
    """A sum of four slow waves of random period and phase, of standard deviation about 1."""
    total = np.zeros(len(seconds))
    for _ in range(4):
        total += np.sin(2 * np.pi * (seconds / rng.uniform(*periods) + rng.random())) / np.sqrt(2)
    return total
