"""What `tocsin feed` announces: the plans of simulated machines and the bookings of simulated rooms, as a pipeline's context."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import orjson
import polars as pl
import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.models.test_rul_context import aware
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.simulation.maintained import live
from tocsin.pipelines import occupancy, rul
from tocsin.pipelines.cli.feed import announcing
from tocsin.pipelines.runtime import ConfigError, Intervals, Model

ENGINES, RATE = 4, 40.0


def sent(kafka: Any, topic: str) -> list[dict[str, Any]]:
    with closing(KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        (end,) = consumer.end_offsets([TopicPartition(topic, 0)]).values()
        records = list[Any]()
        while len(records) < end:
            records += [r for polled in consumer.poll(1000).values() for r in polled]
    assert all(r.key == orjson.loads(r.value)["asset"].encode() for r in records)
    return [orjson.loads(r.value) for r in records]


def known(declared: Any, records: list[dict[str, Any]]) -> pl.DataFrame:
    """The intervals that a pipeline's context makes of records."""
    times = [{**r, **{name: datetime.fromisoformat(r[name]) for name in ("from", "to")}} for r in records]
    schema = {
        "asset": pl.String,
        "kind": pl.String,
        "id": pl.String,
        **dict.fromkeys(declared.context.numbers, pl.Float64),
    }
    schema |= dict.fromkeys(("from", "to"), pl.Datetime("us", "UTC"))
    return Intervals.of(pl.DataFrame(times, schema)).table


def test_each_plan_is_announced_at_the_times_at_which_its_cycles_are_sent(
    kafka: Any, create_topic: Callable[..., str], tmp_path: Any
) -> None:
    model = aware("fading")
    model.save(tmp_path)
    name = create_topic("context.fleet", partitions=1).removeprefix("context.")
    declared = rul.pipeline({"name": name, "topic": "engines"}, Model(tmp_path, "rul/1", "cpu"))
    feed = rul.domain.feed("sim", seed=3, rate=RATE, model=tmp_path, engines=ENGINES)
    assert feed.announced is not None
    options = {"bootstrap_servers": kafka.bootstrap_servers}
    before = datetime.now(UTC)
    with announcing(iter(feed.tables), feed.announced, declared, options, RATE) as frames:
        flown = pl.concat(islice(frames, 3))
    late = (datetime.now(UTC) - before).total_seconds()
    assert flown["unit"].n_unique() == ENGINES

    _, plans = next(live(engines=ENGINES, seed=3))
    table = known(declared, sent(kafka, f"context.{name}"))
    assert table.height == plans.height > 0
    for asset, kind, begin, end in plans.select("asset", "kind", "from", "to").iter_rows():
        row = int(asset) - 1  # of the engine in each cycle's readings
        own = table.filter(asset=asset, kind=kind)
        spans = [
            (b / 1000 - before.timestamp(), e / 1000 - before.timestamp()) for b, e in own.select("from", "to").rows()
        ]
        expected = [(ENGINES * cycle + row) / RATE for cycle in (begin, end)]
        assert any(all(0 <= g - w <= late + 0.01 for g, w in zip(span, expected, strict=True)) for span in spans)


def test_the_bookings_of_simulated_rooms_are_announced_in_their_own_time(
    kafka: Any, create_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.models.occupancy.domain.DAYS", 1)
    name = create_topic("context.rooms", partitions=1).removeprefix("context.")
    declared = occupancy.pipeline({"name": name, "topic": "rooms"}, Model(OFFICES, "offices", "cpu"))
    feed = occupancy.domain.feed("sim", seed=1, rate=0, model=None, rooms=2, bookings=True)
    assert feed.announced is not None
    with announcing(
        iter(feed.tables), feed.announced, declared, {"bootstrap_servers": kafka.bootstrap_servers}, 0
    ) as all_:
        table = pl.concat(all_)
    booked = known(declared, sent(kafka, f"context.{name}"))
    assert {*booked["kind"]} == {"booked"} and {*booked["asset"]} == {*table["room"]}
    day = table["time"].min()
    assert isinstance(day, datetime)
    begins = booked.select(pl.from_epoch("from", "ms").dt.replace_time_zone("UTC"))["from"]
    assert begins.is_between(day.replace(hour=7), day.replace(hour=0) + timedelta(days=1)).all()


def test_plans_in_rows_need_a_rate(kafka: Any, create_topic: Callable[..., str], tmp_path: Any) -> None:
    model = aware("fading")
    model.save(tmp_path)
    name = create_topic("context.fast", partitions=1).removeprefix("context.")
    declared = rul.pipeline({"name": name, "topic": "engines"}, Model(tmp_path, "rul/1", "cpu"))
    feed = rul.domain.feed("sim", seed=3, rate=0, model=tmp_path, engines=ENGINES)
    assert feed.announced is not None
    options = {"bootstrap_servers": kafka.bootstrap_servers}
    with (
        pytest.raises(ConfigError, match="--rate 0: expected a rate"),
        announcing(iter(feed.tables), feed.announced, declared, options, 0) as frames,
    ):
        next(frames)
