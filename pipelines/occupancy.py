"""Building occupancy: from a room's irregular readings, whether it is occupied, each minute; alerts for people, sensors and air."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tocsin.models.live import live_verdicts
from tocsin.models.occupancy.bounds import READINGS, Bounds, inside
from tocsin.models.occupancy.config import RELEASE
from tocsin.models.occupancy.data import PROPERTIES, Recording
from tocsin.models.occupancy.domain import Occupancy
from tocsin.models.occupancy.features import COLUMNS, FEATURES, Clock, advance, memory, rhythm
from tocsin.models.occupancy.imputer import FRESH
from tocsin.models.occupancy.model import load
from tocsin.models.occupancy.plain import local
from tocsin.pipelines.parts import imputation, trust
from tocsin.pipelines.parts.bookings import BOOKED, HOLIDAY, Booked
from tocsin.pipelines.parts.bookings import COLUMNS as COLUMNS_OF_CONTEXT
from tocsin.pipelines.parts.schedules import Days, Hours, Schedules
from tocsin.pipelines.runtime import (
    AlertRule,
    Cell,
    ContextTopic,
    Declared,
    Duration,
    Intervals,
    Model,
    Options,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    Truth,
    milliseconds,
    parsed,
    replay,
)
from tocsin.pipelines.runtime.stages import Inactivity, Infer, Resample, Site, SlidingWindow

READING = pa.schema(
    [
        pa.field("room", pa.string(), nullable=False),
        pa.field("property", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
COUNT = pa.schema(
    [
        pa.field("room", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("count", pa.float64(), nullable=False),
    ]
)
"""A label: how many people are in a room."""
OLD = 3600.0
"""Age from which CO2 counts as not known, s."""
COUNTED = "15m"
"""How long a count holds if no other one follows."""
UNITS = {"co2": "ppm", "temperature": "°C", "humidity": "%", "ventilation": ""}
RESULTS = pa.schema(
    [
        ("room", pa.string()),
        pa.field("probability", pa.float32(), metadata={"axis": "probability"}),
        pa.field("occupied", pa.bool_(), metadata={"axis": "people"}),
        ("attention", pa.list_(pa.float32())),
        pa.field("scheduled", pa.bool_(), metadata={"axis": "people"}),
        *(
            pa.field(
                f"{p}{part}", pa.float64(), metadata={"unit": unit} | ({"axis": p} if (p, part) == ("co2", "") else {})
            )
            for p in PROPERTIES
            for part, unit in (("", UNITS[p]), ("_age", "s"))
        ),
        pa.field("co2_usual", pa.float64(), metadata={"unit": UNITS["co2"]}),
        pa.field("rhythm", pa.float64(), metadata={"unit": "h"}),
        pa.field("still", pa.float64(), metadata={"unit": "min"}),
        ("in_domain", pa.bool_()),
        ("silent", pa.bool_()),
    ]
)


TimeZone = Annotated[str, parsed(ZoneInfo, "a time zone such as Europe/Amsterdam")]


class RoomOptions(BaseModel):
    """`[pipelines.occupancy.rooms.<room>]`: when people are expected in one room, and its threshold; None: as in every room."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    days: Days | None = None
    hours: Hours | None = None
    threshold: float | None = Field(default=None, gt=0, lt=1)


class OccupancyOptions(Options):
    """The options of the occupancy pipeline.

    Args:
        timezone: of the rooms.
        days, hours: when people are expected.
        rooms: rooms with days, hours and a threshold of their own.
        threshold: the probability from which a room counts as occupied; None: the model's own.
        co2: ppm above which an occupied room raises an alert; it ends 200 below.
        stuck: minutes without any change of CO2 that raise an alert.
        silent: time without a reading that raises an alert.
        late: how far readings may lag.
        hold: minutes for which a condition must hold to raise an alert.
        site: for a model with adapters: a regular expression whose group is the site in a room's name, such as ^([^/]+)/; "": each
            room is a site of its own.
        impute: how a sensor is filled that has sent nothing for ten minutes; "off": its last value holds, and nothing says so.
        booked, free, holiday: what is added to the log-odds of "occupied" in a booking, outside all bookings in a room that has
            some, and on a holiday, where the context says so; see `Booked`.
        quality: whether a room's last 32 minutes can be trusted is judged, and stored with each result.
        hold_below: the quality below which neither `unexpected` nor `stale_air` is raised; None: they do not depend on it.
    """

    name: str = "occupancy"
    topic: str = "sensors.occupancy"
    timezone: TimeZone = "UTC"
    days: Days = "mon-fri"
    hours: Hours = "07:00-19:00"
    rooms: dict[str, RoomOptions] = Field(default_factory=dict)
    threshold: float | None = Field(default=None, gt=0, lt=1)
    co2: float = Field(default=1200, gt=0)
    stuck: float = Field(default=720, gt=0)
    silent: Duration = "15min"
    late: Duration = "5min"
    hold: int = Field(default=5, ge=1)
    site: str = ""
    impute: imputation.Method = "off"
    booked: float = 1.5
    free: float = -0.8
    holiday: float = -3.4
    quality: bool = False
    hold_below: float | None = Field(default=None, gt=0, lt=1)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The occupancy pipeline: a row a room and minute.

    Args:
        options: of `OccupancyOptions`; all may be absent.
        model: written by `tocsin train occupancy`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    o = OccupancyOptions.read(options)
    model = Model.required(model, "occupancy")
    network = model.load(load, training="tocsin train occupancy")
    trust.check(o.name, o.quality, o.hold_below, PROPERTIES)
    added = [
        *([pa.field("adapter", pa.string())] if network.sites else []),
        *([imputation.COLUMN] if o.impute != "off" else []),
        *(trust.COLUMNS if o.quality else []),
    ]
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=READING,
        key="room",
        event_time="time",
        stages=[
            _grid(o.late, min("10min", o.silent, key=milliseconds)),
            *trust.stages(o.quality, PROPERTIES, fresh=milliseconds(FRESH) / 1000),
            *imputation.stages(
                o.impute, PROPERTIES, pipeline=o.name, model=model, least=0, required=False, fresh=FRESH
            ),
            Air(o.timezone, _schedules(o)),
            SlidingWindow(network.config.window, network.config.features),
            *([Site(network.sites.names, pattern=o.site)] if network.sites else []),
            Infer(network, tensor=network.tensors),
            Booked(booked=o.booked, free=o.free, holiday=o.holiday),
            Known(network.config.bounds),
            Held(network.config.threshold if o.threshold is None else o.threshold, o.rooms),
            Inactivity(o.silent),
        ],
        results=pa.schema([*RESULTS, *added, *COLUMNS_OF_CONTEXT]),
        truth=Truth(schema=COUNT, key="room", event_time="time", score=_live_scores),
        rules=[
            AlertRule(
                name="unexpected",
                severity="warning",
                when=trust.held(pl.col("occupied") & ~_expected(), o.hold_below),
                hold=o.hold,
                data=["room", "probability", "co2"],
            ),
            AlertRule(
                name="stale_air",
                severity="warning",
                when=trust.held(pl.col("occupied") & (pl.col("co2") > o.co2), o.hold_below),
                clear=~pl.col("occupied") | (pl.col("co2") < o.co2 - 200),
                hold=o.hold,
                data=["room", "co2", "ventilation"],
            ),
            AlertRule(
                name="stuck_sensor",
                severity="critical",
                when=pl.col("still") >= o.stuck,
                data=["room", "co2", "still"],
            ),
            AlertRule(
                name="out_of_domain",
                severity="warning",
                when=~pl.col("in_domain"),
                hold=o.hold,
                data=["room", *READINGS],
            ),
            AlertRule(name="silent_sensor", severity="critical", when=pl.col("silent"), data=["room"]),
        ],
        context=ContextTopic(kinds=[BOOKED, HOLIDAY]),
        model_version=model.version,
        state_version=2,
        warmup="7d",  # rebuilds a room's units and habits
    )


def _expected() -> pl.Expr:
    """Whether people are expected: in days and hours, but not on a holiday; or in a booking."""
    on_holiday, in_booking = (pl.col(name).fill_null(value=False) for name in (HOLIDAY, BOOKED))
    return (pl.col("scheduled") & ~on_holiday) | in_booking


def minutes(recording: Recording) -> pl.DataFrame:
    """The model's input from a recording.

    Returns:
        `room`, `time` (ms, a minute's end), `FEATURES` and `READINGS`, NaN where unknown; the local `day`, `hour` and `weekday`.
    """
    air = Air(recording.timezone, _schedules(OccupancyOptions()))
    frame = _replayed(recording, [air], (*FEATURES, *READINGS), pa.float32())
    timed = frame.select("room", pl.col("event_time").dt.epoch("ms").alias("time"), *FEATURES, *READINGS)
    return local(timed, recording.timezone)


def sensors(recording: Recording) -> pl.DataFrame:
    """An imputer's input from a recording.

    Returns:
        `room`, `time` (ms, a minute's end) and `PROPERTIES`, null without a reading for `FRESH`.
    """
    names = [f"{p}{part}" for p in PROPERTIES for part in ("", "_age")]
    frame = _replayed(recording, [], names, pa.float64())
    fresh = milliseconds(FRESH) / 1000
    return frame.select(
        "room",
        pl.col("event_time").dt.epoch("ms").alias("time"),
        *(pl.when(pl.col(f"{p}_age") <= fresh).then(pl.col(p)).alias(p) for p in PROPERTIES),
    )


def _replayed(recording: Recording, stages: Sequence[Stage], columns: Sequence[str], kind: pa.DataType) -> pl.DataFrame:
    """A recording's minutes after some stages."""
    declared = Pipeline(
        name="occupancy",
        topic="sensors.occupancy",
        schema=READING,
        key="room",
        event_time="time",
        stages=[_grid("5min"), *stages],
        results=pa.schema([("room", pa.string()), *((name, kind) for name in columns)]),
    )
    return replay(declared, readings(recording))[0]


def judged(recording: Recording, model: Model, intervals: pl.DataFrame | None = None) -> pl.DataFrame:
    """The pipeline's results over a recording.

    Args:
        intervals: of the context, as `timetable.read` returns them; None: none are known.
    """
    declared = pipeline({"timezone": recording.timezone}, model)
    if intervals is not None:
        declared = replace(declared, intervals=Intervals(intervals.sort("asset", "kind", "from", "to")))
    return replay(declared, readings(recording))[0]


def _live_scores(results: pl.LazyFrame, counts: pl.LazyFrame) -> pl.DataFrame:
    """Score verdicts by counts of people: each counts until the next one of its room, for at most `COUNTED`."""
    following = pl.col("event_time").shift(-1).over("key", order_by="event_time")
    latest = pl.col("event_time").dt.offset_by(COUNTED)
    spans = counts.select(
        "key", start="event_time", end=pl.min_horizontal(following, latest), truth=pl.col("count") > 0
    )
    return live_verdicts(results.with_columns(verdict="occupied"), spans)


def readings(recording: Recording) -> pa.Table:
    """A recording's events as the pipeline reads them."""
    return recording.events.select("room", "property", pl.from_epoch("time", "ms"), "value").to_arrow().cast(READING)


class Air(Stage):
    """Adds the model's `FEATURES` of each minute, and `scheduled`, `co2_usual`, `rhythm` and `still`."""

    def __init__(self, timezone: str, schedules: Schedules) -> None:
        self._timezone, self._schedules = timezone, schedules

    @property
    def state(self) -> Mapping[str, Declared]:
        return {name: Cell(shape, torch.float64, fill) for name, (shape, fill) in memory().items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        cells = state.cells
        time = ctx.times(rows)
        clock = self._clock(time)
        minute, air = time.numpy() / 60_000, {name: rows.column(name).double().numpy() for name in COLUMNS}
        features = np.empty((len(rows), len(FEATURES)), np.float32)
        extra = {name: np.empty(len(rows)) for name in ("usual", "still", "rhythm")}
        for index in rows.rounds():
            slots, which = rows.slots[index], index.numpy()
            known = {name: cell[slots].numpy() for name, cell in cells.items()}
            now = {name: column[which] for name, column in air.items()}
            features[which], updated = advance(known, minute[which], now, clock.at(which))
            for name, cell in cells.items():
                cell[slots] = torch.from_numpy(updated[name])
            updated |= {"rhythm": rhythm(updated)}
            for name, column in extra.items():
                column[which] = updated[name]
        scheduled = self._schedules.at(rows.table.column(ctx.key), clock)
        columns = {name: pa.array(features[:, i]) for i, name in enumerate(FEATURES)}
        # `ventilation` is both a feature and a reading: the table gets the reading, in float64.
        columns |= {"ventilation": rows.table.column("ventilation"), "scheduled": pa.array(scheduled)}
        columns |= {"co2_usual": pa.array(extra["usual"]), "still": pa.array(extra["still"])}
        return rows.with_columns(columns | {"rhythm": pa.array(extra["rhythm"], from_pandas=True)})

    def _clock(self, time: Tensor) -> Clock:
        times = pl.Series(time.numpy()).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._timezone)
        minute = times.dt.hour().cast(pl.Int64) * 60 + times.dt.minute().cast(pl.Int64)
        days = times.dt.date().cast(pl.Int64)
        return Clock(*(c.to_numpy() for c in (minute / 60, times.dt.weekday().cast(pl.Int64) - 1, days)))


class Known(Stage):
    """Adds `in_domain`: whether the model was trained on such readings."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        readings = pl.from_arrow(rows.table.select([*READINGS, "co2_age"]))
        assert isinstance(readings, pl.DataFrame)
        readings = readings.with_columns(co2=pl.when(pl.col("co2_age") <= OLD).then("co2"))
        return rows.with_columns({"in_domain": inside(readings, self._bounds).to_arrow()})


class Held(Stage):
    """Adds `occupied`: true from the threshold on, until the probability falls below `RELEASE` of it."""

    def __init__(self, threshold: float, rooms: Mapping[str, RoomOptions]) -> None:
        own = {name: room.threshold for name, room in rooms.items() if room.threshold is not None}
        self._rooms = pa.array(list(own), pa.string())
        self._thresholds = torch.tensor([threshold, *own.values()])

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"occupied": Cell(dtype=torch.bool)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        occupied = state.cell("occupied")
        which = pc.index_in(rows.table.column(ctx.key), value_set=self._rooms).fill_null(-1).to_numpy() + 1
        threshold = self._thresholds[torch.from_numpy(which)]
        probability, is_occupied = rows.column("probability"), torch.zeros(len(rows), dtype=torch.bool)
        for index in rows.rounds():
            slots, p, level = rows.slots[index], probability[index], threshold[index]
            is_occupied[index] = (p >= level) | (occupied[slots] & (p >= RELEASE * level))
            occupied[slots] = is_occupied[index]
        return rows.with_columns({"occupied": pa.array(is_occupied.numpy())})


def _schedules(options: OccupancyOptions) -> Schedules:
    """When people are expected in each room."""
    rooms = {name: (room.days or options.days, room.hours or options.hours) for name, room in options.rooms.items()}
    return Schedules((options.days, options.hours), rooms)


def _grid(late: str, wait: str = "10min") -> Resample:
    """One row a minute. `wait` is at most the inactivity limit, so that a room's last row precedes its alert."""
    return Resample("1min", PROPERTIES, late=late, wait=wait, slope="10min", gap="1h", most=256)


def _results(recording: Recording, folder: Path, version: str, intervals: pl.DataFrame | None) -> pl.DataFrame:
    return judged(recording, Model(folder, version, "auto"), intervals)


domain = Occupancy(minutes, sensors, _results)
