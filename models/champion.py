"""Register a trained model: as champion or challenger if it passes the gate, else as a version that no deployment uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tocsin.models.tracking_store import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from tocsin.models.gate import Candidate


class Registered(NamedTuple):
    """A registered model: its version, None without a registry; why it was refused, empty if it was not; and its alias."""

    version: str | None
    refused: str
    alias: str = CHAMPION


@dataclass(frozen=True)
class Registrar:
    """Registers trained models.

    Args:
        uri: of the registry; None if there is none.
        force: register as champion even a model that is worse than the current champion, see `tocsin.models.gate.refusal`.
        alias: what the model is to become. A challenger may be worse than the champion.
    """

    uri: str | None
    force: bool = False
    alias: str = CHAMPION

    @property
    def artifacts(self) -> str | None:
        """Folder for the files of a local database; None for a server, which has its own location."""
        if self.uri and self.uri.startswith("sqlite:///"):
            return str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlruns")
        return None

    def register(self, candidate: Candidate, register: Callable[..., str], *, name: str) -> Registered:
        """Register a model.

        Args:
            register: called with `tracking_uri`, `name`, `artifact_location` and `alias`, like
                `tocsin.models.registry.register`.
        """
        from tocsin.models.gate import refusal
        from tocsin.models.registry import champion

        if self.uri is None:
            return Registered(None, refusal(candidate, None))
        current = None if self.alias == CHALLENGER else champion(name, tracking_uri=self.uri)
        refused = refusal(candidate, current, force=self.force)
        alias = "" if refused else self.alias
        version = register(tracking_uri=self.uri, name=name, artifact_location=self.artifacts, alias=alias)
        return Registered(version, refused, self.alias)
