"""Register a trained model: as champion if it passes the gate, else as a version that no deployment follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tocsin.models.gate import Candidate


class Registered(NamedTuple):
    """A registered model: its version, None without a registry; and why it was refused as champion, empty if it was not."""

    version: str | None
    refused: str


@dataclass(frozen=True)
class Registrar:
    """Registers trained models.

    Args:
        uri: of the registry; None if there is none.
        force: register as champion even a model that is worse than the current champion, see `tocsin.models.gate.refusal`.
    """

    uri: str | None
    force: bool = False

    @property
    def artifacts(self) -> str | None:
        """Folder for the files of a local database; None for a server, which has its own location."""
        if self.uri and self.uri.startswith("sqlite:///"):
            return str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlruns")
        return None

    def register(self, candidate: Candidate, register: Callable[..., str], *, name: str) -> Registered:
        """Register a model.

        Args:
            register: called with `tracking_uri`, `name`, `artifact_location` and `champion`, like
                `tocsin.models.registry.register`.
        """
        from tocsin.models.gate import refusal
        from tocsin.models.registry import champion

        if self.uri is None:
            return Registered(None, refusal(candidate, None))
        refused = refusal(candidate, champion(name, tracking_uri=self.uri), force=self.force)
        version = register(tracking_uri=self.uri, name=name, artifact_location=self.artifacts, champion=not refused)
        return Registered(version, refused)
