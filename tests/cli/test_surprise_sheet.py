"""The contact sheet of surprise: the last kept frames of a hand-written table, with the map drawn over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg
from typer.testing import CliRunner

from tests.support.dives import SIZE
from tocsin.pipelines.cli import frames
from tocsin.pipelines.cli.app import app

FRAME_HEIGHT, LINE, WIDTH = 213, 18, 320
"""In pixels: height of a frame of `SIZE` on a sheet, height of the line under it, and width of both."""


class Called(NamedTuple):
    """A command's result: its lines of JSON, or the error message."""

    said: list[Any]
    why: str


def tocsin(settings: dict[str, str], *arguments: str) -> Called:
    """Run a command in this process."""
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(app, [*given, *arguments])
    if done.exit_code:
        return Called([], str(done.exception))
    return Called([json.loads(line) for line in done.stdout.splitlines()], "")


class Table(NamedTuple):
    """Hand-written tables of frames in a lake."""

    settings: dict[str, str]
    folder: Path

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        frame = pl.DataFrame(rows, schema_overrides={"map": pl.List(pl.List(pl.Float32)), "frame": pl.String})
        frame.write_delta(str(self.folder / name))

    def sheet(self, name: str, *arguments: str) -> tuple[dict[str, Any], np.ndarray]:
        """Run `tocsin frames`. Returns its report and the sheet in RGB."""
        file = self.folder / "sheet.png"
        called = tocsin(self.settings, "frames", name, "--out", str(file), *arguments, "--json")
        assert not called.why
        return called.said[0], cv2.imread(str(file))[..., ::-1].astype(int)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    folder = tmp_path / "lake"
    (folder / "frames").mkdir(parents=True)
    return Table({"lake.path": str(folder), "mlflow.enabled": "false"}, folder)


MORNING = datetime(2026, 1, 31, 8, tzinfo=UTC)


def kept(table: Table, number: int, *, camera: str = "bow", places: Any = None) -> dict[str, Any]:
    """Write a frame of grey level `40 + 30 * number` to the lake. Returns its row."""
    path = f"frames/{camera}-{number}.jpg"
    grey = np.full((*SIZE, 3), 40 + 30 * number, np.uint8)
    (table.folder / path).write_bytes(simplejpeg.encode_jpeg(grey, quality=95))
    at = MORNING + timedelta(minutes=number)
    return {"key": camera, "event_time": at, "score": 2.5, "map": places, "frame": path}


def cell(sheet: np.ndarray, number: int, columns: int) -> np.ndarray:
    """One frame of a sheet by its number, without its line."""
    y, x = number // columns * (FRAME_HEIGHT + LINE), number % columns * WIDTH
    return sheet[y : y + FRAME_HEIGHT, x : x + WIDTH]


def test_the_last_kept_frames_are_on_the_sheet_newest_last_each_with_a_line(table: Table) -> None:
    rows = [kept(table, n) for n in (4, 0, 3, 1, 5, 2)]
    others = [kept(table, 6, camera="stern"), {**kept(table, 7), "frame": None}]
    table.write("surprise", [*rows, *others])
    said, sheet = table.sheet("surprise", "--last", "5", "--camera", "bow")
    assert (said["frames"], said["forgotten"]) == (5, 0)
    assert sheet.shape == (2 * (FRAME_HEIGHT + LINE), 4 * WIDTH, 3)
    found = [cell(sheet, n, 4).mean() for n in range(5)]
    assert found == pytest.approx([40 + 30 * n for n in range(1, 6)], abs=2)
    assert cell(sheet, 5, 4).max() == 0  # an empty cell
    assert all(sheet[FRAME_HEIGHT : FRAME_HEIGHT + LINE, n * WIDTH : (n + 1) * WIDTH].max() > 200 for n in range(4))
    said, sheet = table.sheet("surprise")
    assert said["frames"] == 7 and cell(sheet, 6, 4).mean() == pytest.approx(220, abs=2)


def test_what_surprised_is_drawn_over_its_place_and_nowhere_else(table: Table) -> None:
    places = np.zeros((4, 6))
    places[1, 4] = 3.0
    table.write("surprise", [kept(table, 2), kept(table, 3, places=places.tolist())])
    _, sheet = table.sheet("surprise")
    assert sheet.shape == (FRAME_HEIGHT + LINE, 2 * WIDTH, 3)
    plain, drawn = cell(sheet, 0, 2), cell(sheet, 1, 2)
    assert np.abs(plain - 100).max() < 4
    y, x = round(1.5 / 4 * FRAME_HEIGHT), round(4.5 / 6 * WIDTH)
    assert np.abs(drawn[y, x] - 130).max() > 60
    away = np.abs(drawn - 130).max(2) > 6
    assert away[y - 20 : y + 20, x - 20 : x + 20].mean() > 0.9
    away[: 3 * FRAME_HEIGHT // 4, WIDTH // 2 :] = False  # ignore the place and its surroundings
    assert not away.any()


def test_frames_that_are_forgotten_are_left_out_and_counted(table: Table) -> None:
    rows = [kept(table, n) for n in range(3)]
    table.write("surprise", rows)
    (table.folder / rows[1]["frame"]).unlink()
    said, sheet = table.sheet("surprise")
    assert (said["frames"], said["forgotten"]) == (2, 1)
    assert cell(sheet, 1, 2).mean() == pytest.approx(100, abs=2)


def test_a_sheet_of_nothing_is_one_line(table: Table) -> None:
    one = kept(table, 0)
    table.write("quiet", [{**one, "frame": None}])
    table.write("surprise", [one])
    table.write("rul", [{name: one[name] for name in ("key", "event_time", "score")}])
    (table.folder / one["frame"]).unlink()
    for name, more, why in [
        ("quiet", [], "pipeline quiet: expected kept frames, got none yet; wait until one is kept"),
        ("surprise", ["--camera", "stern"], "pipeline surprise: expected kept frames of stern, got none yet"),
        (
            "surprise",
            [],
            "pipeline surprise: expected 1 kept frames in the lake, got none: they expired; raise forget_after",
        ),
        ("rul", [], "pipeline rul: expected one that keeps frames, got a table without a column frame"),
        ("nobody", [], "results of nobody: expected a table in"),
    ]:
        said = tocsin(table.settings, "frames", name, *more, "--out", str(table.folder / "sheet.png")).why
        assert why in said and "\n" not in said
    assert not (table.folder / "sheet.png").exists()


@pytest.mark.parametrize(("shape", "height"), [((2, 2000), 1), ((2000, 2), 640), ((90, 160), 180)])
def test_a_frame_of_any_shape_has_its_place(shape: tuple[int, int], height: int) -> None:
    row = {"key": "a", "event_time": datetime(2026, 1, 1, tzinfo=UTC), "map": [[0.0, 1.0]], "score": 0.5}
    image = frames._drawn(simplejpeg.encode_jpeg(np.zeros((*shape, 3), np.uint8)), row)
    assert image.shape == (height + frames.LINE, frames.WIDTH, 3)
