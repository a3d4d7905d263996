"""A pipeline in another's shadow: how it is declared, where it begins, and that a reset leaves its rows alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.crash.job import SCHEMA
from tests.crash.job import pipeline as job
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan, shadowed
from tocsin.pipelines.runtime.engine.seed import find_seed
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable, start_over

PLAN = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "in"})
VERSION = ModelRef("pumps", "7", "0" * 64)
NOW = 1_760_000_000_000
CHECKPOINT = 1 << 32 | 1


def _batch(cycles: Sequence[int], heat: float = 0.9) -> pa.RecordBatch:
    n = len(cycles)
    lineage = [[0] * n, [*cycles], [0] * n, [NOW + c for c in cycles]]
    arrays = [pa.array(c, f.type) for c, f in zip(lineage, IDENTITY, strict=True)]
    readings = [pa.array(c, f.type) for c, f in zip(([1] * n, cycles, [heat] * n, [0.0] * n), SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays([*arrays, *readings], schema=pa.schema([*IDENTITY, *SCHEMA]))


@pytest.fixture
def shadow() -> Pipeline:
    return shadowed(job({**PLAN.in_shadow(VERSION).options}, None), "job")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def _commit(
    lake: Lake, machine: Machine, results: Sequence[pa.RecordBatch], position: int, **facts: Any
) -> ResultsTable:
    """Commit a checkpoint as a shard does."""
    table = ResultsTable(lake, machine.pipeline, 0)
    table.own({0: 0})
    written = {"topic_id": "t", "signature": machine.signature, "state_version": 1, "now": NOW, **facts}
    Snapshots(lake, machine.pipeline.name, 0).write(CHECKPOINT, machine.delta(full=True), written)
    table.publish(table.write(results), {0: position}, CHECKPOINT)
    return table


def _config(lake: Lake) -> ShardConfig:
    return ShardConfig(PLAN.in_shadow(VERSION), lake, {}, 0, [0])


def test_a_shadow_writes_to_the_table_of_its_pipeline_and_rings_for_nobody(shadow: Pipeline) -> None:
    assert (shadow.name, shadow.folder, shadow.rules, shadow.topic) == ("job.shadow-7", "job", (), "in")
    outcome = Machine(shadow).step(_batch([1, 2, 3]), NOW)
    assert outcome.results.num_rows == 1 and not outcome.alerts
    assert outcome.results["in_shadow"].to_pylist() == [True]
    plan = replace(PLAN, silences={"1": 9}).in_shadow(VERSION)
    assert Plan.load(plan.dump()) == plan and plan.silences == {}


def test_no_other_pipeline_has_the_column(shadow: Pipeline) -> None:
    with pytest.raises(
        ConfigError, match=r"expected result columns that the runtime does not write itself, got \['in_shadow'\]"
    ):
        replace(shadow, shadow_of="")


def test_a_shadow_begins_with_the_state_at_its_pipelines_last_checkpoint(lake: Lake, shadow: Pipeline) -> None:
    assert find_seed(_config(lake), shadow, "t") is None  # its pipeline has no table yet
    own = Machine(job(PLAN.options, None))
    _commit(lake, own, [own.step(_batch([1, 2, 3]), NOW).results], 4)
    assert find_seed(_config(lake), shadow, "another topic's id") is None
    found = find_seed(_config(lake), shadow, "t")
    assert found and found.positions == {0: 4}
    machine, blank = Machine(shadow), Machine(shadow)
    found.restore(machine)
    expected = own.step(_batch([4]), NOW).results["loads"], own.step(_batch([5], 0.1), NOW).results["score"]
    assert (
        machine.step(_batch([4]), NOW).results["loads"],
        machine.step(_batch([5], 0.1), NOW).results["score"],
    ) == expected
    blank.step(_batch([4]), NOW)
    assert blank.step(_batch([5], 0.1), NOW).results["score"] != expected[1]


def test_a_shadow_whose_state_has_another_shape_starts_blank_and_says_so(
    lake: Lake, shadow: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    own = Machine(job(PLAN.options, None))
    _commit(lake, own, [own.step(_batch([1, 2, 3]), NOW).results], 4, signature="another")
    found = find_seed(_config(lake), shadow, "t")
    assert found and found.positions == {0: 4}
    found.restore(machine := Machine(shadow))
    assert machine.keys == 0
    assert [(r.levelno, "it starts blank" in r.getMessage()) for r in caplog.records] == [(logging.WARNING, True)]


def test_a_reset_leaves_the_rows_of_a_shadow(lake: Lake, shadow: Pipeline) -> None:
    own, other = Machine(job(PLAN.options, None)), Machine(shadow)
    _commit(lake, other, [other.step(_batch([1, 2, 3]), NOW).results], 4)
    table = _commit(lake, own, [own.step(_batch([1, 2, 3]), NOW).results], 4)
    assert start_over([(table, CHECKPOINT + 1)], {0: 0}, "partition = 0") == 1
    assert len(lake.scan("job").collect()) == 0 and len(lake.scan("job", shadow=True).collect()) == 1


def test_a_shadow_keeps_its_number_of_shards(lake: Lake, shadow: Pipeline) -> None:
    _commit(lake, Machine(shadow), [], 0)
    with pytest.raises(ConfigError, match=r"^job\.shadow-7: expected 1 shards, .* got 2; a shadow keeps the number"):
        ResultsTable(lake, shadow, 0, 2).own({0: 0})
