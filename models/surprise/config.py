"""The configuration of a trained surprise model, stored as `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.models import files
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.network import NetworkConfig
from tocsin.models.surprise.triage import TriageConfig
from tocsin.models.trained import CONFIG_FILE, config_of
from tocsin.models.vision.appearance import Appearance
from tocsin.models.vision.encoder import DEFAULT


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder and the size of its frames; see `tocsin.models.vision.encoder.load`.

    Args:
        source: "efficientnet-lite0", or the directory of a vision transformer.
        layer: the layer of EfficientNet-Lite0 that gives the tokens.
        merge: least cosine at which a vision transformer merges tokens.
        height, width: of the frames, pixels.
        version: of the encoder's weights at training. The model does not work with another encoder's tokens.
    """

    source: str = DEFAULT
    layer: str | None = "stride8"
    merge: float | None = None
    height: int = 144
    width: int = 256
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SurpriseConfig:
    """A model and how it scores frames.

    Args:
        cosine: weight of the angle in a place's surprise; the squared error has weight `1 - cosine`.
        top: share of a frame's places, the most surprising ones, whose mean gives the frame's score; used without triage.
        triage: the network that separates novelties from other errors. None if it was not trained: a place's surprise is its error.
        rank: of each camera's adapter.
        rate: the adapter's learning rate per frame; 0 turns learning off.
        lapse: seconds without a frame after which a camera's prediction state is reset.
        appearance: what is usual for frames; None: not known.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    cosine: float = 0.0
    top: float = 0.03
    triage: TriageConfig | None = None
    rank: int = 4
    rate: float = 0.02
    lapse: float = 2.0
    appearance: Appearance | None = None

    def save(self, directory: Path) -> None:
        """Write `config.json`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> SurpriseConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: the file has unknown settings.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        parts: dict[str, Callable[..., Any]] = {
            "encoder": EncoderConfig,
            "network": NetworkConfig,
            "detector": DetectorConfig,
            "triage": TriageConfig,
            "appearance": Appearance.of,
        }
        with config_of("a surprise model", directory):
            return cls(
                **{name: parts[name](**value) if name in parts and value else value for name, value in stored.items()}
            )
