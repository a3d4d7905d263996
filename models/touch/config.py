"""What a trained model of touches is made of, as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tocsin.models import files
from tocsin.models.trained import CONFIG_FILE
from tocsin.models.vision.encoder import DEFAULT


@dataclass(frozen=True)
class EyeConfig:
    """What is seen of a frame.

    Args:
        looks: whether a frozen encoder tells what places look like, see `tocsin.models.vision.encoder.load`, or only their motion
            is known. Of few tables a network learns the looks by heart, and is worse on others.
        source: of the frozen encoder.
        scene_layer, hands_layer: of EfficientNet-Lite0, for the whole frame and for the hands' crops.
        height, width: of a frame, pixels.
        scene_height, scene_width: to which it is reduced as a whole.
        crop: side of the square that is cut out about a hand, pixels.
        enlarged: the square's side over the longer side of the hand's box, both in the frame.
        version: of the encoder's weights when the model was trained; another encoder's tokens mean nothing to it.
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
        tokens: channels to which tokens are brought, a multiple of 4 and of `heads`.
        heads: of the scene's attention to the hands.
        dim: of a frame's vector.
        past, ahead: frames before and after the one that is judged.
        layers: halvings of the window in the mixer.
        kernel: frames, odd, of its shorter convolutions; reach: how many times as far the longer ones see.
        expansion: width of feed-forward layers, over that of what goes in.
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
            raise ValueError(f"kernel ({self.kernel}) must be odd, or it leans to one side")

    @property
    def window(self) -> int:
        """Frames in a window, the judged one's among them."""
        return self.past + 1 + self.ahead


@dataclass(frozen=True)
class DecodeConfig:
    """How events are read from scores; see `tocsin.models.touch.decode`.

    Args:
        radius: frames from which one points to an event.
        apart: frames to either side in which there is no second event of a hand and kind.
        contact, release: least scores that count.
    """

    radius: int = 4
    apart: int = 3
    contact: float = 0.5
    release: float = 0.5

    @property
    def thresholds(self) -> tuple[float, float]:
        """Least scores in the order of `truth.KINDS`."""
        return self.contact, self.release

    @property
    def wait(self) -> int:
        """Frames to either side that decide whether one is an event."""
        return self.radius + self.apart


@dataclass(frozen=True)
class TouchConfig:
    """A model and how its verdicts are read."""

    eye: EyeConfig = field(default_factory=EyeConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    def save(self, directory: Path) -> None:
        """Write `config.json`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> TouchConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: it names settings that there are not.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        parts = {"eye": EyeConfig, "network": NetworkConfig, "decode": DecodeConfig}
        try:
            return cls(**{name: parts[name](**value) for name, value in stored.items()})
        except (KeyError, TypeError) as reason:
            raise ValueError(f"{directory / CONFIG_FILE}: {reason}; train the model again") from None
