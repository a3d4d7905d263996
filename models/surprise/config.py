"""What a trained model of surprise is made of, as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tocsin.models import files
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.network import NetworkConfig
from tocsin.models.surprise.triage import TriageConfig
from tocsin.models.trained import CONFIG_FILE
from tocsin.models.vision.encoder import DEFAULT


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and for frames of what size; see `tocsin.models.vision.encoder.load`.

    Args:
        source: "efficientnet-lite0", or the directory of a vision transformer.
        layer: of EfficientNet-Lite0.
        merge: of a vision transformer.
        height, width: of the frames, pixels.
        version: of its weights when the model was trained; another encoder's tokens mean nothing to it.
    """

    source: str = DEFAULT
    layer: str | None = "stride8"
    merge: float | None = None
    height: int = 144
    width: int = 256
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SurpriseConfig:
    """A model and how it judges.

    Args:
        cosine: weight of the angle in a place's surprise, the other being that of the squared error.
        top: share of a frame's places, the most surprising ones, whose mean is the frame's score; without triage.
        triage: what tells the new from the unexpected, where it could be trained; None: how much a place surprises is its error.
        rank: of each camera's own adapter.
        rate: at which it learns, a frame; 0: not at all.
        lapse: seconds without a frame after which a camera begins anew.
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

    def save(self, directory: Path) -> None:
        """Write `config.json`."""
        files.write({directory / CONFIG_FILE: files.dumped(self)})

    @classmethod
    def load(cls, directory: Path) -> SurpriseConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: it names settings that there are not.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        parts = {
            "encoder": EncoderConfig,
            "network": NetworkConfig,
            "detector": DetectorConfig,
            "triage": TriageConfig,
        }
        try:
            return cls(
                **{name: parts[name](**value) if name in parts and value else value for name, value in stored.items()}
            )
        except TypeError as reason:
            raise ValueError(f"{directory / CONFIG_FILE}: {reason}; train the model again") from None
