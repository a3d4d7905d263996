"""RUL with adapters and with sensors that drop out, under kills: each row, judged by its site's adapter, is there once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import MakeJob
from tests.crash.load import Message
from tocsin.models.imputer.model import beside
from tocsin.models.rul.adapt import adapt
from tocsin.models.rul.data import lives
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.simulation import fleet
from tocsin.models.rul.train import Recipe
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay

pytestmark = pytest.mark.crash
PARTITIONS = 2
BETWEEN = 0.3
"""A kill comes at most this many seconds after readings. Checkpoints are further apart."""
COLUMNS = load(FD001, "cpu").config.columns
NO_NUMBER = "broken"
SITE = "1"
"""The adapter's site: that of the engines whose number begins with it."""


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_each_filled_row_and_each_dead_letter_is_there_once_wherever_the_process_is_killed(
    make_job: MakeJob, tmp_path: Path, kills: int
) -> None:
    rng = random.Random(3)
    job = make_job(
        factory="tocsin.pipelines.rul:pipeline",
        partitions=PARTITIONS,
        impute="network",
        site="^(.)",
        rows=64,
        every="3s",
    )
    _adapt(tmp_path / "model")
    stored = store_model(job.lake, tmp_path / "model", name="rul", version="1")
    job.plan = replace(job.plan, model=stored, device="cpu")
    sent = _messages(engines=4 if kills < 10 else 12)
    part, left = len(sent) // (kills + 1), list[int]()
    for number in range(kills):
        worker, begin = job.start(), number * part
        job.send(sent[begin : begin + part // 2])
        job.drain(worker)  # ends with a checkpoint
        job.send(sent[begin + part // 2 : begin + part])
        time.sleep(rng.uniform(0, BETWEEN))
        worker.kill()
        left.append(sum(job.ends().values()) - sum(job.stored(f"{job.topic}/{p}") for p in range(PARTITIONS)))
    assert any(left), "readings that no checkpoint has"
    worker = job.start()
    job.send(sent[kills * part :])
    job.finish(worker)
    records = job.read(job.topic)
    assert len(records) == len(sent)
    _see(job.plan.build(job.lake), records, pl.read_delta(job.lake.uri(job.name)), job.letters())


def _see(
    pipeline: Pipeline,
    records: Sequence[ConsumerRecord],
    got: pl.DataFrame,
    letters: Counter[tuple[int, int, int | None]],
) -> None:
    """Compare the table and the dead letters with a replay in one step, and with the gaps that were sent."""
    rows, bad = [], Counter[tuple[int, int]]()
    for record in records:
        value = orjson.loads(record.value)
        place = {"_partition": record.partition, "_offset": record.offset, "_row": 0, "_timestamp": record.timestamp}
        if NO_NUMBER in value.values() or all(value.get(name) is None for name in COLUMNS):
            bad[record.partition, record.offset] += 1
        else:
            rows.append({**dict.fromkeys(COLUMNS), **value, **place})
    assert Counter((p, offset) for p, offset, _ in letters.elements()) == bad and len(bad) > 10
    schema = pa.schema([*IDENTITY, *pipeline.schema])
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: (row["_partition"], row["_offset"])), schema=schema)
    expected, _ = replay(pipeline, table, splits=[len(table)])
    both = (frame.drop("processed_at").sort("partition", "offset") for frame in (got, expected))
    assert_frame_equal(*both, rel_tol=0, abs_tol=1e-2, check_dtypes=False)
    gaps = {(r["_partition"], r["_offset"]): [n for n in COLUMNS if r[n] is None] for r in rows}
    assert {(r["partition"], r["offset"]): r["filled"] for r in got.to_dicts()} == gaps
    assert sum(map(bool, gaps.values())) > len(gaps) / 2
    adapters = set(got.select(pl.col("unit").cast(pl.String).str.head(1), "adapter").rows())
    assert (SITE, SITE) in adapters and len(adapters) > 1
    assert all(adapter == (SITE if first == SITE else None) for first, adapter in adapters)


def _adapt(folder: Path) -> None:
    """Write the shipped model with the adapter of a site, and with its imputer."""
    model, imputer = load(FD001, "cpu"), beside(FD001)
    known = lives(fleet.run_to_failure(engines=1, seed=1), model.config)
    adapt(model, SITE, known, recipe=Recipe(epochs=2, learning_rate=5e-3)).model.save(folder)
    assert imputer
    imputer.save(folder)


def _messages(engines: int) -> list[Message]:
    """Readings of which a tenth is missing, as null or as no key at all; some rows are bare, and some have text."""
    random_, now = np.random.default_rng(0), int(time.time() * 1000)
    out = []
    for row in fleet.run_to_failure(engines=engines, seed=5).drop("rul").sort("cycle", "unit").to_dicts():
        chance = random_.random()
        for name in COLUMNS:
            if chance < 0.02 or random_.random() < 0.1:
                row[name] = None
            if row[name] is None and random_.random() < 0.5:
                del row[name]
        if chance > 0.98:
            row["s2"] = NO_NUMBER
        out.append(Message(row["unit"] % PARTITIONS, orjson.dumps(row), [], now, str(row["unit"]).encode()))
    return out
