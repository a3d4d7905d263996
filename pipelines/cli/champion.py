"""A trained model registered: as champion if it is fit to be one, else as a version that nobody follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tocsin.models.gate import Candidate
    from tocsin.pipelines.runtime.settings import Settings


class Registered(NamedTuple):
    """A model's version in the registry, None without a registry, and why it is not champion; empty if it is."""

    version: str | None
    refused: str


def registered(
    settings: Settings, candidate: Candidate, register: Callable[..., str], *, name: str, force: bool
) -> Registered:
    """Register a model.

    Args:
        register: called with `tracking_uri`, `name`, `artifact_location` and `champion`, as `tocsin.models.registry.register`.
        force: see `tocsin.models.gate.refusal`.
    """
    from tocsin.models.gate import refusal
    from tocsin.models.registry import champion

    if not settings.mlflow.enabled:
        return Registered(None, refusal(candidate, None))
    uri = settings.mlflow.tracking_uri
    refused = refusal(candidate, champion(name, tracking_uri=uri), force=force)
    version = register(tracking_uri=uri, name=name, artifact_location=artifacts(uri), champion=not refused)
    return Registered(version, refused)


def told(made: Registered, folder: Path, name: str) -> dict[str, Any]:
    """What the commands say of it."""
    refused = made.refused or None
    return {"model": str(folder), "name": name, "version": made.version, "refused": refused}


def check_champion(made: dict[str, Any]) -> None:
    """Raise if a model, as of `told`, was refused.

    Raises:
        ModelError: with what has become of it instead.
    """
    from tocsin.pipelines.runtime.declare.errors import ModelError

    if not made["refused"]:
        return
    name, version = made["name"], made["version"]
    where = f"it is registered as {name}/{version} without the alias" if version else f"it is in {made['model']}"
    raise ModelError(
        f"model {name}{f'/{version}' if version else ''} does not become {name}@champion: {made['refused']}; {where}. Train it "
        "again, on more data or for longer; --force takes one that is worse"
    )


def artifacts(uri: str) -> str | None:
    """Files beside a local database; a server knows its own place."""
    return str(Path(uri.removeprefix("sqlite:///")).parent / "mlruns") if uri.startswith("sqlite:///") else None
