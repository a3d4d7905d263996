"""Readings from NSRDB, TMY3 and plain tables."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tocsin.models.irradiance.data import COLUMNS, read

NSRDB = (
    "Source,Location ID,City,State,Country,Latitude,Longitude,Time Zone,Elevation,Local Time Zone\n"
    "NSRDB,{id},-,-,-,{latitude},{longitude},{zone},100,{local}\n"
    "Year,Month,Day,Hour,Minute,GHI,DNI,DHI,Temperature,Relative Humidity,Dew Point,,\n"
)
TMY3 = (
    '723170,"GREENSBORO PIEDMONT TRIAD INT",NC,-5.0,36.100,-79.950,273\n'
    "Date (MM/DD/YYYY),Time (HH:MM),GHI (W/m^2),DNI (W/m^2),DHI (W/m^2),Dry-bulb (C),Dew-point (C),RHum (%)\n"
)


def nsrdb(file: Path, rows: list[str], *, latitude: float = -33.5, longitude: float = 151.0, zone: str = "10") -> Path:
    header = NSRDB.format(id=file.stem, latitude=latitude, longitude=longitude, zone=zone, local="10")
    file.write_text(header + "\n".join(rows) + "\n")
    return file


def times(table: pl.DataFrame) -> list[str]:
    return [f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}" for ms in table["time"]]


def test_nsrdb_in_the_southern_hemisphere_with_a_zone_a_leap_day_and_missing_values(tmp_path: Path) -> None:
    file = nsrdb(
        tmp_path / "7.csv",
        ["2020,2,29,0,15,0,0,0,20,50,9,,", "2020,2,29,0,45,-9999,,0,21.5,-9999,9,,", "2020,3,1,0,15,12,1,2,1,50,,,"],
    )
    table = read(file)
    assert table.columns == [*COLUMNS]
    assert times(table) == ["2020-02-28 14:15", "2020-02-28 14:45", "2020-02-29 14:15"]
    assert table["site"].unique().to_list() == ["nsrdb-7"]
    assert table["ghi"].to_list() == [0, None, 12] and table["dni"].to_list() == [0, None, 1]
    assert table["humidity"].to_list() == [50, None, 50] and table["dew_point"].to_list() == [9, 9, None]
    assert table.select("latitude", "longitude", "elevation", "averaged").unique().row(0) == (-33.5, 151, 100, 0)


def test_the_clock_of_nsrdb_is_that_of_its_time_zone_not_the_local_one(tmp_path: Path) -> None:
    assert times(read(nsrdb(tmp_path / "1.csv", ["2019,1,1,0,0,0,0,0,1,1,1"], zone="0"))) == ["2019-01-01 00:00"]
    assert times(read(nsrdb(tmp_path / "1.csv", ["2019,1,1,0,0,0,0,0,1,1,1"], zone="5.5"))) == ["2018-12-31 18:30"]


def test_a_typical_year_goes_forward(tmp_path: Path) -> None:
    """NSRDB's typical years and TMY3 join months of several years."""
    rows = [f"{year},{month},1,0,30,5,0,0,1,1,1" for month, year in ((1, 2011), (2, 1999), (3, 2015))]
    assert times(read(nsrdb(tmp_path / "1.csv", rows, zone="0"))) == [f"2001-0{m}-01 00:30" for m in (1, 2, 3)]
    leap = ["2012,2,29,0,30,5,0,0,1,1,1", "2004,3,1,0,30,5,0,0,1,1,1"]
    assert times(read(nsrdb(tmp_path / "1.csv", leap, zone="0")))[0] == "2000-02-29 00:30"


def test_a_year_that_is_over_goes_on_with_the_next(tmp_path: Path) -> None:
    rows = ["2018,12,31,23,30,0,0,0,1,1,1", "2019,1,1,0,30,0,0,0,1,1,1"]
    assert times(read(nsrdb(tmp_path / "1.csv", rows, zone="0"))) == ["2018-12-31 23:30", "2019-01-01 00:30"]
    apart = [f"{year},{month},1,0,30,0,0,0,1,1,1" for year in (2015, 2017) for month in (1, 2)]
    assert times(read(nsrdb(tmp_path / "1.csv", apart, zone="0")))[1:3] == ["2015-02-01 00:30", "2017-01-01 00:30"]


def test_tmy3_counts_to_24_and_gives_means(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_text(TMY3 + "01/31/1988,24:00,0,0,0,10.0,6.1,77\n02/01/1980,01:00,0,0,0,-9900,6.1,77\n")
    table = read(tmp_path)
    assert times(table) == ["2001-02-01 05:00", "2001-02-01 06:00"]
    assert table["temperature"].to_list() == [10, None] and table["averaged"].to_list() == [60, 60]
    assert (table["site"][0], table["elevation"][0]) == ("tmy3-723170", 273)


def test_a_plain_table_may_have_other_names_and_lack_most(tmp_path: Path) -> None:
    (tmp_path / "roof.csv").write_text(
        "Timestamp;GHI;Lat;Lon;RH\n2024-06-01T12:00:00+02:00;801,5;52;13;40\n2024-06-01 10:10:00;;52;13;\n"
    )
    table = read(tmp_path, decimal_comma=True)
    assert times(table) == ["2024-06-01 10:00", "2024-06-01 10:10"]
    assert table["site"].unique().to_list() == ["roof"]
    assert table["ghi"].to_list() == [801.5, None] and table["humidity"].to_list() == [40, None]
    assert table["elevation"].null_count() == table["averaged"].null_count() == 2


def test_several_files_of_a_site_are_one_site(tmp_path: Path) -> None:
    for year in (2018, 2019):
        file = nsrdb(tmp_path / "1.csv", [f"{year},1,1,0,0,{year - 2000},0,0,1,1,1"], zone="0")
        file.rename(tmp_path / f"{year}.csv")
    table = read(tmp_path)
    assert table["site"].unique().to_list() == ["nsrdb-1"] and table["ghi"].to_list() == [18, 19]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "a,b\n1,2\n",
            "expected a file of NSRDB or TMY3, or a table with columns named time and ghi, got no time and no ghi",
        ),
        (
            "time,ghi\nyesterday,2\n",
            "expected a time such as 2026-01-31 12:00:00 or 2026-01-31T12:00:00+01:00, got 'yesterday'",
        ),
        ("time,ghi\n2024-06-01T12:00:00Z,much\n", "column 'ghi': expected a finite number, got 'much'"),
        (
            NSRDB.format(id=1, latitude="north", longitude=1, zone=0, local=0) + "2019,1,1,0,0,1\n",
            "expected the site's latitude",
        ),
        (NSRDB.format(id=1, latitude=1, longitude=1, zone=0, local=0).replace("GHI", "DHI2"), "got none named ghi"),
        (TMY3 + "31.01.88,24:00,0\n", "expected dates such as 01/31/1988"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read(tmp_path)
    assert "a.csv" in str(refused.value) and "\n" not in str(refused.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected CSV files of NSRDB, TMY3 or plain readings, got none"):
        read(tmp_path)


def test_the_recordings_are_read(data: Path) -> None:
    table = read(data / "solar")
    assert dict(table.group_by("site").len().rows()) == {"nsrdb-401182": 17520, "tmy3-723170": 8760}
    assert sum(table.select(pl.all().null_count()).row(0)) == 0
