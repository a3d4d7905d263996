"""Recordings of rooms: three kinds of files become the same events, and errors name what is missing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tocsin.models.occupancy.data import read, read_truth

NOON = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)


def measurements(folder: Path, rows: list[tuple[int, str, int, str, float]]) -> None:
    """Write rows `(id, source, minute after noon, property, value)` in Windesheim's format."""
    table = pl.DataFrame(rows, schema=["id", "source", "minute", "property", "value"], orient="row")
    time = (pl.lit(NOON) + pl.col("minute") * 60_000).cast(pl.Datetime("ms", "UTC"))
    table.with_columns(timestamp=time.dt.convert_time_zone("Europe/Amsterdam")).write_parquet(folder / "b4b.parquet")


def test_measurements_are_taken_in_our_units_from_the_source_that_says_most(tmp_path: Path) -> None:
    rows = [(7, "bms", n, "co2__ppm", 500.0 + n) for n in range(3)] + [(7, "meter", 0, "co2__ppm", 900.0)]
    rows += [
        (7, "meter", 1, "rel_humidity__0", 0.45),
        (7, "bms", 0, "occupancy__bool", 1.0),
        (7, "xovis", 0, "occupancy__p", 2.0),
    ]
    measurements(tmp_path, rows)
    found = read(tmp_path)
    assert found.timezone == "Europe/Amsterdam"
    assert found.rooms == ["7"]
    assert found.events.rows() == [
        ("7", "co2", NOON, 500.0),
        ("7", "co2", NOON + 60_000, 501.0),
        ("7", "humidity", NOON + 60_000, 45.0),
        ("7", "co2", NOON + 120_000, 502.0),
    ]
    assert found.truth.rows() == [("7", NOON, True)]


def test_ucis_text_files_are_a_room_each_and_light_is_left_out(tmp_path: Path) -> None:
    text = '"date","Temperature","Humidity","Light","CO2","HumidityRatio","Occupancy"\n'
    text += (
        '"1","2026-01-31 12:00:00",21.5,26.2,585.2,749.2,0.0047,1\n"2","2026-01-31 12:01:00",21.4,26.3,0,750,0.0047,0\n'
    )
    (tmp_path / "datatest.txt").write_text(text)
    found = read(tmp_path)
    assert found.rooms == ["datatest"]
    assert sorted(found.events.filter(pl.col("time") == NOON)["property"]) == ["co2", "humidity", "temperature"]
    assert found.events.filter(pl.col("property") == "co2")["value"].to_list() == [749.2, 750.0]
    assert found.truth["occupied"].to_list() == [True, False]


@pytest.mark.parametrize(
    ("text", "events", "occupied"),
    [
        ("Time,CO2 [ppm],Occupancy\n2026-01-31T12:00:00Z,500,1\n", [("co2", 500.0)], [True]),
        ("date,temp,RH\n2026-01-31 12:00,20.5,40\n", [("humidity", 40.0), ("temperature", 20.5)], []),
        ("timestamp,co2,occupied\n2026-01-31 12:00:00,,0\n2026-01-31 12:00:00,1,\n", [("co2", 1.0)], [False]),
    ],
)
def test_csv_files_may_lack_any_property(
    tmp_path: Path, text: str, events: list[tuple[str, float]], occupied: list[bool]
) -> None:
    (tmp_path / "office.csv").write_text(text)
    found = read(tmp_path)
    assert found.events.rows() == [("office", name, NOON, value) for name, value in events]
    assert found.truth["occupied"].to_list() == occupied


def test_a_column_of_rooms_names_them(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("room,time,co2\na,2026-01-31 12:00:00,1\nb,2026-01-31 12:00:00,2\n")
    assert read(tmp_path).rooms == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "when,co2\n1,2\n", "expected a time and one of"),
        ("a.csv", "time,lux\n2026-01-31 12:00:00,2\n", "expected a time and one of"),
        (
            "a.csv",
            "time,co2\n\nyesterday,2\n",
            "a.csv, line 3, column 'time': expected a time such as .* got 'yesterday'",
        ),
        ("a.csv", "time,co2\n2026-01-31 12:00:00+15:00,2\n", "line 2, column 'time': expected a time"),
        ("a.csv", "time,co2\n2026-01-31 12:00:00 CET,2\n", "line 2, column 'time': expected a time"),
        ("a.csv", "time,co2\n,2\n", "line 2, column 'time': expected a value, got an empty cell"),
        (
            "a.csv",
            "time,co2\n2026-01-31 12:00:00Z,2\n2026-01-31 12:01:00,2\n",
            "line 3, column 'time': expected an offset from UTC",
        ),
        ("a.csv", "time,co2\n2026-01-31 12:00:00,nan\n", "line 2, column 'co2': expected a finite number, got 'nan'"),
        ("a.csv", "time,co2\n2026-01-31 12:00:00,-inf\n", "line 2, column 'co2': expected a finite number, got '-inf'"),
        ("a.csv", 'time,co2\n2026-01-31 12:00:00,"400,5"\n', "line 2, column 'co2': .*'400,5'; with --decimal-comma"),
        ("a.csv", "time,co2\n2026-01-31 12:00:00,400,5\n", "a.csv, line 2: 3 cells, expected 2"),
        (
            "a.csv",
            "time,co2,occupied\n2026-01-31 12:00:00,1,maybe\n",
            "column 'occupied': expected 0, 1, true or false",
        ),
        (
            "a.csv",
            "time,co2,room\n2026-01-31 12:00:00,1,\n",
            "line 2, column 'room': expected a value, got an empty cell",
        ),
        ("a.csv", "time,co2\n2026-01-31 12:00:00,\n", "expected readings of co2, .* got only empty cells"),
        ("a.txt", '"date","CO2"\n"1","2026-01-31 12:00:00",2,3\n', "a.txt, line 2: 4 cells, expected 2"),
        ("a.parquet", "PAR1", "a.parquet: expected a Parquet file"),
    ],
)
def test_what_is_no_recording_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read(tmp_path)


@pytest.mark.parametrize(
    ("written", "moment", "timezone"),
    [
        ("12:00:00Z", NOON, "UTC"),
        ("14:00:00+02:00", NOON, "Etc/GMT-2"),
        ("06:30:00.5 -0530", NOON + 500, "Etc/GMT+6"),
        ("17:30:00+05:30", NOON, "Asia/Kolkata"),
        ("08:30:00-03:30", NOON, "America/St_Johns"),
        ("20:00 +08:00", NOON, "Etc/GMT-8"),
        ("13:00:00,25+01", NOON + 250, "Etc/GMT-1"),
        ("12:00:00 UTC", NOON, "UTC"),
        ("12:00:00", NOON, "UTC"),
    ],
)
def test_offsets_from_utc_are_understood(tmp_path: Path, written: str, moment: int, timezone: str) -> None:
    (tmp_path / "a.csv").write_text(f"time;co2;occupied\n2026-01-31T{written};500;true\n")
    found = read(tmp_path)
    assert found.events["time"].to_list() == found.truth["time"].to_list() == [moment]
    assert found.timezone == timezone


def test_at_the_change_of_clocks_two_hours_stay_two(tmp_path: Path) -> None:
    hours = ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"]
    (tmp_path / "a.csv").write_text("time,co2\n" + "".join(f"{at},{500 + n}\n" for n, at in enumerate(hours)))
    found = read(tmp_path)
    assert found.events["time"].diff().to_list()[1:] == [3_600_000, 3_600_000]
    assert found.events["value"].to_list() == [500, 501, 502]
    assert found.timezone == "Etc/GMT-1"  # the winter offset
    (tmp_path / "b.csv").write_text("time,co2\n2026-10-25 02:00:00,1\n")
    with pytest.raises(ValueError, match=r"b.csv: times without an offset from UTC, but other files have one"):
        read(tmp_path)


def test_files_of_other_systems_are_found_and_read(tmp_path: Path) -> None:
    (tmp_path / "lab.CSV").write_bytes(b"\xef\xbb\xbfTime;CO2\r\n2026-01-31 12:00;400,5\r\n\r\n;\r\n")
    (tmp_path / "._lab.CSV").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".~lock.txt").write_text("")
    assert read(tmp_path, decimal_comma=True).events.rows() == [("lab", "co2", NOON, 400.5)]
    assert read(tmp_path / "lab.CSV", decimal_comma=True).rooms == ["lab"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    measurements(tmp_path, [(7, "bms", 0, "co2__ppm", 500.0), (7, "bms", 1, "co2__ppm", value)])
    with pytest.raises(ValueError, match=f"b4b.parquet, row 1, column 'value': expected a finite number, got {value}"):
        read(tmp_path)


def test_an_empty_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="with recordings of rooms, got none"):
        read(tmp_path)


def test_the_real_recordings_are_read_whole(data: Path) -> None:
    offices, uci = read(data / "occupancy_windesheim"), read(data / "occupancy_uci")
    assert offices.rooms == ["917810", "999169"]
    assert len(offices.events) == 2 * 4 * 34_446
    assert offices.truth["occupied"].mean() == pytest.approx(0.1098, abs=1e-3)
    assert len(uci.truth) == 8143 + 2665


@pytest.mark.parametrize(
    ("header", "cell", "kind"),
    [
        ("time,co2,occupied", "1", "presence"),
        ("time,co2,occupant_count", "3", "counts"),
        ("time,co2,occupant_presence,occupant_count", "1,7", "counts"),
        ("time,co2,people", "0", "counts"),
        ("time,co2,PIR", "1", "motion"),
        ("time,co2,wifi_connected_devices", "4", "phones"),
    ],
)
def test_what_the_truth_is_follows_from_its_column(tmp_path: Path, header: str, cell: str, kind: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n2026-01-31 12:00:00,500,{cell}\n")
    found = read(tmp_path)
    assert found.kind == kind
    assert found.truth["occupied"].to_list() == [cell[0] != "0"]


def test_columns_with_the_place_of_the_sensor_are_found_and_others_left_alone(tmp_path: Path) -> None:
    header = (
        "timestamp,indoor_relative_humidity,air_temperature,indoor_co2,temp_setpoint,supply_air_temperature,outdoor_co2"
    )
    (tmp_path / "a.csv").write_text(f"{header}\n2026-01-31 12:00 +00:00,45,21,600,25,14,420\n")
    found = read(tmp_path).events
    assert dict(found.select("property", "value").rows()) == {"humidity": 45, "temperature": 21, "co2": 600}


def test_shuffled_days_are_put_back_on_days_of_their_weekday(tmp_path: Path) -> None:
    rows = [(0, 5, 400), (1, 2, 500), (2, 2, 600)]  # a Saturday and two Wednesdays
    for name, factor in (("co2_data", 1), ("vav_data", 0.1), ("occ_data", 0.01)):
        lines = [f"{day},12:00:00,{weekday},0,{value * factor}" for day, weekday, value in rows]
        (tmp_path / f"{name}_room_1.csv").write_text("DayId,Time,Weekday,Holiday,Room 1\n" + "\n".join(lines) + "\n")
    (tmp_path / "roominfo.txt").write_text("RoomID room-type\n")
    found = read(tmp_path)
    assert (found.rooms, found.kind, found.timezone) == (["room_1"], "counts", "UTC")
    co2 = found.events.filter(property="co2").select(pl.from_epoch("time", "ms"), "value")
    at = [(moment.strftime("%a %Y-%m-%d %H:%M"), value) for moment, value in co2.rows()]
    assert at == [("Wed 2017-03-22 12:00", 500), ("Sat 2017-03-25 12:00", 400), ("Wed 2017-03-29 12:00", 600)]
    assert found.events.filter(property="ventilation")["value"].to_list() == [0.5, 0.4, 0.6]
    assert found.truth["occupied"].to_list() == [True, True, True]


def test_a_truth_without_readings_is_read_by_itself(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(
        "time,people\n2026-01-31 12:00:00,2\n2026-01-31 12:05:00,\n2026-01-31 12:10:00,0\n"
    )
    found = read_truth(tmp_path / "truth.csv")
    assert found.rows() == [("truth", NOON, True), ("truth", NOON + 600_000, False)]
    (tmp_path / "none.csv").write_text("time,co2\n2026-01-31 12:00:00,2\n")
    with pytest.raises(ValueError, match="expected a time and one of occup, count, people, "):
        read_truth(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="expected a CSV file with a time and the truth"):
        read_truth(tmp_path / "nowhere.csv")


def test_the_real_rooms_with_counts_are_read_whole(data: Path) -> None:
    sdu, robod = read(data / "occupancy_sdu"), read(data / "occupancy_robod")
    assert (sdu.rooms, sdu.kind, len(sdu.truth)) == (["room_1", "room_3"], "counts", 2 * 15 * 1440)
    assert (len(robod.rooms), robod.kind, robod.timezone) == (3, "counts", "Etc/GMT-8")
