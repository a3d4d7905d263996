"""Sensor field: from a hall's sensors and walls, a map each minute; alerts where it passes a level between sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tocsin.models.field.domain import Sensors
from tocsin.models.field.estimator import Estimator
from tocsin.models.field.hall import FEWEST, Hall
from tocsin.models.field.model import load
from tocsin.models.field.picture import png
from tocsin.models.field.simulation.feed import usual_halls
from tocsin.pipelines.runtime import (
    AlertRule,
    ConfigError,
    Duration,
    Model,
    Options,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    milliseconds,
)
from tocsin.pipelines.runtime.stages import Inactivity, Infer, Resample

READING = pa.schema(
    [
        pa.field("hall", pa.string(), nullable=False),
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
LARGEST = 1e6
"""A value of this size or more is no reading."""
MOST = 64
"""Readings of a sensor in open minutes."""
SEPARATOR = "\0"
"""Between a hall's name and a sensor's."""
EXTREMES = ("highest", "lowest")
RESULTS = pa.schema(
    [
        ("hall", pa.string()),
        pa.field("sensors", pa.int32()),
        ("missing", pa.list_(pa.string())),
        *(
            pa.field(f"{end}{part}", pa.float64(), metadata=more)
            for end in EXTREMES
            for part, more in (("", {"axis": "field"}), ("_x", {"unit": "m"}), ("_y", {"unit": "m"}), ("_spread", {}))
        ),
        pa.field("above", pa.float64()),
        pa.field("below", pa.float64()),
        ("extent", pa.list_(pa.float64())),
        ("map", pa.list_(pa.float32())),
        ("spread", pa.list_(pa.float32())),
        ("png", pa.binary()),
        ("silent", pa.bool_()),
    ]
)


class HallOptions(BaseModel):
    """`[pipelines.field.halls.<hall>]`: a hall's plan, see `tocsin.models.field.hall.Hall`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: str
    outline: list[list[float]]
    blocks: float | None = None
    walls: list[list[float]] = Field(default_factory=list)
    sensors: dict[str, list[float]] = Field(default_factory=dict)
    above: float | None = None
    below: float | None = None


class FieldOptions(Options):
    """The options of the field pipeline.

    Args:
        halls: the plans; none: those of the simulation.
        near: a place that is no farther than this from a sensor is left to the sensor, m.
        band: an alert ends when the field is back within its level by this much, in the unit of the readings.
        hold: minutes for which the field must be past its level to raise an alert.
        fresh: how long a sensor's last reading counts.
        silent: time without a reading of any of its sensors after which a hall raises an alert.
        late: how far readings may lag.
        pictures: whether each row has a PNG.
    """

    name: str = "field"
    topic: str = "sensors.field"
    halls: dict[str, HallOptions] = Field(default_factory=dict)
    near: float = Field(default=1.5, ge=0)
    band: float = Field(default=1.0, ge=0)
    hold: int = Field(default=2, ge=1)
    fresh: Duration = "10min"
    silent: Duration = "15min"
    late: Duration = "30s"
    pictures: bool = True


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The field pipeline: a row a hall and minute.

    Args:
        options: of `FieldOptions`; all may be absent.
        model: written by `tocsin train field`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    o = FieldOptions.read(options)
    halls = _halls(o)
    model = Model.required(model, "field")
    network = model.load(load, training="tocsin train field")
    count = max(len(hall.sensors) for hall in halls)
    hidden = [f"{end}{part}" for end in EXTREMES for part in ("", "_x", "_y", "_spread")]
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=READING,
        key="hall",
        event_time="time",
        stages=[
            Placed(o.name, halls),
            Resample(
                "1min",
                [_property(number) for number in range(count)],
                late=o.late,
                wait=min("2min", o.silent, key=milliseconds),
                gap="1min",
                most=MOST * count,
            ),
            Readings(halls, milliseconds(o.fresh) / 1000),
            Infer(Estimator(network, halls), tensor=("hall", "readings")),
            Between(halls, o.near),
            *([Pictures(halls)] if o.pictures else []),
            Inactivity(o.silent),
        ],
        results=RESULTS if o.pictures else pa.schema([each for each in RESULTS if each.name != "png"]),
        rules=[
            *(
                AlertRule(
                    name=side,
                    severity="warning",
                    when=pl.col(side) >= 0,
                    clear=pl.col(side) < -o.band,
                    hold=o.hold,
                    data=["hall", side, "sensors", *(name for name in hidden if name.startswith(end))],
                )
                for side, end in zip(("above", "below"), EXTREMES, strict=True)
            ),
            AlertRule(
                name="missing_sensor",
                severity="warning",
                when=pl.col("missing").list.len() > 0,
                hold=o.hold,
                data=["hall", "missing", "sensors"],
            ),
            AlertRule(name="silent_sensor", severity="critical", when=pl.col("silent"), data=["hall"]),
        ],
        model_version=model.version,
    )


def _halls(o: FieldOptions) -> list[Hall]:
    """The halls of the options.

    Raises:
        ConfigError: a plan is not possible, or has too few sensors.
    """
    if not o.halls:
        return usual_halls()
    halls = []
    for name, given in o.halls.items():
        try:
            halls.append(Hall.of(name, given.model_dump()))
        except ValueError as reason:
            raise ConfigError(f"pipelines.{o.name}.halls: {reason}") from None
        if len(halls[-1].sensors) < FEWEST:
            raise ConfigError(
                f"pipelines.{o.name}.halls.{name}.sensors: expected the x, y of {FEWEST} sensors at least, got "
                f"{len(halls[-1].sensors)}"
            )
    return halls


def _property(number: int) -> str:
    return f"s{number}"


class Placed(Stage):
    """Adds the number of each reading's sensor, as `property`. What is not of a known sensor becomes a dead letter."""

    def __init__(self, name: str, halls: Sequence[Hall]) -> None:
        self._name = name
        self._halls = {hall.name: [*hall.sensors] for hall in halls}
        properties = {
            f"{hall}{SEPARATOR}{sensor}": _property(at)
            for hall, names in self._halls.items()
            for at, sensor in enumerate(names)
        }
        self._known, self._properties = pa.array(properties.keys()), pa.array(properties.values())

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        halls, sensors = (rows.table.column(name) for name in ("hall", "sensor"))
        found = pc.index_in(pc.binary_join_element_wise(halls, sensors, SEPARATOR), value_set=self._known)
        known = torch.from_numpy(found.is_valid().to_numpy(zero_copy_only=False))
        if not known.all():
            lines = [self._unknown(halls[at].as_py(), sensors[at].as_py()) for at in (~known).nonzero()[:, 0].tolist()]
            ctx.refuse(rows.keep(~known), stage="placed", error="UnknownSensor", messages=lines)
        rows = rows.with_columns({"property": self._properties.take(found)}).keep(known)
        values = rows.column("value").double().numpy()
        fits = np.abs(values) < LARGEST
        if not fits.all():
            lines = [f"expected a value below {LARGEST:g} in size, got {value:g}" for value in values[~fits]]
            ctx.refuse(rows.keep(torch.from_numpy(~fits)), stage="placed", error="BadValue", messages=lines)
        return rows.keep(torch.from_numpy(fits))

    def _unknown(self, hall: str, sensor: str) -> str:
        section = f'[pipelines.{self._name}.halls."{hall}"]'
        if hall not in self._halls:
            return f"expected a hall among {', '.join(self._halls)}, got {hall!r}; set {section}"
        names = ", ".join(self._halls[hall][:3])
        return f"expected a sensor of hall {hall!r}, such as {names}, got {sensor!r}; set its place in {section}"


class Readings(Stage):
    """Adds `sensors`, `missing` and `extent`, and `tensors["hall"]` and `["readings"]`: the mean of the minute, or the last one."""

    def __init__(self, halls: Sequence[Hall], fresh: float) -> None:
        self._fresh, self._halls = fresh, halls
        self._names = pa.array([hall.name for hall in halls])
        self._most = max(len(hall.sensors) for hall in halls)
        self._extents = [[*hall.corner.tolist(), *(hall.corner + hall.size).tolist()] for hall in halls]

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        which = pc.index_in(rows.table.column(ctx.key), value_set=self._names).to_numpy().astype(np.int64)
        readings = np.empty((len(rows), self._most), np.float32)
        for at in range(self._most):
            last, mean, age = (rows.column(f"{_property(at)}{part}").double().numpy() for part in ("", "_mean", "_age"))
            readings[:, at] = np.where(np.isnan(mean), np.where(age <= self._fresh, last, np.nan), mean)
        known = np.isfinite(readings)
        missing = [
            [name for name, there in zip(self._halls[hall].sensors, row, strict=False) if not there]
            for hall, row in zip(which, known, strict=True)
        ]
        columns = {
            "sensors": pa.array(known.sum(1), pa.int32()),
            "missing": pa.array(missing, pa.list_(pa.string())),
            "extent": pa.array([self._extents[hall] for hall in which], pa.list_(pa.float64())),
        }
        tensors = {"hall": torch.from_numpy(which), "readings": torch.from_numpy(readings)}
        return rows.with_columns(columns).with_tensors(**tensors)


class Between(Stage):
    """Adds the extremes of the map where no sensor is near, and how far they are past the hall's levels."""

    def __init__(self, halls: Sequence[Hall], near: float) -> None:
        self._halls, self._cells = halls, [hall.cells for hall in halls]
        self._is_near = [
            np.linalg.norm(cells[:, None] - hall.sensor_places, axis=-1) <= near
            for hall, cells in zip(halls, self._cells, strict=True)
        ]

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        maps, spreads = (_lists(rows, name) for name in ("map", "spread"))
        live = np.isfinite(rows.tensors["readings"].numpy())
        names = [f"{end}{part}" for end in EXTREMES for part in ("", "_x", "_y", "_spread")]
        found = {name: np.full(len(rows), np.nan) for name in [*names, "above", "below"]}
        for row, number in enumerate(rows.tensors["hall"].tolist()):
            hall, near = self._halls[number], self._is_near[number]
            watched = (near & live[row, : near.shape[1]]).any(1)
            places = np.flatnonzero(np.isfinite(maps[row]) & ~watched)
            if not len(places):
                continue
            for end, best in zip(EXTREMES, (np.argmax, np.argmin), strict=True):
                at = places[best(maps[row][places])]
                values = (maps[row][at], *self._cells[number][at], spreads[row][at])
                for part, value in zip(("", "_x", "_y", "_spread"), values, strict=True):
                    found[f"{end}{part}"][row] = value
            if hall.above is not None:
                found["above"][row] = found["highest"][row] - hall.above
            if hall.below is not None:
                found["below"][row] = hall.below - found["lowest"][row]
        return rows.with_columns({name: pa.array(values, from_pandas=True) for name, values in found.items()})


class Pictures(Stage):
    """Adds `png`, a picture of each map."""

    def __init__(self, halls: Sequence[Hall]) -> None:
        self._halls = halls

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        maps, live = _lists(rows, "map"), np.isfinite(rows.tensors["readings"].numpy())
        x, y = (rows.column(f"highest_{axis}").double().numpy() for axis in "xy")
        files = []
        for row, number in enumerate(rows.tensors["hall"].tolist()):
            hall = self._halls[number]
            mark = np.array([x[row], y[row]]) if np.isfinite(x[row]) else None
            files.append(png(hall, maps[row], live[row, : len(hall.sensors)], mark))
        return rows.with_columns({"png": pa.array(files, pa.binary())})


def _lists(rows: Rows, name: str) -> NDArray[np.float32]:
    """A column of lists of one length, `[B, T]`."""
    column = rows.table.column(name)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(rows), -1) if len(rows) else np.empty((0, 0), np.float32)


domain = Sensors()
