"""Message formats from outside: rows of many messages are converted together, and a bad one is rejected alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pytest

from tests.support.codec_samples import record
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats import message
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.message import MAX_BAD_ROWS, MessageFormat

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False), pa.field("heat", pa.float64())])
LINES = [("content-type", b"text/x-lines")]


class Lines(MessageFormat):
    """A JSON array a line, numbers alone; NaN is `null`."""

    media_type = "text/x-lines"

    def parse(self, value: bytes) -> Iterable[Mapping[str, Any]]:
        for line in value.splitlines():
            unit, heat = orjson.loads(line)
            yield {"unit": unit, "heat": math.nan if heat is None else heat}


class Tuned(Lines):
    """Lines that need options."""

    media_type = "text/x-tuned"
    section = "tuning"

    def __init__(self, expected: Any, max_rows: int, *, factor: int) -> None:
        super().__init__(expected, max_rows)
        self._factor = factor

    def parse(self, value: bytes) -> Iterable[Mapping[str, Any]]:
        for row in super().parse(value):
            yield {**row, "unit": row["unit"] * self._factor}


def lines(*rows: tuple[Any, Any]) -> bytes:
    return b"\n".join(map(orjson.dumps, rows))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_each_bad_row_is_a_dead_letter_and_the_others_live(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "PIECE_ROWS", size)
    values = [
        lines((0, 0.5), (1, 1.5)),
        lines((2, 0.5), (3, None), (4, 1.5)),
        b"what?",
        lines((5, 0.5), ("six", 0.5)),
        lines((7, 7)),
        b"",
    ]
    codec = Codec(topic="plant", schema=SCHEMA, formats=[Lines])
    batch, letters = codec.decode([record(value, n, LINES) for n, value in enumerate(values)])
    assert batch["unit"].to_pylist() == [0, 1, 2, 4, 5, 7]
    assert [*zip(batch["_offset"].to_pylist(), batch["_row"].to_pylist(), strict=True)] == [
        *((0, 0), (0, 1), (1, 0), (1, 2), (3, 0), (4, 0))
    ]
    assert [(letter.offset, letter.row, letter.error) for letter in letters] == [
        *((1, 1, "BadValue"), (2, None, "Malformed"), (3, 1, "BadValue"), (5, None, "EmptyValue"))
    ]


def test_a_message_of_mostly_bad_rows_is_one_dead_letter() -> None:
    bad = lines((1, 0.5), *((n, None) for n in range(MAX_BAD_ROWS + 1)))
    values = [lines((0, 0.5)), bad, lines((2, 0.5))]
    batch, (letter,) = Codec(topic="plant", schema=SCHEMA, formats=[Lines]).decode(
        [record(value, n, LINES) for n, value in enumerate(values)]
    )
    assert batch["unit"].to_pylist() == [0, 2]
    assert (letter.offset, letter.row) == (1, None)
    assert letter.message.startswith(
        "101 of 102 rows are bad; the first, row 1: heat: expected a number that fits double"
    )


def test_a_format_has_the_options_of_its_section() -> None:
    records = [record(lines((2, 0.5)), 0, [("content-type", b"text/x-tuned")])]
    codec = Codec(topic="plant", schema=SCHEMA, formats=[Tuned], options={"tuning": {"factor": 3}})
    assert codec.decode(records)[0]["unit"].to_pylist() == [6]
    _, (letter,) = Codec(topic="plant", schema=SCHEMA, formats=[Tuned]).decode(records)
    assert letter.message.endswith("got 'text/x-tuned' (str); set [tuning] to read it")


def test_a_format_without_options_refuses_them() -> None:
    class Section(Lines):
        section = "tuning"

    with pytest.raises(ConfigError, match="Section: expected no options, got factor; remove them"):
        Codec(topic="plant", schema=SCHEMA, formats=[Section], options={"tuning": {"factor": 3}})


def test_nan_is_null_where_a_nullable_field_says_so_and_infinity_is_not() -> None:
    given = [b"[1, 2.5]", b"[2, null]"]
    heat = pa.field("heat", pa.float64(), metadata={"nan": "null"})
    for schema, rows, refused in (
        (pa.schema([SCHEMA.field("unit"), heat]), [2.5, None], 0),
        (pa.schema([SCHEMA.field("unit"), heat.with_nullable(False)]), [2.5], 1),
        (SCHEMA, [2.5], 1),
    ):
        codec = Codec(topic="plant", schema=schema, formats=[Lines])
        read, letters = codec.decode([record(value, n, LINES) for n, value in enumerate(given)])
        assert (read.column("heat").to_pylist(), len(letters)) == (rows, refused)
