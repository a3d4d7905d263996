"""A result column's type is either refused when the pipeline is declared, or stored, read back and carried by an alert."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from tocsin.pipelines.runtime.declare.columns import check
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.engine import alert_schema
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False)])
NOON, UTC = dt.datetime(2026, 1, 31, 12), dt.UTC
FIT: list[tuple[pa.DataType, Any, Any]] = [
    (pa.bool_(), True, True),
    *((kind, -7, -7) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    (pa.int64(), -(2**63), -(2**63)),
    (pa.float32(), 1.5, 1.5),
    (pa.float64(), 0.1, 0.1),
    (pa.float64(), float("nan"), None),
    (pa.string(), "ü", "ü"),
    (pa.large_string(), "x" * 2000, "x" * 1000),
    (pa.binary(), b"\xff\x00", "/wA="),
    (pa.large_binary(), b"\xff\x00", "/wA="),
    (pa.binary(2), b"\xff\x00", "/wA="),
    (pa.date32(), dt.date(2026, 1, 31), "2026-01-31"),
    (pa.timestamp("ms", "UTC"), NOON.replace(tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
    (pa.timestamp("us", "UTC"), NOON.replace(tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
    (pa.timestamp("ms"), NOON, "2026-01-31T12:00:00"),
    (pa.timestamp("us"), NOON, "2026-01-31T12:00:00"),
    (pa.decimal128(10, 2), Decimal("1.25"), "1.25"),
    (pa.dictionary(pa.int32(), pa.string()), "a", "a"),
    (pa.list_(pa.float32()), [1.5, None], [1.5, None]),
    (pa.large_list(pa.list_(pa.int8())), [[1], [], None], [[1], [], None]),
    (pa.list_(pa.binary()), [None, b"\xff\x00"], [None, "/wA="]),
    (pa.list_(pa.decimal128(4, 1)), [Decimal("1.5")], ["1.5"]),
    (pa.list_(pa.date32()), [dt.date(2026, 1, 31)], ["2026-01-31"]),
    (
        pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.binary())]))]),
        {"a": 1, "b": {"c": b"\xff\x00"}},
        {"a": 1, "b": {"c": "/wA="}},
    ),
    (pa.list_(pa.struct([("t", pa.timestamp("us", "UTC"))])), [{"t": None}], [{"t": None}]),
    (pa.map_(pa.string(), pa.int64()), [("a", 1)], {"a": 1}),
    (pa.map_(pa.int64(), pa.list_(pa.string())), [(7, ["x", None])], {"7": ["x", None]}),
    (pa.map_(pa.binary(), pa.binary()), [(b"\xff\x00", b"\xff\x00")], {"/wA=": "/wA="}),
    (pa.map_(pa.date32(), pa.bool_()), [(dt.date(2026, 1, 31), True)], {"2026-01-31": True}),
]
UNFIT: list[tuple[pa.DataType, str]] = [
    *((pa.duration(unit), "a number of seconds") for unit in ("s", "ms", "us", "ns")),
    *((kind, "a wider signed integer") for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.float16(), "float32"),
    (pa.date64(), "date32"),
    *((kind, "text or") for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
    *((pa.timestamp(unit), "a timestamp in ms or us") for unit in ("s", "ns")),
    *((pa.timestamp("ms", zone), "a timestamp in ms or us") for zone in ("Europe/Berlin", "+02:00")),
    *((kind, "decimal128") for kind in (pa.decimal32(5, 2), pa.decimal64(10, 2), pa.decimal256(50, 2))),
    (pa.list_(pa.float32(), 3), "list_"),
    (pa.list_view(pa.int64()), "list_"),
    (pa.large_list_view(pa.int64()), "list_"),
    (pa.string_view(), "string"),
    (pa.binary_view(), "binary"),
    (pa.dictionary(pa.int32(), pa.int64()), "string"),
    (pa.null(), "the type of its values"),
    (pa.uuid(), "its storage type"),
    (pa.json_(), "its storage type"),
    (pa.bool8(), "its storage type"),
    (pa.month_day_nano_interval(), "numbers, text, lists or structs"),
    (pa.run_end_encoded(pa.int32(), pa.int64()), "numbers, text, lists or structs"),
    (pa.dense_union([pa.field("a", pa.int32())]), "numbers, text, lists or structs"),
]


class Says:
    """Gives every row the same value."""

    state: Mapping[str, Any] = {}

    def __init__(self, value: pa.Array) -> None:
        self._value = value

    def step(self, rows: Rows, state: Any, at: Any) -> Rows:
        return rows.with_columns({"v": self._value.take(pa.array([0] * len(rows)))})


@pytest.mark.parametrize(("kind", "value", "told"), FIT, ids=[str(kind) for kind, _, _ in FIT])
def test_a_type_that_is_taken_rings_is_stored_and_is_read_back(
    kind: pa.DataType, value: Any, told: Any, tmp_path: Path
) -> None:
    rules = [AlertRule(name="any", severity="warning", when=pl.col("unit") > 0)]
    results = pa.schema([pa.field("unit", pa.int64()), pa.field("v", kind)])
    pipeline = Pipeline(
        name="p",
        topic="t",
        schema=SCHEMA,
        key="unit",
        stages=[Says(pa.array([value], kind))],
        results=results,
        rules=rules,
    )
    columns = [pa.array([n], field.type) for n, field in zip((0, 7, 0, 1_769_860_800_000), IDENTITY, strict=True)]
    batch = pa.record_batch([*columns, pa.array([1])], schema=pa.schema([*IDENTITY, *SCHEMA]))
    outcome = Machine(pipeline).step(batch, 1_769_860_800_000)
    (alert,) = outcome.alerts
    assert orjson.loads(alert.value())["v"] == told
    assert Alert.read(alert.headers(), alert.value()).data["v"] == told
    described = Draft202012Validator(alert_schema.data(pipeline, rules[0]))
    assert [error.message for error in described.iter_errors(orjson.loads(alert.value()))] == []
    assert not described.is_valid(orjson.loads(alert.value()) | {"v": Ellipsis})
    sink = ResultsTable(Lake(str(tmp_path)), pipeline, 0)
    sink.own({0: 0})
    sink.publish(sink.write([outcome.results]), {0: 8}, 1)
    stored = Lake(str(tmp_path)).scan("p").collect()["v"].to_list()
    wanted = dict(value) if pa.types.is_map(kind) else value
    assert stored == [wanted] or (wanted != wanted and str(stored) == "[nan]")


@pytest.mark.parametrize(("kind", "instead"), UNFIT, ids=[str(kind) for kind, _ in UNFIT])
def test_a_type_that_can_not_be_stored_is_refused_when_the_pipeline_is_declared(
    kind: pa.DataType, instead: str
) -> None:
    for whole in (kind, pa.struct([("inner", kind)]), pa.large_list(kind)):
        with pytest.raises(ConfigError, match="pipeline p: result column v: expected a type that Delta stores") as said:
            Pipeline(name="p", topic="t", schema=SCHEMA, key="unit", stages=[], results=pa.schema([("v", whole)]))
        assert str(kind) in str(said.value) and f"convert it to {instead}" in str(said.value)
    with pytest.raises(ConfigError):
        check("p", pa.schema([("v", pa.map_(pa.string(), kind))]))


def test_of_long_binary_the_beginning_is_evidence(tmp_path: Path) -> None:
    from tocsin.pipelines.runtime.engine.alerts import _json_value

    said = _json_value({"deep": [bytes(range(256)) * 100, "x" * 2000]})["deep"]
    assert b64decode(said[0]) == (bytes(range(256)) * 100)[:750] and len(said[0]) == 1000
    assert said[1] == "x" * 1000
