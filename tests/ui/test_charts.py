"""Charts: which columns of an answer are drawn first, and what ECharts is told."""

from __future__ import annotations

from tests.ui import scene
from tocsin.pipelines.runtime.declare.curves import Curve
from tocsin.pipelines.ui.charts import chartable, curve


def test_a_chart_begins_with_what_was_measured_over_time() -> None:
    xs, ys = chartable(scene.engine("7").select("topic", "partition", "offset", "event_time", "unit", "rul"))
    assert xs[0] == "event_time" and ys == ["rul", "unit", "partition", "offset"]


def test_an_axis_has_its_unit() -> None:
    options = curve(scene.room("atrium"), Curve("co2", "ppm"))
    assert options["yAxis"]["name"] == "co2 [ppm]" and options["series"][0]["name"] == "co2"
