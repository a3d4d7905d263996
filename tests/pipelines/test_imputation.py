"""The option `impute`: RUL and occupancy go on when sensors drop out, and say what they filled."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from kafka.consumer.fetcher import ConsumerRecord

from tests.models.test_imputer import untrained
from tocsin.models.imputer import network as grid_network
from tocsin.models.imputer.gaps import Gapped
from tocsin.models.imputer.model import load as load_imputer
from tocsin.models.occupancy.data import Recording
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.occupancy.simulation.sensors import simulate
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.simulation import fleet
from tocsin.pipelines import occupancy
from tocsin.pipelines.parts import imputation
from tocsin.pipelines.rul import pipeline
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.stages.impute import FAR

SHIPPED, ROOMS = Model(FD001, "rul/1", "cpu"), Model(OFFICES, "occupancy/1", "cpu")
METHODS = ["last", "mean", "network"]
COLUMNS = load(FD001, "cpu").config.columns
DEAD = ("s11", 60, 150)
"""A sensor that is missing for a stretch of each life, in cycles."""


@cache
def _lives() -> pl.DataFrame:
    """Two engines from new to failure, with their cycles interleaved as on a topic."""
    return fleet.run_to_failure(engines=2, seed=5).drop("rul").sort("cycle", "unit")


@cache
def _gapped() -> pl.DataFrame:
    """The same with a fifth of the readings missing, and a sensor that drops out."""
    rng, (dead, begin, end) = np.random.default_rng(0), DEAD
    table = _lives()
    out = {name: rng.random(len(table)) < 0.2 for name in COLUMNS}
    out[dead] |= table["cycle"].is_between(begin, end).to_numpy()
    return table.with_columns(
        pl.when(pl.Series(gone)).then(None).otherwise(pl.col(n)).alias(n) for n, gone in out.items()
    )


@cache
def _judged(method: str) -> tuple[pl.DataFrame, list[Alert]]:
    return replay(pipeline({"impute": method}, SHIPPED), _gapped().to_arrow())


@pytest.mark.parametrize("method", METHODS)
def test_each_reading_of_an_engine_with_gaps_is_judged_and_says_what_was_filled(method: str) -> None:
    frame, _ = _judged(method)
    whole, _ = replay(pipeline({}, SHIPPED), _lives().to_arrow())
    assert frame.select("unit", "cycle").equals(_lives().select("unit", "cycle"))
    gaps = [[n for n in COLUMNS if row[n] is None] for row in _gapped().to_dicts()]
    assert frame["filled"].to_list() == gaps and any(gaps)
    assert frame["rul"].is_finite().all()
    assert (frame["rul"] - whole["rul"]).pow(2).mean() ** 0.5 < 12
    assert "filled" not in whole.columns


@pytest.mark.parametrize("method", METHODS)
def test_without_a_gap_every_method_gives_the_same_table(method: str) -> None:
    table = _lives().head(200).to_arrow()
    whole, _ = replay(pipeline({}, SHIPPED), table)
    frame, _ = replay(pipeline({"impute": method}, SHIPPED), table)
    assert frame["filled"].list.len().sum() == 0
    assert frame.drop("filled", "processed_at").equals(whole.drop("processed_at"))


def test_any_split_in_time_gives_the_same_table_and_later_rows_change_nothing() -> None:
    (whole, alerts), table = _judged("network"), _gapped().to_arrow()
    cuts = np.sort(np.random.default_rng(1).choice(len(table), 25, replace=False))
    for splits in (np.diff([0, *cuts, len(table)]).tolist(), [1] * 60 + [len(table) - 60]):
        split, others = replay(pipeline({"impute": "network"}, SHIPPED), table, splits=splits)
        assert whole["filled"].equals(split["filled"])
        np.testing.assert_allclose(whole["rul"], split["rul"], atol=1e-3)
        assert [a.id for a in alerts] == [a.id for a in others]
    later = (
        _gapped()
        .with_row_index()
        .with_columns(pl.when(pl.col("index") < 150).then(pl.col(n)).otherwise(pl.col(n) * 1.5) for n in COLUMNS)
    )
    other, _ = replay(pipeline({"impute": "network"}, SHIPPED), later.drop("index").to_arrow())
    np.testing.assert_allclose(whole["rul"][:150], other["rul"][:150], atol=1e-3)
    assert (whole["rul"][150:] - other["rul"][150:]).abs().max() > 1


def test_a_stream_fills_as_the_imputer_does_a_table() -> None:
    imputer = load_imputer(FD001, "cpu")
    assert FAR == grid_network.FAR
    (stage,) = imputation.stages("network", COLUMNS, pipeline="rul", model=SHIPPED)
    made = pipeline({"impute": "network"}, SHIPPED)
    fields = [made.schema.field(name) for name in ("unit", "cycle", *COLUMNS)]
    filling = Pipeline(name="p", topic="t", schema=made.schema, key="unit", stages=[stage], results=pa.schema(fields))
    frame, _ = replay(filling, _gapped().to_arrow())
    engines = [part.select(COLUMNS) for part in _gapped().partition_by("unit", maintain_order=True)]
    series = [torch.tensor(part.fill_null(float("nan")).to_numpy()) for part in engines]
    data = Gapped.of(series, imputer.levels, [torch.zeros_like(rows, dtype=torch.bool) for rows in series])
    batch = data.at(torch.arange(len(data.first)), imputer.config)
    filled = imputer.levels.restore(imputer.at_steps(*batch[:3]), torch.zeros(len(data.first), dtype=torch.int64))
    rows = torch.cat(series)
    expected = torch.where(rows.isnan(), filled, rows).numpy()
    np.testing.assert_allclose(frame.sort("unit", "cycle").select(COLUMNS).to_numpy(), expected, rtol=1e-5)


def test_a_sensor_that_an_engine_never_had_gets_what_is_usual_and_a_new_life_forgets_the_old_one() -> None:
    life = _lives().filter(unit=1).with_columns(pl.lit(None, pl.Float64).alias("s4"))
    frame, _ = replay(pipeline({"impute": "last"}, SHIPPED), life.to_arrow())
    assert frame["rul"].is_finite().all() and frame["in_domain"].all()
    early, late = _lives().filter(unit=1)[:40], _lives().filter(unit=1)[-40:]
    restarted = early.with_columns(pl.when(pl.col("cycle") < 4).then(None).otherwise(pl.col("s4")).alias("s4"))
    made = pipeline({"impute": "last", "restart": 3}, SHIPPED)
    frame, _ = replay(made, pl.concat([late, restarted]).to_arrow())
    alone, _ = replay(made, restarted.to_arrow())
    np.testing.assert_allclose(frame["rul"][-40:], alone["rul"], atol=1e-3)


def _decoded(made: Pipeline, values: list[bytes], kind: str = "application/json") -> tuple[pa.Table, list[str]]:
    headers = [("content-type", kind.encode())]
    records = [ConsumerRecord("t", 0, 0, i, 0, 0, None, v, headers, None, 0, 0, 0) for i, v in enumerate(values)]
    read, letters = Codec(topic="t", schema=made.schema).decode(records)
    return pa.Table.from_batches([read]), [letter.message for letter in letters]


def test_missing_keys_and_nulls_are_gaps_and_what_is_no_number_is_a_dead_letter() -> None:
    (row,) = _lives().head(1).to_dicts()
    changes: list[dict[str, Any]] = [
        {},
        {"s2": None},
        {"s2": None, "s3": None, "setting1": None},
        {"s2": "642.1"},
        {"s2": float("inf")},
        {"cycle": None},
        dict.fromkeys(COLUMNS),
    ]
    values = [json.dumps({**row, "cycle": i + 1, **change}).encode() for i, change in enumerate(changes)]
    values.append(json.dumps({n: v for n, v in row.items() if n not in ("s7", "s8")} | {"cycle": 9}).encode())
    values.append(values[0].replace(b"1,", b"NaN,", 1))
    table, letters = _decoded(pipeline({}, SHIPPED), values)
    assert (table.num_rows, len(letters)) == (1, 8)

    made = pipeline({"impute": "last"}, SHIPPED)
    table, letters = _decoded(made, values)
    assert [letter.split(": unexpected")[0] for letter in letters] == [
        "s2: expected a number that fits double, got '642.1' (str)",
        "expected one JSON object, got bytes that are not JSON",  # Infinity
        "cycle: expected an integer that fits int64, got null",
        "expected one JSON object, got bytes that are not JSON",  # NaN
    ]
    machine = Machine(made)
    schema = pa.schema([*IDENTITY, *made.schema])
    outcome = machine.step(table.select(schema.names).cast(schema).combine_chunks().to_batches()[0], 10**12)
    assert outcome.results.column("filled").to_pylist() == [[], ["s2"], ["setting1", "s2", "s3"], ["s7", "s8"]]
    (refused,) = outcome.refused
    assert (refused.error, refused.message) == ("TooBare", "expected a value of 17 columns, got 0")


def test_nan_in_an_arrow_message_is_a_gap_and_infinity_a_dead_letter() -> None:
    rows = _lives().head(4).with_columns(s2=pl.Series([1.0, float("nan"), float("inf"), None]))
    batch = rows.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks().to_batches()[0]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    value, kind = sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream"
    table, letters = _decoded(pipeline({"impute": "last"}, SHIPPED), [value], kind)
    assert table["s2"].to_pylist() == [1.0, None, None]
    assert letters == ["s2: expected a number that fits double, got inf (float)"]
    table, letters = _decoded(pipeline({}, SHIPPED), [value], kind)
    assert (table["s2"].to_pylist(), len(letters)) == ([1.0], 3)


def test_a_running_pipeline_takes_the_option_up_and_keeps_what_it_remembers() -> None:
    rows = _lives().to_arrow()
    off, on = pipeline({}, SHIPPED), pipeline({"impute": "network"}, SHIPPED)
    whole, _ = replay(off, rows)
    machine = Machine(off)

    def batch(made: Pipeline, begin: int, end: int) -> pa.RecordBatch:
        schema = pa.schema([*IDENTITY, *made.schema])
        n = end - begin
        given = {
            "_partition": [0] * n,
            "_offset": range(begin, end),
            "_row": [0] * n,
            "_timestamp": range(10**12 + begin, 10**12 + end),
        }
        part = rows.slice(begin, n)
        columns = [pa.array(list(given[f.name])) if f.name in given else part[f.name] for f in schema]
        return (
            pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
            .combine_chunks()
            .to_batches()[0]
        )

    machine.step(batch(off, 0, 150), 10**12 + 150)
    machine.adopt(on)
    found = machine.step(batch(on, 150, 200), 10**12 + 200).results
    np.testing.assert_allclose(found.column("rul"), whole["rul"][150:200], atol=1e-3)
    machine.adopt(off)
    found = machine.step(batch(off, 200, 250), 10**12 + 250).results
    np.testing.assert_allclose(found.column("rul"), whole["rul"][200:250], atol=1e-3)


def test_wrong_settings_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"pipelines.rul.impute: expected 'off', 'last', 'mean' or 'network', got 'knn'"
    ):
        pipeline({"impute": "knn"}, SHIPPED)
    with pytest.raises(ConfigError, match=r"pipelines.occupancy.impute: expected .*, got True"):
        occupancy.pipeline({"impute": True}, ROOMS)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(FD001 / file, tmp_path)
    bare = Model(tmp_path, "rul/7", "cpu")
    with pytest.raises(
        ModelError,
        match=r"pipelines.rul.impute: expected a model with an imputer, got rul/7 without one; train it with --imputer, or set",
    ):
        pipeline({"impute": "network"}, bare)
    assert pipeline({"impute": "last"}, bare).name == "rul"
    untrained().save(tmp_path)
    with pytest.raises(
        ModelError, match=r"expected an imputer of setting1, .*, got one of a, b, c; train the model again"
    ):
        pipeline({"impute": "network"}, bare)
    (tmp_path / "imputer.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"imputer.safetensors: expected weights as training writes them, got 2 bytes"):
        pipeline({"impute": "network"}, bare)


@cache
def _readings() -> pa.Table:
    """Two simulated rooms, half a day; one has no CO2 from 10:00 to 13:00."""
    events, truth = simulate(rooms=2, days=1, seed=7)
    events = events.select("room", "property", "time", "value").sort("time").filter(pl.col("property") != "ventilation")
    first, hour = events["room"].min(), pl.from_epoch("time", "ms").dt.hour()
    out = (pl.col("room") == first) & (pl.col("property") == "co2") & hour.is_between(10, 12)
    recording = Recording(events.filter(~out, hour.is_between(7, 15)), truth, "UTC")
    return occupancy.readings(recording)


@cache
def _rooms(method: str) -> pl.DataFrame:
    frame, _ = replay(occupancy.pipeline({"impute": method}, ROOMS), _readings())
    return frame.drop_nulls("probability")


def test_a_room_whose_co2_drops_out_goes_on_and_says_so() -> None:
    off, last, network = (_rooms(method) for method in ("off", "last", "network"))
    assert "filled" not in off.columns
    assert last.drop("filled", "processed_at").equals(off.drop("processed_at")), "the last value is what held before"
    room = last["room"].min()
    for frame in (last, network):
        filled = frame["filled"].list.contains("co2")
        assert filled.equals((frame["co2_age"] > 600).alias("filled")) and 150 < filled.sum() < 200
        assert frame.filter(filled)["room"].unique().to_list() == [room]
        assert not frame["filled"].list.contains("ventilation").any(), "no room has had one"
        assert not frame.filter(filled & (pl.col("co2_age") > 3600))["in_domain"].any()
    same = ~network["filled"].list.contains("co2")
    assert network.filter(same)["co2"].equals(last.filter(same)["co2"])
    assert (network["co2"] - last["co2"]).abs().max() > 1
    assert network["probability"].is_between(0, 1).all()


def test_minutes_are_filled_alike_whatever_the_steps() -> None:
    table, made = _readings(), occupancy.pipeline({"impute": "network"}, ROOMS)
    cuts = np.sort(np.random.default_rng(1).choice(len(table), 25, replace=False))
    frame, _ = replay(made, table, splits=np.diff([0, *cuts, len(table)]).tolist())
    split, whole = (f.drop_nulls("probability").sort("room", "event_time") for f in (frame, _rooms("network")))
    assert split["filled"].equals(whole["filled"])
    np.testing.assert_allclose(split["co2"], whole["co2"], atol=1e-2)
    np.testing.assert_allclose(split["probability"], whole["probability"], atol=1e-3)
