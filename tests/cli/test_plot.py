"""`tocsin plot`: a picture of one asset from the lake alone, and one line for each thing that is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.ui import scene
from tests.ui.data.test_alert_feed import rows
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable

Plot = Callable[..., str]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines, a room and a camera until a time in the past; the alerts of engine 7."""
    lake = tmp_path_factory.mktemp("lake")
    scene.build_lake(lake, engines=20)
    alerts = [scene.alert("7", "warning", after_s=-600), scene.alert("7", after_s=-120), scene.alert("8", after_s=-60)]
    scene.commit(lake, "alerts", rows("alerts.rul", *alerts, scene.alert("7", "warning", "cleared", after_s=-30)))
    return lake


@pytest.fixture
def plot(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plot:
    """`plot(*arguments)` runs the command in `tmp_path`. Returns its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        command = arguments if arguments[0] == "explain" else ("plot", *arguments)
        call = ["--set", f"lake.path={lake}", "--set", "mlflow.enabled=false", *command]
        return CliRunner().invoke(app, call, catch_exceptions=False).output

    return run


def test_an_asset_is_drawn_with_its_alerts_and_levels(plot: Plot, tmp_path: Path) -> None:
    said = plot("rul", "7", "--out", "engine.svg")
    assert "400 rows from 2026-01-31 08:40:30 to 2026-01-31 12:00:00 UTC: engine.svg" in said
    assert "without the levels" not in said
    drawn = (tmp_path / "engine.svg").read_text()
    # matplotlib writes each text, before its outlines, as a comment.
    named = (
        "rul: 7",
        "rul [cycle]",
        "event time (UTC)",
        "warning 50",
        "critical 20",
        "warning raised",
        "warning cleared",
    )
    assert [text for text in (*named, "critical raised") if f"<!-- {text} -->" not in drawn] == []
    assert "critical cleared" not in drawn


def test_an_engine_is_explained_by_its_sensors_below_its_curve(plot: Plot, tmp_path: Path) -> None:
    plot("explain", "rul", "7", "--out", "engine.svg")
    drawn = (tmp_path / "engine.svg").read_text()
    named = ("rul: 7", "rul [cycle]", "warning 50", "critical raised", *scene.SENSORS, "cap / 1000")
    assert [text for text in named if f"<!-- {text} -->" not in drawn] == []
    plot("rul", "7", "--out", "plain.svg")
    assert "<!-- s11 -->" not in (tmp_path / "plain.svg").read_text()


def test_the_file_is_named_after_the_asset_unless_it_is_given(plot: Plot, tmp_path: Path) -> None:
    plot("occupancy", "atrium", "--column", "co2", "--column", "occupied")
    assert (tmp_path / "occupancy-atrium.png").read_bytes()[:4] == b"\x89PNG"
    found: dict[str, Any] = json.loads(plot("surprise", "rov", "--json").splitlines()[-1])
    assert found == {
        "file": "surprise-rov.png",
        "rows": 120,
        "from": "2026-01-31T11:59:36.200000+00:00",
        "to": "2026-01-31T12:00:00+00:00",
        "columns": ["score", "level"],
    }


def test_a_table_that_is_no_pipelines_is_drawn_without_levels(plot: Plot, lake: Path, tmp_path: Path) -> None:
    scene.commit(lake, "rul_again", scene.engine("7", 5).with_columns(key=pl.lit("a/b")))
    said = plot("rul_again", "a/b")
    assert "drawn without the levels of its rules: pipeline rul_again: expected one of" in said
    assert (tmp_path / "rul_again-a_b.png").exists()


def test_only_rows_since_a_time_are_drawn(plot: Plot) -> None:
    assert "11 rows from 2026-01-31 11:55:00" in plot("rul", "7", "--since", "2026-01-31T11:55:00Z")
    age = (datetime.now(UTC) - scene.NOON + timedelta(hours=2)) / timedelta(hours=1)
    assert json.loads(plot("rul", "7", "--since", f"{age:.0f}h", "--json").splitlines()[-1])["rows"] in range(120, 360)


def test_an_asset_that_is_not_there_is_one_line_with_some_that_are(plot: Plot) -> None:
    with pytest.raises(ConfigError) as said:
        plot("rul", "77")
    assert str(said.value) == (
        "results of rul: expected an asset of the table, got 77; its assets: such as 10, 11, 12, 13, 14 and 15 others"
    )


def test_a_time_without_rows_is_one_line_with_the_newest_row(plot: Plot) -> None:
    with pytest.raises(ConfigError) as said:
        plot("rul", "7", "--since", "1s")
    assert str(said.value) == (
        "results of rul: expected rows of 7 since 1s, got none; its newest row is of 2026-01-31 12:00:00 UTC; "
        "choose an earlier --since"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rul", "7", "--out", "x.jpg"], "--out x.jpg: expected a name that ends in .png or .svg, got another"),
        (
            ["rul", "7", "--column", "explanation"],
            r"--column explanation: expected a column of numbers \(rul, unit, cycle, rul_low, rul_high\)",
        ),
        (
            ["explain", "occupancy", "atrium"],
            "expected a column that explains them, got none; draw them without: tocsin plot occupancy atrium",
        ),
        (["rul", "7", "--since", "yesterday"], "time yesterday: expected a duration such as 2h or a time"),
    ],
)
def test_a_wrong_option_is_one_line(plot: Plot, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plot(*arguments)


def test_a_pipeline_without_results_is_one_line(plot: Plot) -> None:
    with pytest.raises(
        Unavailable, match=r"results of touch: expected one of the lake's tables \(.*rul.*\), got another"
    ):
        plot("touch", "7")


def test_a_table_without_numbers_is_one_line(plot: Plot, lake: Path) -> None:
    scene.commit(lake, "texts", scene.engine("7").select(pl.exclude("rul", "rul_low", "rul_high", "unit", "cycle")))
    with pytest.raises(ConfigError, match="results of texts: expected a column of numbers, got none"):
        plot("texts", "7")
