"""The board: each raised alert once, with what has become of it, and changes by number."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.ui.scene import alert
from tocsin.pipelines.ui.data.board import AlertBoard, evidence


def test_an_alert_is_raised_acknowledged_and_cleared() -> None:
    board, raised = AlertBoard(), alert("7", id="a" * 32)
    board.add(raised, 2)
    assert [(s.alert, s.partition, s.state) for s in board.raised()] == [(raised, 2, "raised")]
    act = replace(raised, id="b" * 32, transition="acknowledged", about=raised.id, by="Zoë", reason="seen")
    board.add(act, 2)
    (state,) = board.alerts()
    assert (state.state, state.last_act, state.is_open) == ("acknowledged", act, True)
    board.add(alert("7", transition="cleared", after_s=9), 2)
    (state,) = board.alerts()
    assert (state.state, state.cleared, board.raised()) == ("cleared", alert(after_s=9).time, [])


def test_a_mute_ends_by_itself() -> None:
    board, raised = AlertBoard(), alert("7", id="a" * 32)
    board.add(raised, 0)
    for hours, state in ((1, "silenced"), (-1, "raised")):
        until = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
        act = replace(raised, transition="silenced", about=raised.id, by="Zoë", data={"silenced_until": until})
        board.add(act, 0)
        assert [s.state for s in board.alerts()] == [state]


def test_a_page_asks_only_for_what_changed() -> None:
    board = AlertBoard()
    board.add(first := alert("7"), 0)
    number = board.number
    assert board.alerts(number) == []
    board.add(alert("8"), 0)
    board.add(first, 0)  # the same event again
    assert [s.alert.key for s in board.alerts(number)] == ["8"]


def test_old_alerts_leave_but_not_while_they_are_raised() -> None:
    board = AlertBoard(keep=3)
    board.add(alert("open"), 0)
    for n in range(10):
        board.add(alert("7", after_s=2 * n), 0)
        board.add(alert("7", transition="cleared", after_s=2 * n + 1), 0)
    assert len(board.alerts()) == 3
    assert [s.alert.key for s in board.raised()] == ["open"]


def test_another_asset_or_rule_clears_nothing() -> None:
    board = AlertBoard()
    board.add(alert("7"), 0)
    board.add(alert("8", transition="cleared", after_s=1), 0)
    board.add(alert("7", rule="warning", transition="cleared", after_s=1), 0)
    assert [s.alert.key for s in board.raised()] == ["7"]


def test_what_is_about_an_unknown_alert_is_left_out() -> None:
    board = AlertBoard()
    board.add(replace(alert(), transition="acknowledged", about="f" * 32, by="Zoë", reason="seen"), 0)
    assert (board.alerts(), board.number) == ([], 0)


def test_evidence_is_one_line_without_lineage() -> None:
    said = evidence(replace(alert(), data={"topic": "t", "offset": 3, "unit": "7", "rul": 12.3456, "map": [[1.0]]}))
    assert said == "rul 12.35"
