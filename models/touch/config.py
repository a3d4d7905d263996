"""Configuration of a trained touch model, stored as `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.trained import CONFIG_FILE, config_of
from tocsin.models.vision.appearance import Appearance
from tocsin.models.vision.encoder import DEFAULT


@dataclass(frozen=True)
class EyeConfig:
    """Features extracted from a frame.

    Args:
        looks: whether tokens include the appearance features of a frozen encoder, see `tocsin.models.vision.encoder.load`; if not,
            they hold motion alone. With few training tables a network memorizes their appearance and is worse on others.
        source: source of the frozen encoder.
        scene_layer, hands_layer: layers of EfficientNet-Lite0, for the whole frame and for the hands' crops.
        height, width: size of a frame, pixels.
        scene_height, scene_width: size to which the whole frame is reduced, pixels.
        crop: side of the square that is cut out around a hand, pixels.
        enlarged: the square's side over the longer side of the hand's box, both in the frame.
        version: version of the encoder's weights in training. The model cannot use another encoder's tokens.
    """

    looks: bool = False
    source: str = DEFAULT
    scene_layer: str | None = "stride16"
    hands_layer: str | None = "stride8"
    height: int = 288
    width: int = 512
    scene_height: int = 144
    scene_width: int = 256
    crop: int = 144
    enlarged: float = 1.5
    version: str = ""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        tokens: channels of projected tokens, a multiple of 4 and of `heads`.
        heads: heads of the scene's attention to the hands.
        dim: size of a frame's vector.
        past, ahead: frames before and after the predicted frame.
        layers: halvings of the window in the mixer.
        kernel: frames, odd, of the mixer's shorter convolutions; reach: how many times as far the longer ones see.
        expansion: width of feed-forward layers, over the width of their input.
        dropout: share of elements dropped in training.

    Raises:
        ValueError: the window cannot be halved `layers` times, or the kernel has no middle.
    """

    tokens: int = 48
    heads: int = 4
    dim: int = 128
    past: int = 27
    ahead: int = 12
    layers: int = 3
    kernel: int = 9
    reach: int = 4
    expansion: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.window % 2**self.layers:
            raise ValueError(
                f"past + 1 + ahead ({self.window}) must be a multiple of {2**self.layers} to be halved {self.layers} times"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel ({self.kernel}) must be odd, so that it is centred")

    @property
    def window(self) -> int:
        """Frames in a window, including the predicted one."""
        return self.past + 1 + self.ahead


@dataclass(frozen=True)
class DecodeConfig:
    """How scores are decoded into events; see `tocsin.models.touch.decode`.

    Args:
        radius: largest distance, in frames, at which a frame points to an event.
        apart: frames to either side of an event in which its hand has no second event of its kind.
        contact, release: score thresholds.
    """

    radius: int = 4
    apart: int = 3
    contact: float = 0.5
    release: float = 0.5

    @property
    def thresholds(self) -> tuple[float, float]:
        """Score thresholds in the order of `truth.KINDS`."""
        return self.contact, self.release

    def with_thresholds(self, contact: float | None, release: float | None) -> DecodeConfig:
        """The same with other thresholds; None: as they are."""
        return replace(
            self,
            contact=self.contact if contact is None else contact,
            release=self.release if release is None else release,
        )

    @property
    def wait(self) -> int:
        """Frames to either side of a frame that decide whether it is an event."""
        return self.radius + self.apart


@dataclass(frozen=True)
class ReachConfig:
    """How touches are judged by the joints of hands, see `tocsin.models.touch.reach`. Speeds are in sizes of the hand per frame.

    Args:
        past, ahead: frames before and after the judged frame.
        moving: speed that a hand reaches before it touches, or after it lets go.
        slow: speed below which a hand stands in any case.
        share: share of the stroke's greatest speed below which a hand stands.
        empty: by how much more of a hand's surroundings stands still than moves with it, as a share, at a score of one half.
        decode: how scores are decoded; its thresholds.
    """

    past: int = 27
    ahead: int = 12
    moving: float = 0.15
    slow: float = 0.11
    share: float = 0.45
    empty: float = 0.4
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(radius=0))


@dataclass(frozen=True)
class TouchConfig:
    """A network and how its scores are decoded, and the constants that judge touches where the hands' joints are known.

    Args:
        appearance: what is usual for frames; None: not known.
    """

    eye: EyeConfig = field(default_factory=EyeConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    reach: ReachConfig = field(default_factory=ReachConfig)
    appearance: Appearance | None = None

    def save(self, directory: Path) -> None:
        """Write `config.json`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> TouchConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: the file contains unknown settings.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        parts: dict[str, Callable[..., Any]] = {
            "eye": EyeConfig,
            "network": NetworkConfig,
            "decode": DecodeConfig,
            "reach": ReachConfig,
            "appearance": Appearance.of,
        }
        with config_of("a touch model", directory):
            if "reach" in stored:
                stored["reach"] = stored["reach"] | {"decode": DecodeConfig(**stored["reach"]["decode"])}
            return cls(**{name: value and parts[name](**value) for name, value in stored.items()})
