"""`tocsin evaluate`: each pipeline says the same things of itself, to a person and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg
from typer.testing import CliRunner

from tests.cli.test_surprise_cli import pictures, seen
from tests.docs.test_rul import write
from tests.support.films import ROOM
from tests.support.films import film as room
from tocsin.models.alignment.simulation.rig import Rig
from tocsin.models.damage.lessons import drawn
from tocsin.models.damage.network import CLASSES
from tocsin.models.domain import Domain, Evaluation, Report
from tocsin.models.field.simulation.feed import MINUTE_MS, START_MS, usual_halls
from tocsin.models.field.simulation.feed import simulate as readings_of_hall
from tocsin.models.irradiance.simulation.weather import Site
from tocsin.models.irradiance.simulation.weather import simulate as irradiance
from tocsin.models.occupancy.simulation.sensors import simulate
from tocsin.models.quality.domain import as_table
from tocsin.models.quality.simulation.plant import plants
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.touch.simulation.scene import Scene
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.cli.deployment import known_pipelines
from tocsin.pipelines.cli.domains import domain_of
from tocsin.pipelines.cli.evaluate import table
from tocsin.pipelines.runtime.settings import Settings


def engines(folder: Path) -> None:
    """Three test engines with a true RUL, and a subset without one."""
    test = run_to_failure(engines=3, seed=2).filter(pl.col("rul") >= 30)
    for subset in ("FD001", "FD003"):
        write(folder / f"test_{subset}.txt", test)
    (folder / "RUL_FD001.txt").write_text("30\n" * 3)


def building(folder: Path) -> None:
    """A room for three hours; the truth of the last one is not known."""
    events, truth = simulate(rooms=1, days=1, seed=3)
    first = events["time"].min()
    assert isinstance(first, int)
    readings = events.filter(pl.col("property") == "co2", pl.col("time") < first + 3 * 3_600_000)
    known = truth.filter(pl.col("time") < first + 2 * 3_600_000).select(
        "time", occupancy=pl.col("motion").cast(pl.Int8)
    )
    rows = readings.select("time", co2="value").sort("time").join_asof(known, on="time", tolerance=60_000)
    rows.with_columns(time=pl.from_epoch("time", "ms").dt.to_string("iso:strict")).write_csv(folder / "room.csv")


def dives(folder: Path) -> None:
    """A clip that nothing comes into, and one with something new."""
    for number in range(2):
        pictures(folder / f"dive{number}", seen(12, seed=number))
    (folder / "novelties.csv").write_text("clip,start_s,end_s,kind\ndive1,0.5,0.8,fish\n")


def film(folder: Path) -> None:
    """A second of a table, and a clip that nobody labelled."""
    for name in ("seen", "unlabelled"):
        pictures(folder / name, [shot.picture for shot in Scene(100, seconds=1)])
    (folder / "truth.json").write_text('{"seen": {"contact": 5, "separation": 20}}')


def roof(folder: Path) -> None:
    """A weather site for four days."""
    site = Site("roof", latitude=40, longitude=-3, elevation=600, dry=0.7, aerosol=0.1)
    table = irradiance(site, days=4, seed=0)
    table.with_columns(time=pl.from_epoch("time", "ms").dt.to_string("iso:strict")).write_csv(folder / "roof.csv")


def plant(folder: Path) -> None:
    """A plant of three channels, and one with few readings."""
    (series,) = plants(1, seed=3)
    table = as_table([series])
    pl.concat([table, table.head(40).with_columns(asset=pl.lit("new"))]).write_csv(folder / "plant.csv")


def hall(folder: Path) -> None:
    """A hall for three minutes, and one with too few sensors."""
    here = usual_halls()[1]
    (folder / "halls.toml").write_text(
        f'[{here.name}]\nkind = "temperature"\noutline = {here.outline.tolist()}\n[{here.name}.sensors]\n'
        + "".join(f"{name} = {[*at]}\n" for name, at in here.sensors.items())
    )
    table = readings_of_hall(here, minutes=4, seed=0)
    table = table.filter((pl.col("time") < START_MS + 3 * MINUTE_MS) | (pl.col("sensor") < "s02"))
    table.with_columns(time=pl.from_epoch("time", "ms").dt.to_string("iso:strict")).write_csv(folder / "hall.csv")


def walls(folder: Path) -> None:
    """Three drawn pictures of walls in folders by what they show, and one that nobody sorted."""
    rng = np.random.default_rng(0)
    for number in range(4):
        picture, kind, _ = drawn(rng)
        place = folder / ("unsorted" if number == 3 else f"{CLASSES[kind]}")
        place.mkdir(exist_ok=True)
        (place / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(picture))


def rigs(folder: Path) -> None:
    """Two pairs of frames of one scene, and one in which a camera sees nothing."""
    sight = next(iter(Rig(3, pairs=1, every=1.0, start=12)))
    for name, frame in (("a", sight.first), ("b", sight.second), ("dark", np.zeros_like(sight.first))):
        cv2.imwrite(str(folder / f"{name}.png"), frame)
    map_ = (sight.homography / sight.homography[2, 2]).ravel()
    names = ["a11", "a12", "a13", "a21", "a22", "a23", "a31", "a32"]
    lines = [
        f"{one},{other}," + ",".join(map(str, map_[:8])) for one, other in (("a.png", "b.png"), ("a.png", "dark.png"))
    ]
    (folder / "pairs.csv").write_text("\n".join([",".join(["first", "second", *names]), lines[0], *lines]) + "\n")


def walk(folder: Path) -> None:
    """A film of a simulated room with its path, and a clip whose path nobody knows."""
    frames, path, focal = room(ROOM, 12)
    for name in ("known", "unknown"):
        pictures(folder / name, frames)
    rows = [f"known,{n},{x},{y},{z},{focal}" for n, (x, y, z) in enumerate(path.place)]
    (folder / "paths.csv").write_text("\n".join(["clip,frame,x,y,z,focal", *rows]))


def gate(folder: Path) -> None:
    """Some seconds of a simulated camera, and a clip that is too short."""
    frames = [*Camera(seed=5, frames=66, size=(90, 160), things=1)]
    for name, count in (("gate", 66), ("short", 5)):
        pictures(folder / name, frames[:count])


SMALL: dict[str, Callable[[Path], None]] = {
    "damage": walls,
    "field": hall,
    "irradiance": roof,
    "quality": plant,
    "rul": engines,
    "occupancy": building,
    "surprise": dives,
    "tampering": gate,
    "pose": walk,
    "touch": film,
    "alignment": rigs,
}
"""A small recording for each pipeline with a domain."""
COUNTED: dict[str, dict[str, float]] = {
    "damage": {"pictures": 3},
    "field": {"fields": 3, "places": 9},
    "irradiance": {"sites": 1, "hours": 72},
    "quality": {"keys": 2, "windows": 512},
    "rul": {"engines": 3, "rows": 3},
    "occupancy": {"rooms": 1},
    "pose": {"films": 1, "frames": 12},
    "surprise": {"clips": 2, "frames": 22, "seconds": 2.4, "novelties": 1},
    "tampering": {"clips": 1, "attacks": 2, "frames": 198},
    "touch": {"clips": 1, "frames": 30, "seconds": 1, "touches": 1},
    "alignment": {"pairs": 2},
}
LEFT_OUT = {
    "damage": ("pictures in folders that name no class", range(1, 2)),
    "field": ("minutes with readings of fewer than 4 sensors", range(1, 2)),
    "irradiance": ("readings without a day before and a complete hour after", range(24, 25)),
    "quality": ("keys with fewer than 100 readings", range(1, 2)),
    "rul": ("engines of FD003, whose true RUL is not there", range(3, 4)),
    "occupancy": ("minutes without a known truth", range(30, 61)),
    "pose": ("clips without a path", range(1, 2)),
    "surprise": ("frames without one before them, from which they could be predicted", range(2, 3)),
    "tampering": ("clips that are too short to be attacked", range(1, 2)),
    "touch": ("clips without a label", range(1, 2)),
    "alignment": ("pairs in which a camera sees nothing", range(1, 2)),
}


def domains() -> set[str]:
    """The pipelines of Tocsin that have a domain."""
    found, settings = set[str](), Settings()
    for name in known_pipelines(settings):
        assert isinstance(domain_of(settings, name), Domain)
        found.add(name)
    return found


def test_every_pipeline_is_among_these() -> None:
    assert domains() == SMALL.keys()


@pytest.mark.parametrize("pipeline", SMALL)
def test_every_pipeline_gives_the_same_keys(tmp_path: Path, pipeline: str) -> None:
    SMALL[pipeline](tmp_path)
    command = ["evaluate", pipeline, "--data", str(tmp_path), "--force"]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    (line,) = done.stdout.splitlines()
    said: dict[str, Any] = json.loads(line)
    assert list(said) == list(Report.__annotations__)
    assert (said["pipeline"], said["version"], said["data"]) == (pipeline, "shipped", str(tmp_path))
    assert said["model"].startswith("shipped ")
    figures = said["figures"]
    assert figures["parameters"] > 1000
    assert all(value is None or isinstance(value, int | float) for value in figures.values())
    assert said["baselines"]
    for name, baseline in said["baselines"].items():
        assert baseline and baseline.keys() <= figures.keys(), name
    assert said["in_domain"] is None or 0 <= said["in_domain"] <= 1
    assert said["counted"].items() >= COUNTED[pipeline].items()
    reason, count = LEFT_OUT[pipeline]
    assert said["left_out"][reason] in count and all(said["left_out"].values())
    for parts in said["parts"].values():
        assert all(isinstance(part, dict) for part in parts.values())

    text = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert all(f"{name} " in text for name in figures) and "judged: " in text
    assert all(f"left out: {count:,} {reason}" in text for reason, count in said["left_out"].items())


@pytest.mark.parametrize("pipeline", ["surprise", "touch"])
def test_clips_of_a_camera_that_is_dark_end_with_status_3(tmp_path: Path, pipeline: str) -> None:
    dark = [np.full((72, 128, 3), 3, np.uint8)] * {"surprise": 25, "touch": 60}[pipeline]
    pictures(tmp_path / "night", dark)
    if pipeline == "touch":
        (tmp_path / "touches.csv").write_text("clip,hand,contact,release\nnight,right,20,40\n")
    else:
        (tmp_path / "novelties.csv").write_text("clip,start_s,end_s,kind\nnight,0.5,0.8,fish\n")
    command = ["evaluate", pipeline, "--data", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3
    (line,) = done.stderr.splitlines()
    assert (
        f"{pipeline}: expected frames like those that the model was trained on, got others: 100% of all (night: highlights 3"
        in line
    )
    said = json.loads(done.stdout)
    assert said["in_domain"] == 0 and said["doubt"] in line
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


NAMES = {"pipeline": "rul", "model": "m", "version": "1", "data": "d"}


def test_a_number_that_is_none_is_null_wherever_it_stands() -> None:
    spoilt = {"recall": math.nan, "score": -math.inf, "rows": 3, "found": [{"error": math.inf}], "none": None}
    evaluation = Evaluation(
        spoilt, {"rooms": {"a": spoilt}}, baselines={"clock": spoilt}, left_out={"no": 0, "some": 2}, in_domain=math.nan
    )
    report = evaluation.report(**NAMES)
    plain = {"recall": None, "score": None, "rows": 3, "found": [{"error": None}], "none": None}
    assert report["figures"] == report["parts"]["rooms"]["a"] == report["baselines"]["clock"] == plain
    assert (report["in_domain"], report["doubt"], report["left_out"]) == (None, None, {"some": 2})


def test_baselines_stand_beside_the_figures() -> None:
    evaluation = Evaluation(
        {"f1": 0.8125, "recall": math.nan, "parameters": 4177},
        baselines={"clock only": {"f1": -0.0001}, "majority": {"recall": None}},
        counted={"rooms": 2, "minutes": 20_160},
        left_out={"minutes without a known truth": 1440},
        in_domain=0.996,
    )
    assert table(evaluation.report(**NAMES), 3) == [
        "            model  clock only  majority",
        "f1          0.812       0.000",
        "recall        n/a                   n/a",
        "parameters   4177",
        "judged: 2 rooms, 20,160 minutes",
        "left out: 1,440 minutes without a known truth",
        "like the training data: 100%",
    ]
