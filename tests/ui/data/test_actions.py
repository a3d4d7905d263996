"""Actions: refused on a read-only page; a mute comes before its event."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.ui.scene import alert, letter
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.ui.data import actions as module
from tocsin.pipelines.ui.data.actions import Actions
from tocsin.pipelines.ui.data.board import AlertBoard

RAISED = alert("-7", id="a" * 32)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Alert, int]]:
    found: list[tuple[Alert, int]] = []
    monkeypatch.setattr(module, "publish", lambda options, event, partition: found.append((event, partition)))
    return found


def _actions(code: str = "", *, allowed: bool = True, calls: list[Any] | None = None) -> Actions:
    def silence(*order: str) -> Sequence[str]:
        (calls if calls is not None else []).append(order)
        return [sys.executable, "-S", "-c", code]

    board = AlertBoard()
    board.add(RAISED, 2)
    return Actions({}, board, None, silence=silence, allowed=allowed)  # type: ignore[arg-type]


def test_a_read_only_page_changes_nothing(published: list[Any]) -> None:
    actions = _actions(allowed=False)
    for act in (
        lambda: actions.acknowledge(RAISED.id, by="Zoë", reason="seen"),
        lambda: actions.silence(RAISED.id, by="Zoë", reason="seen", last="2h"),
        lambda: actions.replay([letter()]),
    ):
        with pytest.raises(ConfigError, match="read-only; start it with `tocsin ui --allow-changes`"):
            act()
    assert published == []


def test_an_acknowledgement_goes_to_the_alerts_partition(published: list[tuple[Alert, int]]) -> None:
    event = _actions().acknowledge(RAISED.id, by="Zoë", reason="seen")
    assert published == [(event, 2)]
    assert (event.about, event.transition) == (RAISED.id, "acknowledged")


def test_a_mute_runs_the_command_and_says_until_when(published: list[tuple[Alert, int]]) -> None:
    calls: list[Any] = []
    event = _actions(calls=calls).silence(RAISED.id, by="Zoë", reason="repair", last="2h")
    assert calls == [("rul", "-7", "2h")]
    assert [e.transition for e, _ in published] == ["silenced"]
    assert "silenced_until" in event.data


def test_a_mute_that_fails_publishes_nothing(published: list[Any]) -> None:
    code = "import sys; sys.exit(print('tocsin: pipeline rul: expected it to run', file=sys.stderr) or 1)"
    with pytest.raises(Unavailable, match=r"^pipeline rul: expected it to run$"):
        _actions(code).silence(RAISED.id, by="Zoë", reason="repair", last="2h")
    assert published == []


def test_what_is_not_on_the_page_is_refused(published: list[Any]) -> None:
    with pytest.raises(ConfigError, match="expected one that this page still shows, got none"):
        _actions().acknowledge("b" * 32, by="Zoë", reason="seen")
    with pytest.raises(ConfigError, match="expected one of 30min, 2h, 8h, 24h, got '9y'"):
        _actions().silence(RAISED.id, by="Zoë", reason="seen", last="9y")
