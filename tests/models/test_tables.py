"""CSV files are read correctly, or refused with file, line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin.models.tables import Sheet, read

Read = Callable[..., Sheet]


@pytest.fixture
def written(tmp_path: Path) -> Read:
    """A function that writes contents to a file and reads it."""

    def made(content: str | bytes, **how: Any) -> Sheet:
        (path := tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path, **how)

    return made


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_spaces_marks_and_separators_do_not_matter(written: Read, separator: str, end: str) -> None:
    lines = ["\ufeff", "a ,b, c,", "", " 1,x,,", "   ", ",,,", '2,"y, z",3', "", ""]
    sheet = written(end.join(line.replace(", z", "; z").replace(",", separator) for line in lines))
    assert sheet.cells.columns == ["a", "b", "c"]
    assert sheet.cells.rows() == [("1", "x", None), ("2", "y; z", "3")]
    assert sheet.numbers("a").to_list() == [1, 2]
    assert sheet.numbers("c", empty=True).to_list() == [None, 3]


def test_a_short_row_lacks_its_last_cells_and_a_header_alone_is_a_table(written: Read) -> None:
    assert written("a,b\n1\n2,3\n").cells.rows() == [("1", None), ("2", "3")]
    assert written("a,b\n").cells.rows() == []
    for content in ('"b"\n"1",2\n', "b\n2\n"):
        assert written(content, numbered=True).cells.to_dict(as_series=False) == {"b": ["2"]}


def test_yes_and_no_are_words_or_numbers(written: Read) -> None:
    sheet = written("a,b\n1,\nTrue,\nyes,\n3.0,\n0,\nFALSE,\nno,\n,1\n")
    assert sheet.flags("a").to_list() == [True] * 4 + [False] * 3 + [None]
    with pytest.raises(ValueError, match="line 2, column 'a': expected 0, 1, true or false, got 'perhaps'"):
        written("a\nperhaps\n").flags("a")


def test_whole_numbers_are_integers_however_they_are_written(written: Read) -> None:
    sheet = written("n\n7\n7.0\n-1e3\n9007199254740993\n")
    assert sheet.integers("n").to_list() == [7, 7, -1000, 9007199254740993]


def test_decimal_commas_are_read_where_they_are_meant(written: Read) -> None:
    assert written("a;b\n400,5;1\n-0,5;\n", decimal_comma=True).numbers("a").to_list() == [400.5, -0.5]
    assert written('a,b\n"7,0",1\n', decimal_comma=True).integers("a").to_list() == [7]


@pytest.mark.parametrize(
    "cell", ["nan", "NaN", "inf", "-Infinity", "1e39", "1e400", "n/a", "0x10", "1 2", "2026-01-31"]
)
def test_what_is_no_finite_number_is_refused_with_its_line(written: Read, cell: str) -> None:
    sheet = written(f'a,"b\nb"\n"x\nx",1\n\ny,{cell}\nz,{cell}\n')
    with pytest.raises(ValueError, match="finite") as refused:
        sheet.numbers("b\nb")
    assert str(refused.value).endswith(
        f"a.csv, line 6, column 'b\\nb': expected a finite number, got '{cell}', and 1 more such cells below; correct or "
        "drop this row"
    )


@pytest.mark.parametrize(
    ("content", "how", "says"),
    [
        ('a,b\n1,"400,5"\n', {}, r"line 2, column 'b': expected a finite number, got '400,5'; with --decimal-comma"),
        ("a;b\n1;1.234\n", {"decimal_comma": True}, "expected a finite number with a decimal comma, got '1.234'"),
        ("a;b\n1;1.234,5\n", {"decimal_comma": True}, "got '1.234,5'"),
        ("a,b\n1,\n", {}, "line 2, column 'b': expected a value, got an empty cell"),
    ],
)
def test_commas_and_empty_cells_are_not_guessed_at(written: Read, content: str, how: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        written(content, **how).numbers("b")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a.csv: empty; expected a CSV file in UTF-8"),
        (b"a,b\n1,\xe4\n", "a.csv: invalid utf-8 sequence; expected a CSV file in UTF-8"),
        ("a,b\n1,2\n\n1,400,5\n", "a.csv, line 4: 3 cells, expected 2 as in the header; quote cells"),
        ("a,b,a\n1,2,3\n", r"a.csv, line 1: duplicate columns \['a'\]"),
    ],
)
def test_what_is_no_table_is_refused(written: Read, content: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        written(content)
    assert "\n" not in str(refused.value)
