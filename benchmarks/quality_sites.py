"""Write the recordings of `quality` as plain tables, a folder for each site: `key,time,<channels>`."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

SHIPPED = (
    "cmapss",
    "occupancy_uci",
    "occupancy_windesheim",
    "occupancy_sdu",
    "solar",
    "bearings",
    "hydraulic",
    "battery",
)
"""Sites whose terms allow that weights which saw them are shipped."""
UNSEEN = ("skab", "occupancy_robod", "occupancy_iotsec", "smap_msl")
STOPPED = 40
"""Rows at the end of the bearings' recording, with the machine stopped."""
CYCLES = 60
"""Cycles of a block of the hydraulic rig's recording; every third block is taken out."""
Tables = Iterator[pl.DataFrame]


def prepare(data: Path, out: Path) -> None:
    """Write each site that is there to a folder of its own."""
    for name, (place, read) in SITES.items():
        if not (data / place).is_dir():
            print(f"{data / place} is not there")
            continue
        (out / name).mkdir(parents=True, exist_ok=True)
        table = pl.concat([*read(data / place)], how="diagonal")
        table.write_csv(out / name / "readings.csv")
        print(f"{name}: {table['key'].n_unique()} keys, {table.height} readings, {table.width - 2} channels")


def _table(key: str, time: object, values: pl.DataFrame) -> pl.DataFrame:
    floats = values.select(pl.all().cast(pl.Float64, strict=False))
    return pl.DataFrame({"key": pl.repeat(key, floats.height, eager=True), "time": time}).hstack(floats)


def _cmapss(place: Path) -> Tables:
    """Every second engine of FD001 and FD003, every fifth of FD002 and FD004."""
    for subset, every in (("FD001", 2), ("FD002", 5), ("FD003", 2), ("FD004", 5)):
        with gzip.open(place / f"train_{subset}.txt.gz") as file:
            rows = np.loadtxt(file)
        names = [f"setting{n}" for n in (1, 2, 3)] + [f"s{n}" for n in range(1, 22)]
        for unit in np.unique(rows[:, 0])[::every]:
            own = rows[rows[:, 0] == unit]
            yield _table(f"{subset}-{int(unit)}", own[:, 1], pl.DataFrame(own[:, 2:], schema=names))


def _uci(place: Path) -> Tables:
    for name in ("datatraining", "datatest"):
        header, *lines = (place / f"{name}.txt").read_text().replace('"', "").splitlines()
        cells = pl.DataFrame([line.split(",")[1:] for line in lines], schema=header.split(","), orient="row")
        times = cells["date"].str.to_datetime().dt.epoch("s")
        yield _table(name, times, cells.drop("date", "Occupancy"))


def _windesheim(place: Path) -> Tables:
    table = pl.read_parquet(place / "b4b_raw_measurements.parquet")
    table = table.filter(
        pl.col("source").is_in(["bms", "CO2-meter-SCD4x"]) & ~pl.col("property").str.starts_with("occupancy")
    )
    for (room, source), own in sorted(table.partition_by("id", "source", as_dict=True).items(), key=str):
        wide = own.with_columns(pl.col("timestamp").dt.epoch("s")).pivot(
            "property", index="timestamp", values="value", aggregate_function="last"
        )
        wide = wide.sort("timestamp")
        yield _table(f"{room}-{source}", wide["timestamp"], wide.drop("timestamp"))


def _sdu(place: Path) -> Tables:
    """A key a day: the days are in random order."""
    for room in (1, 3):
        parts = {name: pl.read_csv(place / f"{name}_data_room_{room}.csv") for name in ("co2", "vav", "occ")}
        days = parts["co2"]["DayId"]
        values = pl.DataFrame({name: part[f"Room {room}"] for name, part in parts.items()})
        minutes = np.arange(len(days)) * 60.0
        # A pause between days, so that no window crosses midnight.
        shift = (days != days.shift(1)).fill_null(False).cum_sum() * 86_400.0
        yield _table(f"room{room}", minutes + shift.to_numpy(), values)


def _solar(place: Path) -> Tables:
    table = pl.read_csv(place / "nsrdb_40.53_-108.54_2017.csv", skip_rows=2)
    names = ["DHI", "GHI", "DNI", "Dew Point", "Wind Speed", "Relative Humidity", "Temperature", "Pressure"]
    yield _table("colorado", np.arange(table.height) * 1800.0, table.select(names))
    table = pl.read_csv(place / "tmy3_723170_greensboro_nc.csv", skip_rows=1, infer_schema_length=None)
    own = {
        "GHI": "GHI (W/m^2)",
        "DNI": "DNI (W/m^2)",
        "DHI": "DHI (W/m^2)",
        "Temperature": "Dry-bulb (C)",
        "Dew Point": "Dew-point (C)",
        "Relative Humidity": "RHum (%)",
        "Pressure": "Pressure (mbar)",
        "Wind Speed": "Wspd (m/s)",
    }
    chosen = table.select(pl.col(column).alias(name) for name, column in own.items())
    yield _table("greensboro", np.arange(table.height) * 3600.0, chosen)


def _bearings(place: Path) -> Tables:
    table = pl.read_csv(place / "merged_dataset_BearingTest_1.csv", try_parse_dates=True)[:-STOPPED]
    yield _table("ims-1", table[:, 0].cast(pl.Datetime).dt.epoch("s"), table[:, 1:])


def _hydraulic(place: Path) -> Tables:
    """A key for each stretch of 120 cycles without a block taken out."""
    names = ("CE", "CP", "SE", "TS1", "TS2", "TS3", "TS4", "VS1")
    table = pl.DataFrame({name: np.loadtxt(place / f"{name}.txt").reshape(-1) for name in names})
    rows = 2 * CYCLES * 60
    for number, start in enumerate(range(0, table.height - rows + 1, rows)):
        yield _table(f"stretch-{number}", np.arange(rows), table[start : start + rows])


def _battery(place: Path) -> Tables:
    table = pl.read_csv(place / "nasa_capacity.csv")
    for (cell,), own in table.partition_by("battery", as_dict=True).items():
        yield _table(str(cell), own["cycle"], own.select("capacity_ah"))


def _skab(place: Path) -> Tables:
    table = pl.read_csv(place / "skab/anomaly-free/anomaly-free.csv", separator=";", try_parse_dates=True)
    yield _table("anomaly-free", table["datetime"].cast(pl.Datetime).dt.epoch("s"), table[:, 1:9])


def _robod(place: Path) -> Tables:
    names = ["voc", "sound_pressure_level", "indoor_relative_humidity", "air_temperature", "illuminance", "pm2.5"]
    names += ["indoor_co2", "baromatic_pressure", "supply_air_temperature"]
    for room in (1, 2, 3):
        table = pl.read_csv(place / f"combined_Room{room}.csv", infer_schema_length=None)
        chosen = table.select(name for name in names if name in table.columns)
        yield _table(f"room{room}", np.arange(table.height) * 300.0, chosen)


def _iotsec(place: Path) -> Tables:
    """A key for each node of each measurement."""
    for file in sorted(place.glob("*.csv")):
        rows = np.array(
            [[float(cell) for cell in line.split(",")] for line in file.read_text().splitlines() if line.strip()]
        )
        for node in np.unique(rows[:, 3]):
            own = rows[rows[:, 3] == node]
            names = ["temperature", "humidity", "light 1", "light 2"]
            yield _table(f"{file.stem}-{int(node)}", own[:, 1] / 1000, pl.DataFrame(own[:, 4:8], schema=names))


def _smap(place: Path) -> Tables:
    for name in ("C-1", "P-1"):
        rows = np.load(place / f"smap_msl/train/{name}.npy", allow_pickle=False)
        values = pl.DataFrame(rows, schema=[f"{name} {n}" for n in range(rows.shape[1])])
        yield _table(name, np.arange(len(rows)) * 60.0, values)


SITES: dict[str, tuple[str, Callable[[Path], Tables]]] = {
    "cmapss": ("cmapss", _cmapss),
    "occupancy_uci": ("occupancy_uci", _uci),
    "occupancy_windesheim": ("occupancy_windesheim", _windesheim),
    "occupancy_sdu": ("occupancy_sdu", _sdu),
    "solar": ("solar", _solar),
    "bearings": ("run_to_failure/bearings", _bearings),
    "hydraulic": ("run_to_failure/hydraulic", _hydraulic),
    "battery": ("run_to_failure/battery", _battery),
    "skab": ("anomaly", _skab),
    "occupancy_robod": ("occupancy_robod", _robod),
    "occupancy_iotsec": ("occupancy_iotsec", _iotsec),
    "smap_msl": ("anomaly", _smap),
}
