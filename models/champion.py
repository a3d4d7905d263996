"""A trained model registered: as champion if it is fit to be one, else as a version that nobody follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tocsin.models.gate import Candidate


class Registered(NamedTuple):
    """A model's version in the registry, None without a registry, and why it is not champion; empty if it is."""

    version: str | None
    refused: str


@dataclass(frozen=True)
class Registrar:
    """Registers trained models.

    Args:
        uri: of the registry; None: there is none.
        force: as champion even where it is worse than the one that stands, see `tocsin.models.gate.refusal`.
    """

    uri: str | None
    force: bool = False

    @property
    def artifacts(self) -> str | None:
        """Where files go beside a local database; a server knows its own place."""
        if self.uri and self.uri.startswith("sqlite:///"):
            return str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlruns")
        return None

    def register(self, candidate: Candidate, register: Callable[..., str], *, name: str) -> Registered:
        """Register a model.

        Args:
            register: called with `tracking_uri`, `name`, `artifact_location` and `champion`, as
                `tocsin.models.registry.register`.
        """
        from tocsin.models.gate import refusal
        from tocsin.models.registry import champion

        if self.uri is None:
            return Registered(None, refusal(candidate, None))
        refused = refusal(candidate, champion(name, tracking_uri=self.uri), force=self.force)
        version = register(tracking_uri=self.uri, name=name, artifact_location=self.artifacts, champion=not refused)
        return Registered(version, refused)
