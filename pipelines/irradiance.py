"""Solar irradiance: from weather sites' readings, the mean of the next hour with an interval; alerts for ramps, dirt and shade."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel, ConfigDict, Field

from tocsin.models.irradiance import features, watch
from tocsin.models.irradiance.data import COLUMNS, MEASURED, PLACE
from tocsin.models.irradiance.domain import Irradiance
from tocsin.models.irradiance.features import RAW, STEPS
from tocsin.models.irradiance.model import load
from tocsin.models.irradiance.readings import Moments
from tocsin.pipelines.runtime import (
    AlertRule,
    Cell,
    Declared,
    Duration,
    Model,
    Options,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    replay,
)
from tocsin.pipelines.runtime.stages import Inactivity, Infer, Reorder

READING = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        *(pa.field(name, pa.float64()) for name in COLUMNS[2:]),
    ]
)
"""A reading: `ghi`, `dni`, `dhi` in W/m2, the air's temperatures in degrees Celsius, `humidity` in %. `averaged`: minutes over
which it is the mean, ending at `time`; null or 0: an instant. Place in degrees, north and east positive, and m; null: as in the
options."""
WATTS, DEGREES = {"unit": "W/m2"}, {"unit": "degrees"}
FORECAST = ("forecast", "forecast_low", "forecast_high", "persistence", "clear_ahead")
RESULTS = pa.schema(
    [
        ("site", pa.string()),
        pa.field("ghi", pa.float64(), metadata={**WATTS, "axis": "irradiance"}),
        pa.field("clear_sky", pa.float64(), metadata={**WATTS, "axis": "irradiance"}),
        pa.field("clearness", pa.float64(), metadata={"unit": ""}),
        pa.field("sun_elevation", pa.float64(), metadata=DEGREES),
        pa.field("sun_azimuth", pa.float64(), metadata=DEGREES),
        *(pa.field(name, pa.float32(), metadata=WATTS) for name in FORECAST),
        pa.field("ramp", pa.float32(), metadata={"unit": "probability"}),
        pa.field("soiling", pa.float64(), metadata={"axis": "lost"}),
        pa.field("shading", pa.float64(), metadata={"axis": "lost"}),
        *(pa.field(name, pa.float64(), metadata=DEGREES) for name in ("shading_azimuth", "shading_elevation")),
        pa.field("in_domain", pa.bool_()),
        pa.field("silent", pa.bool_()),
    ]
)
FORGIVEN, MOST_ODD = 0.8, 2.0
"""Each day `FORGIVEN` of a site's impossible readings still count; if more than `MOST_ODD` do, they are not of its place."""
BOUNDS = {"latitude": (-90, 90), "longitude": (-180, 360), "elevation": (-500, 9000)}


class SiteOptions(BaseModel):
    """`[pipelines.irradiance.sites.<site>]`: where a site is, in degrees and m, if its readings do not say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=360)
    elevation: float = Field(default=0, ge=-500, le=9000)


class IrradianceOptions(Options):
    """The options of the irradiance pipeline.

    Args:
        sites: sites whose readings do not say where they are.
        ramp: probability from which a ramp is expected; None: the model's own.
        soiling: share of the light lost at all angles of the sun that raises an alert; it ends at half of it.
        shading: share of the light lost at one place of the sky that raises an alert; it ends at half of it.
        silent: time without a reading that raises an alert.
        late: how far readings may be out of order.
    """

    name: str = "irradiance"
    topic: str = "sensors.weather"
    sites: dict[str, SiteOptions] = Field(default_factory=dict)
    ramp: float | None = Field(default=None, gt=0, lt=1)
    soiling: float = Field(default=0.1, gt=0, lt=1)
    shading: float = Field(default=0.35, gt=0, lt=1)
    silent: Duration = "3h"
    late: Duration = "0s"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The irradiance pipeline: a row a reading.

    Args:
        options: of `IrradianceOptions`; all may be absent.
        model: written by `tocsin train irradiance`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    o = IrradianceOptions.read(options)
    model = Model.required(model, "irradiance")
    network = model.load(load, training="tocsin train irradiance")
    ramp = network.config.ramp if o.ramp is None else o.ramp
    known = pl.col("in_domain")
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=READING,
        key="site",
        event_time="time",
        stages=[
            Reorder(late=o.late, wait=o.late),
            Place(o.sites),
            Sun(),
            Infer(network),
            Known(),
            Inactivity(o.silent),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="ramp",
                severity="warning",
                when=(pl.col("ramp") >= ramp) & known,
                data=["site", "ghi", *FORECAST, "ramp"],
            ),
            *(
                AlertRule(
                    name=name,
                    severity="warning",
                    when=(pl.col(name) >= level) & known,
                    clear=pl.col(name) < level / 2,
                    data=["site", name, *more],
                )
                for name, level, more in (
                    ("soiling", o.soiling, ()),
                    ("shading", o.shading, ("shading_azimuth", "shading_elevation")),
                )
            ),
            AlertRule(
                name="out_of_domain",
                severity="warning",
                when=~known,
                hold=2,
                data=["site", "ghi", "clear_sky", "sun_elevation"],
            ),
            AlertRule(name="silent_sensor", severity="critical", when=pl.col("silent"), data=["site"]),
        ],
        model_version=model.version,
        warmup="90d",  # rebuilds what is usual at a site
        forget_after="90d",
    )


def judged(readings: pl.DataFrame, folder: Path, version: str) -> pl.DataFrame:
    """The pipeline's results over readings with the columns of the readers."""
    ordered = readings.sort("time", "site", maintain_order=True).select(COLUMNS)
    table = ordered.with_columns(pl.from_epoch("time", "ms").dt.replace_time_zone("UTC")).to_arrow().cast(READING)
    return replay(pipeline({"silent": "9999d"}, Model(folder, version, "cpu")), table)[0]


class Place(Stage):
    """Fills in where a site is, from the options; a row whose site is nowhere, or outside the earth, becomes a dead letter."""

    def __init__(self, sites: Mapping[str, SiteOptions]) -> None:
        self._names = pa.array(list(sites), pa.string())
        self._places = {
            name: np.array([*(float(getattr(site, name)) for site in sites.values()), np.nan]) for name in PLACE
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        which = pc.index_in(rows.table.column(ctx.key), value_set=self._names).fill_null(-1).to_numpy()
        places = {}
        for name in PLACE:
            given = rows.column(name).double().numpy()
            places[name] = np.where(np.isnan(given), self._places[name][which], given)
        # A site without an elevation is taken to be at sea level: 100 m change the cloudless sky by half a percent.
        places["elevation"] = np.nan_to_num(places["elevation"], nan=0.0)
        valid = np.ones(len(rows), bool)
        for name, (low, high) in BOUNDS.items():
            valid &= (places[name] >= low) & (places[name] <= high)
        rows = rows.with_columns({name: pa.array(values) for name, values in places.items()})
        if valid.all():
            return rows
        nowhere = rows.keep(torch.from_numpy(~valid))
        ctx.refuse(nowhere, stage="place", error="NoPlace", messages=[*map(_nowhere, nowhere.table.to_pylist())])
        return rows.keep(torch.from_numpy(valid))


def _nowhere(row: Mapping[str, Any]) -> str:
    latitude, longitude = row["latitude"], row["longitude"]
    given = ", ".join(f"{name} {row[name]:g}" for name in PLACE if row[name] == row[name])
    known = latitude == latitude and longitude == longitude
    reason = f"got {given}" if known else "got none"
    return (
        f"expected the latitude (-90 to 90) and longitude (-180 to 360) of site {row['site']!r}, {reason}; send them with the "
        f'reading, or set [pipelines.irradiance.sites."{row["site"]}"]'
    )


class Sun(Stage):
    """Adds the sun and the cloudless sky, what the days before tell of the sensor, and `tensors["window"]` for the model."""

    @property
    def state(self) -> Mapping[str, Declared]:
        cells = {**features.memory(), **_named("watch", watch.memory()), "odd": ((), 0.0), "odd_day": ((), np.nan)}
        return {name: Cell(shape, torch.float64, fill) for name, (shape, fill) in cells.items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        numbers = {name: rows.column(name).double().numpy() for name in ("averaged", *PLACE, *MEASURED)}
        moments = Moments.of({"time": ctx.times(rows).double().numpy(), **numbers})
        given, clearness, impossible = moments.given, moments.clearness, moments.impossible
        where = watch.cell(moments.now.sun.azimuth, moments.now.sun.elevation)
        window = np.empty((len(rows), STEPS, len(RAW)), np.float32)
        names = ("soiling", "shading", "shading_azimuth", "shading_elevation", "odd")
        found = {name: np.empty(len(rows)) for name in names}
        # Read and written once a step: a site's many readings would each pay for all cells.
        sites = rows.groups().slots if len(rows) else rows.slots
        cells = {name: cell[sites].numpy() for name, cell in state.cells.items()}
        places = np.searchsorted(sites.numpy(), rows.slots.numpy())
        for index in rows.rounds():
            at = index.numpy()
            place = places[at]
            known = {name: cell[place] for name, cell in cells.items()}
            hours = {name: known[name] for name in features.memory()}
            window[at], updated = features.advance(
                hours, moments.time[at], {name: values[at] for name, values in given.items()}
            )
            seen = {name: known[f"watch_{name}"] for name in watch.memory()}
            day = moments.solar_day[at]
            seen = watch.advance(seen, day, where[at], clearness[at])
            updated |= _named("watch", seen)
            passed = np.nan_to_num(np.maximum(day - known["odd_day"], 0))
            updated["odd"] = known["odd"] * FORGIVEN**passed + impossible[at]
            updated["odd_day"] = np.fmax(day, known["odd_day"])
            for name, values in updated.items():
                cells[name][place] = values
            found["odd"][at], found["soiling"][at] = updated["odd"], watch.soiling(seen)
            for name, values in zip(names[1:4], watch.shading(seen), strict=True):
                found[name][at] = values
        for name, values in cells.items():
            state.cell(name)[sites] = torch.from_numpy(values)
        usual = ~impossible & (found.pop("odd") <= MOST_ODD)
        columns = {
            "clear_sky": moments.now.ghi,
            "clearness": clearness,
            "sun_elevation": moments.now.sun.elevation,
            "sun_azimuth": moments.now.sun.azimuth,
            **found,
        }
        rows = rows.with_columns({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        return rows.with_columns({"usual": pa.array(usual)}).with_tensors(window=torch.from_numpy(window))


class Known(Stage):
    """Adds `in_domain`: the readings can be the site's, and some of the last day are known. Else the interval is everything."""

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        known = pc.and_(rows.table.column("usual"), pc.is_valid(rows.table.column("forecast")))
        most = pc.multiply(rows.table.column("clear_ahead"), pa.scalar(features.MOST, pa.float32()))
        low, high = (rows.table.column(f"forecast_{end}") for end in ("low", "high"))
        return rows.with_columns(
            {
                "in_domain": known,
                "forecast_low": pc.if_else(known, low, pc.multiply(most, pa.scalar(0.0, pa.float32()))),
                "forecast_high": pc.if_else(known, high, most),
            }
        )


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


domain = Irradiance(judged)
