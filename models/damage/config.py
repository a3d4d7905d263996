"""The configuration of a trained damage model, stored as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tocsin.models import files
from tocsin.models.damage.network import NetworkConfig
from tocsin.models.trained import CONFIG_FILE, config_of
from tocsin.models.vision.appearance import Appearance


@dataclass(frozen=True, kw_only=True)
class DamageConfig:
    """A model and how it looks at pictures.

    Args:
        network: sizes.
        encoder: version of the encoder's weights at training. The model does not work with another encoder's tokens.
        small, large: pixels of the coarse look: a picture is scaled to no fewer and no more.
        finest: by how much the close look is finer than the coarse one, at most; a picture is not enlarged for it.
        budget: share of a picture's patches that are looked at closely.
        level: least probability of damage, 0 to 1, of a damaged picture.
        place: least probability of a damaged place.
        appearance: what is usual for frames; None: not known.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    encoder: str = ""
    small: int = 224 * 224
    large: int = 272 * 480
    finest: int = 4
    budget: float = 0.4
    level: float = 0.5
    place: float = 0.5
    appearance: Appearance | None = None

    @classmethod
    def load(cls, directory: Path) -> DamageConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: the file has unknown settings.
        """
        stored = files.read_json(directory / CONFIG_FILE)
        with config_of("a damage model", directory):
            network = {**stored.pop("network", {})}
            if "sizes" in network:
                network["sizes"] = tuple(network["sizes"])
            usual = stored.pop("appearance", None)
            return cls(network=NetworkConfig(**network), appearance=Appearance.of(**usual) if usual else None, **stored)
