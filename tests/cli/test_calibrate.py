"""`tocsin calibrate`: a room's threshold from a file with a few days of its truth, or from the table of labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.ui import scene
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.declare.errors import ConfigError

Calibrate = Callable[..., str]
BEGIN, DAYS = datetime(2026, 1, 5, tzinfo=UTC), 3
TIMES = [BEGIN + timedelta(minutes=n) for n in range(DAYS * 1440)]
OCCUPIED = np.array([9 <= at.hour < 12 for at in TIMES])


def probability(shift: float) -> pl.Series:
    """Right in the logit but for a shift and noise."""
    logit = np.where(OCCUPIED, 2.0, -2.0) + shift + np.random.default_rng(0).normal(0, 0.5, len(OCCUPIED))
    return pl.Series(1 / (1 + np.exp(-logit)), dtype=pl.Float32)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rooms: `high` has probabilities that are too high, `right` has not; and labels of one of them."""
    lake = tmp_path_factory.mktemp("lake")
    for key, shift in (("high", 2.5), ("right", 0.0)):
        columns = {"room": [key] * len(TIMES), "event_time": TIMES, "probability": probability(shift)}
        scene.commit(lake, "occupancy", scene.rows("occupancy", key, columns, every=timedelta(minutes=1)))
    counts = {"room": ["high"] * len(TIMES), "event_time": TIMES, "count": (OCCUPIED * 2.0).tolist()}
    scene.commit(lake, "labels.occupancy", scene.rows("labels.occupancy", "high", counts, every=timedelta(minutes=1)))
    return lake


@pytest.fixture
def calibrate(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibrate:
    """`calibrate(*arguments)` runs the command in `tmp_path`, where `truth.csv` is. Returns its output."""
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"time": TIMES, "people": OCCUPIED * 2}).with_columns(
        pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")
    ).write_csv("truth.csv")

    def run(*arguments: str) -> str:
        call = ["--set", f"lake.path={lake}", "--set", "mlflow.enabled=false", "calibrate", *arguments]
        return CliRunner().invoke(app, call, catch_exceptions=False).stdout

    return run


def test_a_room_that_reads_too_high_gets_lines_for_the_settings(calibrate: Calibrate) -> None:
    said = calibrate("occupancy", "high", "--labels", "truth.csv")
    assert "high: 3 labelled days, occupied 12% of the time; F1 0." in said
    assert '[pipelines.occupancy.rooms."high"]\nthreshold = 0.' in said


def test_labels_in_the_lake_say_the_same_as_a_file(calibrate: Calibrate) -> None:
    file, table = (
        json.loads(calibrate("occupancy", "high", *more, "--json")) for more in (("--labels", "truth.csv"), ())
    )
    assert file == table and file["threshold"] > 0.7 and file["f1"] > file["f1_usual"]


def test_a_room_that_reads_right_keeps_the_models_threshold(calibrate: Calibrate) -> None:
    said = calibrate("occupancy", "right", "--labels", "truth.csv")
    assert "the room keeps the model's threshold, 0.5" in said and "pipelines.occupancy" not in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("occupancy", "none"),
            "results of occupancy: expected rows of none, got none; has the pipeline read its readings?",
        ),
        (("occupancy", "right"), "labels of occupancy: expected some of right, got none"),
        (("occupancy", "right", "--labels", "nowhere.csv"), "nowhere.csv: expected a CSV file"),
        (("occupancy", "right", "--labels", "rooms.csv"), "rooms.csv: expected the truth of right, got that of a, b"),
        (
            ("occupancy", "right", "--labels", "day.csv"),
            "expected the truth of 2 days at least, got 1; label more days",
        ),
    ],
)
def test_what_is_missing_is_one_line(
    calibrate: Calibrate, tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    truth = (tmp_path / "truth.csv").read_text().splitlines()
    (tmp_path / "rooms.csv").write_text("room,time,people\na,2026-01-05 00:00:00,1\nb,2026-01-05 00:00:00,0\n")
    (tmp_path / "day.csv").write_text("\n".join(truth[:1000]) + "\n")
    with pytest.raises(ConfigError) as raised:
        calibrate(*arguments)
    assert line in str(raised.value) and "\n" not in str(raised.value)
