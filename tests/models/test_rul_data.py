"""C-MAPSS and CSV files become tables, and tables become lives with the right labels."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import CMAPSS_COLUMNS, cmapss, lives, read_cmapss, read_cmapss_rul, read_csv_directory

CONFIG = RulConfig(key="pump", key_type="string", order="hour", features=("a", "b"), window=3)


def table(spans: dict[str, int]) -> pl.DataFrame:
    rows = [(pump, float(h), h * 10.0, ord(pump)) for pump, life in spans.items() for h in range(1, life + 1)]
    return pl.DataFrame(rows, schema=["pump", "hour", "a", "b"], orient="row")


@pytest.mark.parametrize("packed", [False, True])
def test_cmapss_files_read_plain_and_packed(tmp_path: Path, packed: bool) -> None:
    lines = "".join(
        f"{unit} {cycle} " + " ".join(str(i / 2) for i in range(24)) + "  \n" for unit, cycle in [(1, 1), (1, 2)]
    )
    if packed:
        (tmp_path / "train_FD001.txt.gz").write_bytes(gzip.compress(lines.encode()))
    else:
        (tmp_path / "train_FD001.txt").write_text(lines)
    read = read_cmapss(tmp_path)
    assert read.columns == list(CMAPSS_COLUMNS)
    assert read.schema["unit"] == read.schema["cycle"] == pl.Int64
    assert read.row(1)[:2] == (1, 2)
    assert read.row(1)[2:] == tuple(i / 2 for i in range(24))


def test_cmapss_errors_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"RUL_FD002.txt\[.gz\] is missing; point --data"):
        read_cmapss_rul(tmp_path, "FD002")
    (tmp_path / "test_FD001.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"test_FD001.txt, line 1: 3 columns, expected 26"):
        read_cmapss(tmp_path, "FD001", "test")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("place", "cell", "says"),
    [
        (25, "nan", "line 3, column s21: expected a finite number, got 'nan'"),
        (2, "-inf", "line 3, column setting1: expected a finite number, got '-inf'"),
        (3, "1e39", "line 3, column setting2: expected a finite number, got '1e39'"),
        (4, "high", "line 3, column setting3: expected a finite number, got 'high'"),
        (1, "2.5", "line 3, column cycle: expected a whole number, got '2.5'"),
    ],
)
def test_a_cell_of_cmapss_that_is_no_number_is_named(
    tmp_path: Path, packed: bool, place: int, cell: str, says: str
) -> None:
    row = ["1"] * 26
    lines = " ".join(row) + "  \n\n" + " ".join([*row[:place], cell, *row[place + 1 :]]) + " \n"
    path = tmp_path / ("TRAIN_FD001.txt.gz" if packed else "train_FD001.TXT")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    with pytest.raises(ValueError, match=says):
        read_cmapss(tmp_path)


def test_a_true_rul_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "RUL_FD001.txt").write_text("112\nnan\n")
    with pytest.raises(ValueError, match=r"RUL_FD001.txt, line 2, column RUL: expected a finite number, got 'nan'"):
        read_cmapss_rul(tmp_path)
    (tmp_path / "RUL_FD001.txt").write_text("112\n98\n")
    assert read_cmapss_rul(tmp_path).tolist() == [112, 98]


def test_lives_are_sorted_and_count_down_to_failure() -> None:
    shuffled = table({"A": 5, "B": 2, "C": 3}).sample(fraction=1, shuffle=True, seed=1)
    known = lives(shuffled, CONFIG)
    assert known.keys == ("A", "B", "C")
    assert known.rul.tolist() == [4, 3, 2, 1, 0, 1, 0, 2, 1, 0]
    assert known.rows[4].tolist() == [50, 65]
    assert known.first.tolist() == [0, 5, 7]
    assert known.last.tolist() == [4, 6, 9]
    assert known.place.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]
    some = known.of(torch.tensor([2, 0]))
    assert some.keys == ("A", "C")
    assert some.engine.tolist() == [0] * 5 + [1] * 3
    assert some.rows[-1].tolist() == [30, 67]
    assert len(known.of(torch.tensor([], dtype=torch.int64))) == 0


def test_labels_come_from_final_rul_or_from_a_column() -> None:
    truncated = table({"A": 4, "B": 3})
    assert lives(truncated, CONFIG, final_rul=np.array([7.0, 50.0])).rul.tolist() == [10, 9, 8, 7, 52, 51, 50]
    with pytest.raises(ValueError, match="1 values for 2 keys"):
        lives(truncated, CONFIG, final_rul=np.array([7.0]))
    labelled = RulConfig(key="pump", key_type="string", order="hour", features=("b",), label="a")
    assert lives(truncated, labelled).rul.tolist() == [10, 20, 30, 40, 10, 20, 30]


def test_a_table_without_rows_and_an_unknown_subset_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of at least one key, got none"):
        lives(table({"A": 1}).clear(), CONFIG)
    with pytest.raises(ValueError, match="subset FD005: expected one of FD001, FD002, FD003, FD004"):
        cmapss("FD005")


def test_csv_directory_reads_many_files_and_keeps_string_keys(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("hour,pump,a,b,note\n2,007,1.5,2,x\n1,007,1,2,\n")
    (tmp_path / "two.csv").write_text("pump,a,b,hour\n006, 3 ,4,1\n")
    assert read_csv_directory(tmp_path, CONFIG).rows() == [("006", 1, 3, 4), ("007", 1, 1, 2), ("007", 2, 1.5, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pump,hour,a\nx,1,2\n", r": columns \['b'\] missing"),
        ("pump,hour,a,b\nx,1,2,1\n\nx,2,2,high\n", ", line 4, column 'b': expected a finite number, got 'high'"),
        ("pump,hour,a,b\nx,1,2,\n", ", line 2, column 'b': expected a value, got an empty cell"),
        ("pump,hour,a,b\n,1,2,3\n", ", line 2, column 'pump': expected a value, got an empty cell"),
        (
            "pump,hour,a,b\nx,0.5,2,3\nx,1.5,2,3\n",
            ", line 2, column 'hour': expected a whole number, got '0.5', .*order_type",
        ),
    ],
)
def test_csv_errors_name_the_file_the_line_and_the_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"bad.csv{message}") as refused:
        read_csv_directory(tmp_path, CONFIG)
    assert "\n" not in str(refused.value)


def test_whole_numbers_are_integers_however_they_are_written_and_fractions_where_the_config_has_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "one.csv").write_text("pump,hour,a,b\n7.0,1.0,1,2\n7,2e0,1,2\n")
    numbered = replace(CONFIG, key_type="int64")
    read = read_csv_directory(tmp_path, numbered)
    assert read.rows() == [(7, 1, 1, 2), (7, 2, 1, 2)]
    assert read.dtypes == [pl.Int64, pl.Int64, pl.Float64, pl.Float64]
    (tmp_path / "one.csv").write_text("pump,hour,a,b\n7,0.5,1,2\n7,1,1,2\n")
    assert read_csv_directory(tmp_path, replace(numbered, order_type="float64"))["hour"].to_list() == [0.5, 1.0]


def test_files_of_other_systems_are_found_and_read(tmp_path: Path) -> None:
    (tmp_path / "one.CSV").write_bytes(b"\xef\xbb\xbfpump;hour;a;b\r\n6;1;1,5;2\r\n\r\n;;;\r\n")
    (tmp_path / "._one.CSV").write_bytes(b"\0\5\x16\7")
    assert read_csv_directory(tmp_path, CONFIG, decimal_comma=True).rows() == [("6", 1, 1.5, 2)]
    with pytest.raises(ValueError, match=r"one.CSV, line 2, column 'a': .* got '1,5'; with --decimal-comma"):
        read_csv_directory(tmp_path / "one.CSV", CONFIG)


def test_a_directory_without_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*.csv"):
        read_csv_directory(tmp_path, CONFIG)
