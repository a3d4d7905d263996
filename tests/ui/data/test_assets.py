"""Assets: the latest row of each, a bounded history that keeps extremes, and frames of the lake alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.ui import scene
from tocsin.pipelines.runtime.declare.curves import Curve, Explanation
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.ui.data.assets import Assets, around, curves, frames, heat, main_column, thinned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    scene.build_lake(folder, engines=20)
    return folder


@pytest.fixture
def assets(folder: Path) -> Assets:
    return Assets(Lake(str(folder)))


def test_each_asset_has_its_latest_row(assets: Assets) -> None:
    latest = assets.latest("rul")
    assert latest.height == 20
    assert latest.filter(pl.col("key") == "7")["cycle"].item() == 399
    assert "attention" not in latest.columns
    assert assets.pipelines() == ["occupancy", "rul", "surprise"]


def test_a_list_is_read_again_only_after_a_commit(tmp_path: Path) -> None:
    scene.commit(tmp_path, "rul", scene.engine("7", 3))
    assets = Assets(Lake(str(tmp_path)))
    assert assets.latest("rul") is assets.latest("rul")
    scene.commit(tmp_path, "rul", scene.engine("8", 3))
    assert assets.latest("rul")["key"].to_list() == ["7", "8"]


@pytest.mark.parametrize("name", ["touch", "../other", "alerts"])
def test_only_a_table_of_the_lake_is_read(assets: Assets, folder: Path, name: str) -> None:
    scene.commit(folder.parent, "other", scene.engine("7"))
    for read in (lambda: assets.latest(name), lambda: assets.history(name, "7")):
        with pytest.raises(
            Unavailable, match=r"expected one of the lake's tables \(occupancy, rul, surprise\), got another"
        ):
            read()


def test_a_history_is_one_assets_by_time(assets: Assets) -> None:
    history = assets.history("rul", "7")
    assert (history.total, history.main, history.drawn) == (400, "rul", [Curve("rul", "cycle", "rul")])
    assert [curve.name for curve in history.curves] == ["rul", "unit", "cycle", "rul_low", "rul_high"]
    assert history.rows["cycle"].to_list() == [*range(400)]
    recent = assets.history("rul", "7", since=scene.NOON - timedelta(minutes=5))
    assert recent.total == 11
    assert assets.history("rul", "nobody").total == 0


def test_a_thinned_history_keeps_extremes() -> None:
    score = [0.1] * 10_000
    score[4321], score[7777] = 9.0, -9.0
    frame = pl.DataFrame({"n": range(10_000), "score": score})
    few = thinned(frame, "score", 100)
    assert few.height <= 100 and few["n"].is_sorted()
    assert {4321, 7777} <= set(few["n"])
    every = thinned(frame, "", 100)
    assert every.height <= 100 and every["n"].is_sorted()
    assert few["n"][-1] == every["n"][-1] == 9999, "a person looks at the newest row"


def test_attention_is_a_map(assets: Assets) -> None:
    times, values = heat(assets.history("occupancy", "atrium").rows)
    assert len(times) == len(values) == 120 and {len(v) for v in values} == {scene.WINDOW}


def test_an_explanation_is_summed_by_sensor(assets: Assets) -> None:
    history = assets.history("rul", "7")
    assert history.explanation == Explanation("explanation", ("2", "older"), scene.SENSORS, "cap / 1000")
    moved = history.explanation.by_sensor(history.rows)
    assert moved.columns == ["event_time", *scene.SENSORS]
    assert len(moved) == len(history.rows)
    last = history.rows["explanation"][-1].to_list()
    assert moved.row(-1)[1:] == tuple(last[i] + last[i + 3] for i in range(3))
    damaged = history.rows.with_columns(explanation=pl.lit([1], dtype=pl.List(pl.Int8)))
    assert history.explanation.by_sensor(damaged).is_empty()
    assert assets.history("occupancy", "atrium").explanation is None


def test_frames_come_from_the_lakes_folder_of_frames_alone(assets: Assets, folder: Path) -> None:
    rows = assets.history("surprise", "rov").rows
    assert [row["sequence"] for row in frames(rows, last=2)] == [100, 110]
    assert [row["sequence"] for row in around(rows, rows["event_time"][100], last=3)] == [90, 100, 110]
    first = frames(rows)[0]["frame"]
    assert (assets.frame(first) or b"")[:2] == b"\xff\xd8"
    (folder / "secret").write_text("x")
    assert [assets.frame(path) for path in ("secret", "frames/../secret", "frames/gone.jpg")] == [None, None, None]


def test_what_a_table_declares_is_drawn_with_its_unit(assets: Assets) -> None:
    history = assets.history("occupancy", "atrium")
    assert history.drawn == [
        Curve("probability", axis="probability"),
        Curve("occupied", axis="people"),
        Curve("scheduled", axis="people"),
        Curve("co2", "ppm", "co2"),
    ]
    assert history.main == "probability"


def test_without_a_declared_axis_each_float_has_its_own() -> None:
    schema = {"key": pl.String(), "n": pl.Int64(), "power": pl.Float32(), "heat": pl.Float32(), "on": pl.Boolean()}
    assert curves(schema, {}) == [Curve("power", axis="power"), Curve("heat", axis="heat"), Curve("n"), Curve("on")]
    declared = curves(schema, {"heat": {"axis": "air", "unit": "°C"}, "power": {"unit": "W"}})
    assert declared == [Curve("heat", "°C", "air"), Curve("n"), Curve("power", "W"), Curve("on")]
    assert main_column(declared) == "heat"
    assert main_column(curves({"n": pl.Int64()}, {})) == ""
