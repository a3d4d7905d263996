"""Building occupancy: a room's irregular readings in, each minute whether somebody is there, alerts for people, sensors and air."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tocsin.models.occupancy.data import PROPERTIES, Recording
from tocsin.models.occupancy.domain import Occupancy
from tocsin.models.occupancy.features import COLUMNS, FEATURES, Clock, advance, memory
from tocsin.models.occupancy.model import load
from tocsin.pipelines.runtime import (
    AlertRule,
    Cell,
    ConfigError,
    Declared,
    Model,
    ModelError,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    milliseconds,
    replay,
)
from tocsin.pipelines.runtime.stages import Inactivity, Infer, Resample, SlidingWindow

OPTIONS = ("name", "topic", "timezone", "days", "hours", "rooms", "co2", "stuck", "silent", "late", "hold")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
RELEASE = 0.7
"""A room stays occupied until its probability falls below so much of the model's threshold."""

READING = pa.schema(
    [
        pa.field("room", pa.string(), nullable=False),
        pa.field("property", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
RESULTS = pa.schema(
    [
        ("room", pa.string()),
        ("probability", pa.float32()),
        ("occupied", pa.bool_()),
        ("attention", pa.list_(pa.float32())),
        ("scheduled", pa.bool_()),
        *((f"{p}{part}", pa.float64()) for p in PROPERTIES for part in ("", "_age")),
        ("co2_usual", pa.float64()),
        ("still", pa.float64()),
        ("silent", pa.bool_()),
    ]
)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The occupancy pipeline: a row a room and minute.

    Args:
        options: all may be absent. `name` ("occupancy"), `topic` ("sensors.occupancy"), `timezone` of the rooms ("UTC"); `days`
            ("mon-fri") and `hours` ("07:00-19:00") when people are expected, and `rooms`, a table of rooms with days and hours of
            their own; `co2` (ppm above which a room with people in it rings, 1200; it ends 200 below), `stuck` (minutes without
            any change of CO2, 720), `silent` (without a reading, "15min"), `late` (how far readings may lag, "5min"), `hold`
            (minutes that an occupied room must be so to ring, 5).
        model: as written by `tocsin train occupancy`.

    Raises:
        ConfigError: an unknown option, or one that does not parse.
        ModelError: no model, or files that do not make one.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"pipelines.occupancy: expected options of {', '.join(OPTIONS)}, got {', '.join(unknown)}; mend tocsin.toml"
        )
    if model is None:
        raise ModelError(
            "pipelines.occupancy: expected a model, got none; set model = 'occupancy@champion' or a folder that training wrote"
        )
    judge = model.load(load, training="tocsin train occupancy")
    limit, hold = _number(options, "co2", 1200), int(_number(options, "hold", 5))
    silent = options.get("silent", "15min")
    return Pipeline(
        name=options.get("name", "occupancy"),
        topic=options.get("topic", "sensors.occupancy"),
        schema=READING,
        key="room",
        event_time="time",
        stages=[
            _grid(options.get("late", "5min"), min("10min", silent, key=milliseconds)),
            Air(options.get("timezone", "UTC"), Schedules(options)),
            SlidingWindow(judge.config.window, judge.config.features),
            Infer(judge),
            Held(judge.config.threshold),
            Inactivity(silent),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="unexpected",
                severity="warning",
                when=pl.col("occupied") & ~pl.col("scheduled"),
                hold=hold,
                data=["room", "probability", "co2"],
            ),
            AlertRule(
                name="stale_air",
                severity="warning",
                when=pl.col("occupied") & (pl.col("co2") > limit),
                clear=~pl.col("occupied") | (pl.col("co2") < limit - 200),
                hold=hold,
                data=["room", "co2", "ventilation"],
            ),
            AlertRule(
                name="stuck_sensor",
                severity="critical",
                when=pl.col("still") >= _number(options, "stuck", 720),
                data=["room", "co2", "still"],
            ),
            AlertRule(name="silent_sensor", severity="critical", when=pl.col("silent"), data=["room"]),
        ],
        model_version=model.version,
    )


def minutes(recording: Recording) -> pl.DataFrame:
    """What the model would see of a recording: `room`, `time` (ms, a minute's end) and `FEATURES`; NaN where nothing is known."""
    declared = Pipeline(
        name="occupancy",
        topic="sensors.occupancy",
        schema=READING,
        key="room",
        event_time="time",
        stages=[_grid("5min"), Air(recording.timezone, Schedules({}))],
        results=pa.schema([("room", pa.string()), *((name, pa.float32()) for name in FEATURES)]),
    )
    frame, _ = replay(declared, readings(recording))
    return frame.select("room", pl.col("event_time").dt.epoch("ms").alias("time"), *FEATURES)


def judged(recording: Recording, model: Model) -> pl.DataFrame:
    """The pipeline's results over a recording."""
    return replay(pipeline({"timezone": recording.timezone}, model), readings(recording))[0]


def readings(recording: Recording) -> pa.Table:
    """A recording's events as the pipeline reads them."""
    return recording.events.select("room", "property", pl.from_epoch("time", "ms"), "value").to_arrow().cast(READING)


class Schedules:
    """When people are expected in a room."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        usual = {"days": options.get("days", "mon-fri"), "hours": options.get("hours", "07:00-19:00")}
        own = options.get("rooms", {})
        read = [_schedule(usual), *(_schedule({**usual, **given}) for given in own.values())]
        self._rooms = pa.array(list(own), pa.string())
        self._begin, self._end = (np.array([schedule[i] for schedule in read]) for i in (0, 1))
        self._days = np.array([[day in days for day in range(7)] for _, _, days in read])

    def at(self, rooms: pa.Array, clock: Clock) -> np.ndarray:
        """Whether people are expected, `[B] bool`."""
        which = pc.index_in(rooms, value_set=self._rooms).fill_null(-1).to_numpy() + 1  # the usual one is the first
        minute = clock.hour.numpy() * 60
        hours = (self._begin[which] <= minute) & (minute < self._end[which])
        return hours & self._days[which, clock.weekday.numpy()]


class Air(Stage):
    """A minute's air as the model sees it: adds `FEATURES`, `scheduled`, `co2_usual` and `still`."""

    def __init__(self, timezone: str, schedules: Schedules) -> None:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(
                f"pipelines.occupancy: expected timezone such as Europe/Amsterdam, got {timezone!r}; mend tocsin.toml"
            ) from None
        self._timezone, self._schedules = timezone, schedules

    @property
    def state(self) -> Mapping[str, Declared]:
        return {name: Cell(shape, torch.float64, fill) for name, (shape, fill) in memory().items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        cells = state.cells
        time = ctx.times(rows)
        clock = self._clock(time)
        air = {name: rows.column(name).double() for name in COLUMNS}
        seen = torch.empty(len(rows), len(FEATURES))
        kept = {name: torch.empty(len(rows), dtype=torch.float64) for name in ("usual", "still")}
        for index in rows.rounds():
            slots = rows.slots[index]
            known = {name: cell[slots] for name, cell in cells.items()}
            now = {name: column[index] for name, column in air.items()}
            seen[index], then = advance(known, time[index] / 60_000, now, clock.at(index))
            for name, cell in cells.items():
                cell[slots] = then[name]
            for name, column in kept.items():
                column[index] = then[name]
        scheduled = self._schedules.at(rows.table.column(ctx.key), clock)
        columns = {name: pa.array(seen[:, i].numpy()) for i, name in enumerate(FEATURES)}
        # The reading's own ventilation is a feature, too; what is remembered goes into the table as float64.
        columns |= {"ventilation": rows.table.column("ventilation"), "scheduled": pa.array(scheduled)}
        return rows.with_columns(
            columns | {"co2_usual": pa.array(kept["usual"].numpy()), "still": pa.array(kept["still"].numpy())}
        )

    def _clock(self, time: Tensor) -> Clock:
        times = pl.Series(time.numpy()).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._timezone)
        minute = times.dt.hour().cast(pl.Int64) * 60 + times.dt.minute().cast(pl.Int64)
        days = times.dt.date().cast(pl.Int64)
        return Clock(
            *(torch.from_numpy(c.to_numpy().copy()) for c in (minute / 60, times.dt.weekday().cast(pl.Int64) - 1, days))
        )


class Held(Stage):
    """Whether a room counts as occupied: from the threshold on, until its probability falls below `RELEASE` of it."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"occupied": Cell(dtype=torch.bool)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        occupied = state.cell("occupied")
        probability, told = rows.column("probability"), torch.zeros(len(rows), dtype=torch.bool)
        for index in rows.rounds():
            slots, p = rows.slots[index], probability[index]
            told[index] = (p >= self._threshold) | (occupied[slots] & (p >= RELEASE * self._threshold))
            occupied[slots] = told[index]
        return rows.with_columns({"occupied": pa.array(told.numpy())})


def _grid(late: str, wait: str = "10min") -> Resample:
    """Minutes; `wait` is no longer than silence takes, so that its alert comes after the room's last row and is of its time."""
    return Resample("1min", PROPERTIES, late=late, wait=wait, slope="10min", gap="1h", most=256)


def _schedule(own: Mapping[str, Any]) -> tuple[int, int, frozenset[int]]:
    hours = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", str(own["hours"]))
    if unknown := sorted(set(own) - {"days", "hours"}):
        raise ConfigError(f"pipelines.occupancy: expected a room's days and hours, got {unknown}; mend tocsin.toml")
    if not hours:
        raise ConfigError(
            f"pipelines.occupancy: expected hours such as 07:00-19:00, got {own['hours']!r}; mend tocsin.toml"
        )
    begin, end = (int(hours[i]) * 60 + int(hours[i + 1]) for i in (1, 3))
    if not 0 <= begin < end <= 1440:
        raise ConfigError(f"pipelines.occupancy: expected hours of one day, got {own['hours']!r}; mend tocsin.toml")
    return begin, end, frozenset(_days(str(own["days"])))


def _days(text: str) -> set[int]:
    """Such as "mon-fri" or "mon,wed-thu,sun"."""
    days = set[int]()
    for part in text.lower().split(","):
        names = part.strip().split("-")
        if not 1 <= len(names) <= 2 or any(name not in DAYS for name in names):
            raise ConfigError(f"pipelines.occupancy: expected days such as mon-fri, got {text!r}; mend tocsin.toml")
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        days |= {day % 7 for day in range(first, (last if last >= first else last + 7) + 1)}
    return days


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    """An option that must be a number above 0."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(
            f"pipelines.occupancy: expected {name} to be a number above 0, got {value!r}; mend tocsin.toml"
        )
    return value


def _results(recording: Recording, folder: Path, version: str) -> pl.DataFrame:
    return judged(recording, Model(folder, version, "auto"))


domain = Occupancy(minutes, _results)
