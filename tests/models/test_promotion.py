"""Aliases of registered versions: promoted, rolled back, withdrawn."""

from __future__ import annotations

import re

import pytest

from tocsin.models.promotion import promote, rollback
from tocsin.models.tracking_store import connect


@pytest.fixture
def registry(tracking_uri: str) -> str:
    """A registry with versions 1 to 4 of `pumps`. Each has a run with a figure."""
    client = connect(tracking_uri)
    client.create_registered_model("pumps")
    for version in range(1, 5):
        run = client.create_run("0").info.run_id
        client.log_metric(run, "validation_rmse", 10.0 - version)
        client.log_metric(run, "loss", 1.0)
        client.create_model_version("pumps", "file:///nowhere", run)
    return tracking_uri


def _aliases(registry: str) -> dict[str, str]:
    found = connect(registry).get_registered_model("pumps").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_challenger_becomes_champion_and_is_challenger_no_longer(registry: str) -> None:
    promote("pumps/1", tracking_uri=registry)
    assert promote("pumps/2", alias="challenger", tracking_uri=registry).previous == ""
    assert _aliases(registry) == {"champion": "1", "challenger": "2"}
    changed = promote("pumps", tracking_uri=registry)
    assert (changed.version, changed.previous) == ("2", "1")
    assert changed.figures == {"validation_rmse": (9.0, 8.0)}
    assert _aliases(registry) == {"champion": "2"}


def test_each_roll_back_goes_one_champion_further_back(registry: str) -> None:
    for version in (1, 3, 2):
        promote(f"pumps/{version}", tracking_uri=registry)
    assert [rollback("pumps", tracking_uri=registry).version for _ in range(2)] == ["3", "1"]
    with pytest.raises(
        ValueError, match="expected a champion before 1, got none; name the version: `tocsin promote pumps/N`"
    ):
        rollback("pumps", tracking_uri=registry)
    promote("pumps/4", tracking_uri=registry)
    assert rollback("pumps", tracking_uri=registry).version == "1"


def test_a_roll_back_skips_a_version_that_was_deleted(registry: str) -> None:
    for version in (1, 2, 3):
        promote(f"pumps/{version}", tracking_uri=registry)
    connect(registry).delete_model_version("pumps", "2")
    assert rollback("pumps", tracking_uri=registry).version == "1"


def test_the_champion_that_someone_set_by_hand_is_part_of_the_history(registry: str) -> None:
    connect(registry).set_registered_model_alias("pumps", "champion", "1")
    promote("pumps/2", tracking_uri=registry)
    assert rollback("pumps", tracking_uri=registry).version == "1"


def test_a_challenger_can_be_withdrawn(registry: str) -> None:
    promote("pumps/2", alias="challenger", tracking_uri=registry)
    assert rollback("pumps", alias="challenger", tracking_uri=registry).previous == "2"
    assert _aliases(registry) == {}
    with pytest.raises(ValueError, match="model pumps: expected a @challenger, got none"):
        rollback("pumps", alias="challenger", tracking_uri=registry)


@pytest.mark.parametrize(
    ("model", "alias", "says"),
    [
        ("pumps", "champion", "model pumps: expected a @challenger, got none; name a version, such as pumps/4"),
        ("pumps", "challenger", "model pumps: expected a version that becomes challenger, such as pumps/2, got none"),
        ("pumps/9", "champion", "model pumps: expected one of the versions 1, 2, 3, 4, got 9"),
        (
            "pumps@champion",
            "champion",
            "model pumps@champion: expected a name, such as pumps, or a version, such as pumps/7",
        ),
        ("fans", "champion", "model fans: expected it to be registered, got no such name; train it first"),
        ("fans/1", "challenger", "model fans: expected it to be registered, got no such name; train it first"),
    ],
)
def test_what_is_not_there_is_one_line(registry: str, model: str, alias: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        promote(model, alias=alias, tracking_uri=registry)
    assert _aliases(registry) == {}
