"""The figure of an asset: an axis for each declared one, alerts as shades and signs, levels as lines; the same file each time."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from tests.ui import scene
from tocsin.pipelines.runtime.declare.curves import Curve
from tocsin.pipelines.runtime.declare.pipeline import AlertRule
from tocsin.pipelines.ui.data.board import AlertState
from tocsin.pipelines.ui.figure import NAMED, SEVERITIES, content, draw

ENGINE = scene.engine("7", 60, 12.0)
RUL = Curve("rul", "cycle", "rul")
CRITICAL = AlertRule(name="critical", severity="critical", when=pl.col("rul") < 20)


def state(minutes: float, *, rule: str = "critical", cleared: float | None = None) -> AlertState:
    """An alert that was raised so many minutes before noon."""
    end = None if cleared is None else scene.NOON - timedelta(minutes=cleared)
    return AlertState(scene.alert("7", rule, after_s=-60 * minutes), 0, cleared=end)


def texts(axes: Any) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


def test_an_axis_has_its_unit_and_a_line_for_each_level() -> None:
    (axes,) = draw(ENGINE, [RUL], rules=[CRITICAL], title="rul: 7").axes
    assert axes.get_ylabel() == "rul [cycle]"
    assert axes.get_xlabel() == "event time (UTC)"
    assert "critical 20" in texts(axes)
    assert [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1] == [20]


def test_alerts_are_signs_on_the_curve_and_shades_until_they_clear() -> None:
    alerts = [state(5), state(20, rule="warning", cleared=10)]
    (axes,) = draw(ENGINE, [RUL], alerts).axes
    signs = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert signs.keys() == {"rul", "critical raised", "warning raised", "warning cleared"}
    assert signs["critical raised"].get_color() == SEVERITIES["critical"]
    values = dict(zip(ENGINE["event_time"], ENGINE["rul"], strict=True))
    assert signs["critical raised"].get_ydata()[0] == values[alerts[0].alert.time]
    assert len(axes.patches) == 2
    assert {"critical", "warning"} <= set(texts(axes))
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["warning raised", "warning cleared", "critical raised"]


def test_an_alert_outside_of_the_time_leaves_no_sign() -> None:
    before, over, after = state(300, cleared=200), state(300, cleared=10), state(-5)
    (axes,) = draw(ENGINE, [RUL], [after, over, before]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["critical cleared"]
    assert len(axes.patches) == 1
    assert texts(axes) == []


def test_many_alerts_are_not_named() -> None:
    (axes,) = draw(ENGINE, [RUL], [state(n / 4, cleared=n / 4) for n in range(NAMED + 1)]).axes
    assert texts(axes) == []


def test_columns_of_one_axis_share_it_and_booleans_are_bars() -> None:
    room = scene.room("atrium").with_columns(level=pl.lit(0.5))
    drawn = [
        Curve("probability", axis="p"),
        Curve("level", axis="p"),
        Curve("occupied", axis="people"),
        Curve("co2", "ppm"),
    ]
    shared, people, air = draw(room, [*drawn, Curve("scheduled", axis="people")]).axes
    assert (shared.get_ylabel(), air.get_ylabel()) == ("p", "co2 [ppm]")
    assert [text.get_text() for text in shared.get_legend().get_texts()] == ["probability", "level"]
    assert len({line.get_linestyle() for line in shared.lines}) == 2, "they must differ in grey, too"
    assert [label.get_text() for label in people.get_yticklabels()] == ["scheduled", "occupied"]
    assert people.get_position().height < air.get_position().height


def test_missing_values_leave_a_gap() -> None:
    rows = ENGINE.with_columns(rul=pl.when(pl.col("cycle") > 3).then("rul"))
    (axes,) = draw(rows, [RUL], [state(100), state(5)]).axes
    assert pl.Series(axes.lines[0].get_ydata()).is_nan().sum() == 4
    nothing = ENGINE.with_columns(rul=pl.lit(None, pl.Float32))
    assert content(draw(nothing, [RUL], [state(5)]), "png")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_is_the_same_file(kind: str) -> None:
    files = {content(draw(ENGINE, [RUL], [state(5)], [CRITICAL]), kind) for _ in range(2)}
    assert len(files) == 1
    (file,) = files
    if kind == "svg":
        assert re.match(rb"<\?xml", file) and b"http://www.w3.org/2000/svg" in file
    else:
        assert file[:4] == b"\x89PNG" and len(file) > 10_000
