"""Read CSV files that people write: cells are text until a column is requested, and errors name the file, line and column."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from tocsin.models import times

LARGEST = 2.0**128 - 2.0**103
"""A number of this size or more is infinite in float32, in which networks compute."""
EXACT = 2**53
"""Below this, a whole number that is written with a fraction, such as 7.0, is read as exactly that integer."""
SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class Sheet:
    """The rows of a CSV file, without blank ones.

    Attributes:
        path: for messages.
        cells: text without spaces around it; null where a cell is empty.
        separator: between cells.
        decimal_comma: whether numbers are written 400,5.
    """

    path: Path
    cells: pl.DataFrame
    separator: str
    decimal_comma: bool

    def require(self, *columns: str) -> None:
        """Raise ValueError if the file lacks one of these columns."""
        if missing := [name for name in columns if name not in self.cells.columns]:
            raise ValueError(
                f"{self.path}: columns {missing} missing; expected the columns {', '.join(columns)}, got "
                f"{', '.join(self.cells.columns)}"
            )

    def texts(self, column: str, *, empty: bool = False) -> pl.Series:
        """A column as text; with `empty`, empty cells are null, else they raise ValueError."""
        cells = self.cells[column]
        if not empty:
            self.refuse(cells.is_null(), column, "a value")
        return cells

    def numbers(self, column: str, *, empty: bool = False) -> pl.Series:
        """A column of finite numbers, Float64; empty cells as in `texts`."""
        cells = self.texts(column, empty=empty)
        numbers = self._plain(cells).cast(pl.Float64, strict=False)
        self.refuse(
            cells.is_not_null() & ~(numbers.abs() < LARGEST).fill_null(False),
            column,
            "a finite number" + (" with a decimal comma" if self.decimal_comma else ""),
        )
        return numbers

    def integers(self, column: str, *, empty: bool = False, hint: str = "") -> pl.Series:
        """A column of whole numbers, Int64, which may be written 7.0; empty cells as in `texts`.

        Args:
            hint: advice in the error for a number that is not whole.
        """
        cells = self.texts(column, empty=empty)
        plain = self._plain(cells)
        numbers = plain.cast(pl.Float64, strict=False)
        exact = (numbers == numbers.floor()) & (numbers.abs() < EXACT)
        whole = plain.cast(pl.Int64, strict=False)
        whole = whole.fill_null(numbers.set(~exact.fill_null(False), None).cast(pl.Int64))
        self.refuse(cells.is_not_null() & whole.is_null(), column, "a whole number", hint)
        return whole

    def times(self, column: str, expected: str = times.EXAMPLE) -> pl.Series:
        """A column of times, see `tocsin.models.times`, in us since 1970 UTC, Int64."""
        found = times.read(self.texts(column)).utc
        self.refuse(found.is_null(), column, expected)
        return found

    def flags(self, column: str) -> pl.Series:
        """A column of flags, Boolean: words, or numbers that mean yes above 0.5; null where empty."""
        words = {**dict.fromkeys(("true", "yes"), "1"), **dict.fromkeys(("false", "no"), "0")}
        cells = self.cells[column]
        numbers = self._plain(cells.str.to_lowercase().replace(words)).cast(pl.Float64, strict=False)
        self.refuse(cells.is_not_null() & ~numbers.is_finite().fill_null(False), column, "0, 1, true or false")
        return numbers > 0.5

    def refuse(self, bad: pl.Series, column: str, expected: str, hint: str = "") -> None:
        """Raise ValueError for the first row where `bad` is true, if there is one.

        Args:
            expected: what should be in the column.
            hint: advice in the error; by default, to correct or drop the row.
        """
        if not bad.any():
            return
        row, others = int(bad.arg_true()[0]), int(bad.sum()) - 1
        cell = self.cells[column][row]
        comma = isinstance(cell, str) and "," in cell and not self.decimal_comma
        hint = hint or ("with --decimal-comma a comma is a decimal point" if comma else "correct or drop this row")
        raise ValueError(
            f"{self.path}, line {self.line(row)}, column {column!r}: expected {expected}, got "
            f"{'an empty cell' if cell is None else repr(cell)}"
            + (f", and {others} more such cells below" if others else "")
            + f"; {hint}"
        )

    def line(self, row: int) -> int:
        """The line of the file on which a row begins, counted from 1."""
        return next(islice(_records(self.path, self.separator), row + 1, None))[0]

    def _plain(self, cells: pl.Series) -> pl.Series:
        """Write decimal commas as points. With decimal commas, a cell that has a point becomes an invalid number."""
        if not self.decimal_comma:
            return cells
        return cells.set(cells.str.contains(".", literal=True), "").str.replace(",", ".", literal=True)


def read(path: Path, *, decimal_comma: bool = False, numbered: bool = False) -> Sheet:
    """Read a CSV file with a header.

    The separator is a comma, a semicolon or a tab: the most frequent of these in the header.

    Args:
        numbered: each row may begin with its number, which the header does not name; that number is dropped.

    Raises:
        ValueError: the file is empty, not UTF-8, or a line has more cells than the header.
    """
    separator = _separator(path)
    records = _records(path, separator)
    first, header = next(records, (1, []))
    second, cells = next(records, (0, []))
    numbered = numbered and len(cells) == len(header) + 1
    names = [*[""] * numbered, *(name.strip() for name in header)]
    if duplicates := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise ValueError(f"{path}, line {first}: duplicate columns {duplicates}; rename or drop one of each")
    try:
        if not header:
            raise pl.exceptions.NoDataError("empty")
        table = pl.read_csv(  # read the header as a row, since the first row sets the number of cells
            path,
            has_header=False,
            skip_lines=(second if numbered else first) - 1,
            schema={str(index): pl.String() for index in range(len(names))},
            separator=separator,
        )
    except pl.exceptions.PolarsError as reason:
        for line, cells in _records(path, separator):
            if len(cells) > len(names):
                raise ValueError(
                    f"{path}, line {line}: {len(cells)} cells, expected {len(names)} as in the header; quote cells that contain "
                    f"a {separator!r}"
                ) from None
        message = str(reason).splitlines()[0]
        raise ValueError(
            f"{path}: {message}; expected a CSV file in UTF-8 whose first line names the columns"
        ) from None
    text = table.select(pl.all().str.strip_chars().replace("", None))
    text = text.filter(~pl.all_horizontal(pl.all().is_null()))[0 if numbered else 1 :]
    columns = [pl.col(str(index)).alias(name) for index, name in enumerate(names) if name]
    return Sheet(path, text.select(columns), separator, decimal_comma)


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip()), "")
    return max(SEPARATORS, key=header.count)


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a file, header first, without blank ones, each with the line on which it begins."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader, line = csv.reader(file, delimiter=separator), 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
