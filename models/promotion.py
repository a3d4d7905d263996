"""Which version of a registered model deployments follow, which one they try beside it, and the way back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tocsin.models.tracking_store import CHALLENGER, CHAMPION, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY = "tocsin.champions"
"""Tag of a registered model: the versions that have been champion, the oldest first."""
LONGEST = 50
"""Versions in the history."""


@dataclass(frozen=True)
class Change:
    """A changed alias.

    Args:
        version: that has the alias now; "" if none has.
        previous: that had it before; "" if none had.
        figures: name -> the previous version's figure and the new one's, of those that both training runs have.
    """

    name: str
    alias: str
    version: str
    previous: str
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)


def promote(model: str, *, alias: str = CHAMPION, tracking_uri: str) -> Change:
    """Give a version an alias.

    Args:
        model: "pumps/7", or "pumps" for the challenger of that name.
        alias: a challenger that becomes champion is challenger no longer.

    Raises:
        ValueError: there is no such version, or no challenger.
        MlflowException: the registry does not answer.
    """
    client = connect(tracking_uri)
    name, version = _named(model)
    aliases = _aliases(client, name)
    if not version and alias == CHALLENGER:
        raise ValueError(f"model {name}: expected a version that becomes challenger, such as {name}/2, got none")
    version = version or aliases.get(CHALLENGER, "")
    if not version:
        raise ValueError(
            f"model {name}: expected a @{CHALLENGER}, got none; name a version, such as {name}/{max(_versions(client, name))}"
        )
    if int(version) not in (existing := _versions(client, name)):
        raise ValueError(f"model {name}: expected one of the versions {_listed(existing)}, got {version}")
    previous = aliases.get(alias, "")
    give(client, name, version, alias)
    if alias == CHAMPION and aliases.get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return Change(name, alias, version, previous, _figures(client, name, previous, version))


def rollback(name: str, *, alias: str = CHAMPION, tracking_uri: str) -> Change:
    """Make the champion before this one champion again; as challenger: take the alias away.

    Raises:
        ValueError: there is no such model, no earlier champion that still exists, or no challenger.
        MlflowException: the registry does not answer.
    """
    client = connect(tracking_uri)
    aliases = _aliases(client, name)
    previous = aliases.get(alias, "")
    if alias == CHALLENGER:
        if not previous:
            raise ValueError(f"model {name}: expected a @{CHALLENGER}, got none")
        client.delete_registered_model_alias(name, CHALLENGER)
        return Change(name, alias, "", previous)
    existing = _versions(client, name)
    earlier = [v for v in _history(client, name) if int(v) in existing]
    while earlier and earlier[-1] == previous:
        earlier.pop()
    if not earlier:
        raise ValueError(
            f"model {name}: expected a champion before {previous or 'this one'}, got none; name the version: "
            f"`tocsin promote {name}/N` (there are {_listed(existing)})"
        )
    version = earlier[-1]
    client.set_registered_model_tag(name, HISTORY, " ".join(earlier))
    client.set_registered_model_alias(name, CHAMPION, version)
    return Change(name, alias, version, previous, _figures(client, name, previous, version))


def give(client: MlflowClient, name: str, version: str, alias: str) -> None:
    """Give a version an alias, and remember it if it becomes champion."""
    if alias == CHAMPION:
        current, past = _aliases(client, name).get(CHAMPION, ""), _history(client, name)
        for each in (current, version):
            if each and past[-1:] != [each]:
                past.append(each)
        client.set_registered_model_tag(name, HISTORY, " ".join(past[-LONGEST:]))
    client.set_registered_model_alias(name, alias, version)


def _named(model: str) -> tuple[str, str]:
    match = re.fullmatch(r"([^/@]+)(?:/(\d+))?", model)
    if not match:
        raise ValueError(f"model {model}: expected a name, such as pumps, or a version, such as pumps/7")
    return match[1], match[2] or ""


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as reason:
        if reason.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"model {name}: expected it to be registered, got no such name; train it first") from reason
    return {alias: str(version) for alias, version in found.items()}


def _history(client: MlflowClient, name: str) -> list[str]:
    """The versions that have been champion, the last one last. Models of before 0.2 have no history."""
    return [v for v in client.get_registered_model(name).tags.get(HISTORY, "").split() if v.isdigit()]


def _versions(client: MlflowClient, name: str) -> list[int]:
    return sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))


def _listed(versions: list[int]) -> str:
    return ", ".join(map(str, versions[-10:])) or "none"


def _figures(client: MlflowClient, name: str, previous: str, version: str) -> dict[str, tuple[float, float]]:
    """The validation and test figures that the training runs of both versions have."""
    if not previous or previous == version:
        return {}
    old, new = (_metrics(client, name, each) for each in (previous, version))
    return {figure: (old[figure], new[figure]) for figure in sorted(old.keys() & new.keys())}


def _metrics(client: MlflowClient, name: str, version: str) -> dict[str, float]:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_model_version(name, version).run_id
        metrics = client.get_run(run).data.metrics if run else {}
    except MlflowException:  # the version or its run is deleted
        return {}
    return {figure: value for figure, value in metrics.items() if figure.startswith(("validation_", "test_"))}
