"""Queries: results and SQL over real Delta tables, and alerts from Apache Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tocsin.pipelines.query import alerts, query, results
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import shadowed
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def commit(lake: Path, name: str, rul: list[float], *, shadow_of: str = "") -> ResultsTable:
    """Write results as a shard does: one row an hour from noon, one commit. `shadow_of`: as a shadow of that pipeline."""
    pipeline = Pipeline(
        name=name,
        topic="sensors",
        schema=pa.schema([pa.field("unit", pa.int64(), nullable=False)]),
        key="unit",
        stages=[],
        results=pa.schema([("unit", pa.int64()), ("rul", pa.float32()), ("attention", pa.list_(pa.float32()))]),
    )
    if shadow_of:
        pipeline = shadowed(pipeline, shadow_of)
    sink = ResultsTable(Lake(str(lake)), pipeline, 0)
    sink.own({0: 0})
    times = [NOON + timedelta(hours=n) for n in range(len(rul))]
    columns: dict[str, Any] = {
        "topic": ["sensors"] * len(rul),
        "partition": [0] * len(rul),
        "offset": [*range(len(rul))],
        "row": [0] * len(rul),
        "key": ["7"] * len(rul),
        "event_time": times,
        "processed_at": times,
        "model_version": ["rul/1"] * len(rul),
        "unit": [7] * len(rul),
        "rul": rul,
        "attention": [[0.25, 0.75]] * len(rul),
        "in_shadow": [True] * len(rul),
        "event_date": [f"{t:%Y-%m-%d}" for t in times],
    }
    rows = pa.RecordBatch.from_pydict({name: columns[name] for name in pipeline.table.names}, pipeline.table)
    sink.publish(sink.write([rows]), {0: len(rul)}, 1)
    return sink


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with two tables, and with a folder that is not a table."""
    lake = tmp_path / "lake"
    commit(lake, "rul", [90.0, 40.0, 10.0])
    commit(lake, "pumps", [5.0])
    (lake / "_models" / "abc").mkdir(parents=True)
    return lake


def test_results_are_a_lazy_frame_over_the_table(lake: Path) -> None:
    frame = results("rul", lake=lake)
    assert isinstance(frame, pl.LazyFrame)
    late = frame.filter(pl.col("event_time") > NOON).select("offset", "rul", "attention").collect()
    assert late.sort("offset").to_dicts() == [
        {"offset": 1, "rul": 40.0, "attention": [0.25, 0.75]},
        {"offset": 2, "rul": 10.0, "attention": [0.25, 0.75]},
    ]


def test_rows_of_a_shadow_are_left_out_unless_they_are_asked_for(lake: Path) -> None:
    assert results("rul", lake=lake, shadow=True).collect().is_empty()
    commit(lake, "rul.shadow-2", [11.0, 12.0], shadow_of="rul")
    assert results("rul", lake=lake).collect()["rul"].to_list() == [90.0, 40.0, 10.0]
    assert "in_shadow" not in results("rul", lake=lake).collect_schema()
    assert results("rul", lake=lake, shadow=True).collect()["rul"].to_list() == [11.0, 12.0]
    assert len(results("rul", lake=lake, shadow=None).collect()) == 5
    assert query("select max(rul) as rul from rul", lake=lake)["rul"].to_list() == [90.0]
    assert query('select max(rul) as rul from "rul.shadow"', lake=lake)["rul"].to_list() == [12.0]


def test_results_without_a_table_are_one_line(lake: Path) -> None:
    with pytest.raises(Unavailable) as said:
        results("touch", lake=lake)
    assert (
        str(said.value) == f"results of touch: expected a table in {lake}, got pumps, rul; start it: `tocsin up touch`"
    )


def test_sql_runs_over_all_tables(lake: Path) -> None:
    answer = query(
        "SELECT r.offset, r.rul, p.rul AS pump FROM rul r JOIN pumps p ON r.unit = p.unit"
        " WHERE r.rul < 50 AND r.event_time >= '2026-01-31 13:00:00' ORDER BY r.rul",
        lake=Lake(str(lake)),
    )
    assert answer.rows() == [(2, 10.0, 5.0), (1, 40.0, 5.0)]
    assert query("SHOW TABLES", lake=lake)["name"].to_list() == ["pumps", "rul"]


def test_a_query_sees_what_was_committed_since(lake: Path) -> None:
    frame = results("pumps", lake=lake)
    commit(lake, "pumps", [4.0, 3.0])
    assert query("SELECT count(*) FROM pumps", lake=lake).item() == 3
    assert frame.collect().height == 3


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM rull", "relation 'rull' was not found; the tables are: pumps, rul"),
        ("SELEC", "sql parser error: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1; the tables are: "),
        ("SELECT rule FROM rul", 'unable to find column "rule"; valid columns: ["topic", "partition", "offset", "row"'),
    ],
)
def test_wrong_sql_is_one_line(lake: Path, sql: str, said: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        query(sql, lake=lake)
    assert str(wrong.value).startswith(f"query in {lake}: {said}")
    assert str(wrong.value).endswith("; the tables are: pumps, rul")
    assert "\n" not in str(wrong.value)


def test_now_in_sql_says_how_to_write_a_time(lake: Path) -> None:
    with pytest.raises(ConfigError) as wrong:
        query("SELECT * FROM rul WHERE event_time > now()", lake=lake)
    assert str(wrong.value).endswith("; write times as text, in UTC: '2026-01-31 12:00:00'")


def test_the_lake_is_the_settings_unless_given(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_LAKE__PATH", str(lake))
    assert results("pumps").collect().height == query("SELECT * FROM pumps").height == 1


def alert(n: int) -> Alert:
    return Alert(f"{n:032x}", "rul", "critical", "critical", "raised", "7", NOON + timedelta(hours=n), {"rul": n})


class Ringer:
    """Sends alerts as a shard does: in transactions."""

    def __init__(self, servers: str) -> None:
        self.producer = KafkaProducer(bootstrap_servers=servers, transactional_id="ringer", retry_backoff_ms=2)
        self.producer.init_transactions()

    def ring(self, topic: str, *alerts: Alert, commit: bool = True) -> None:
        self.producer.begin_transaction()
        for a in alerts:
            self.producer.send(topic, key=a.key.encode(), value=a.value(), headers=a.headers())
        self.producer.flush()
        if commit:
            self.producer.commit_transaction()
        else:
            self.producer.abort_transaction()


@pytest.fixture
def ringer(kafka: Any) -> Any:
    ringer = Ringer(kafka.bootstrap_servers)
    yield ringer
    ringer.producer.close()


@pytest.fixture
def options(kafka: Any) -> dict[str, Any]:
    return {"bootstrap_servers": kafka.bootstrap_servers}


def test_alerts_are_read_to_the_end_and_aborted_ones_never(
    options: dict[str, Any], ringer: Ringer, create_topic: Callable[..., str]
) -> None:
    topic = create_topic("alerts.rul", partitions=2)
    ringer.ring(topic, alert(1), alert(2))
    ringer.ring(topic, alert(3), commit=False)
    ringer.ring(topic, alert(4))
    ringer.ring(topic, alert(5), commit=False)  # so that the log ends with an aborted record
    pipeline = topic.removeprefix("alerts.")
    assert list(alerts(pipeline, kafka=options)) == [alert(1), alert(2), alert(4)]
    assert list(alerts(pipeline, kafka=options, since="latest")) == []


def test_without_a_name_alerts_of_all_pipelines_come_but_no_dead_letters(
    options: dict[str, Any], ringer: Ringer, create_topic: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    one, two, other = create_topic("alerts.one"), create_topic("alerts.two"), create_topic("sensors")
    with KafkaAdminClient(**options) as admin:
        admin.create_topics({f"{one}.dlq": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    for n, topic in enumerate((one, two, other, f"{one}.dlq")):
        ringer.ring(topic, replace(alert(100 + n), pipeline=topic))
    ringer.producer.begin_transaction()
    ringer.producer.send(one, value=b"no alert")
    ringer.producer.commit_transaction()
    seen = {a.id for a in alerts(kafka=options)}
    assert {alert(100).id, alert(101).id} <= seen
    assert not {alert(102).id, alert(103).id} & seen
    assert f"{one}[0]@2: expected an alert, got " in caplog.text


def test_a_follower_goes_on_and_sees_only_what_rings_from_now(
    options: dict[str, Any], ringer: Ringer, create_topic: Callable[..., str]
) -> None:
    topic = create_topic("alerts.rul")
    ringer.ring(topic, alert(1))
    following = alerts(topic.removeprefix("alerts."), kafka=options, follow=True, since="latest")
    later = [threading.Timer(wait, ringer.ring, (topic, alert(n))) for wait, n in ((1.0, 2), (1.5, 3))]
    for timer in later:
        timer.start()
    assert [next(following), next(following)] == [alert(2), alert(3)]
    following.close()  # type: ignore[attr-defined]


def test_a_follower_may_come_before_the_topic(
    options: dict[str, Any], ringer: Ringer, create_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.pipelines.query.REFRESH_S", 0.5)
    name = "early"
    seen: list[Alert] = []

    def follow() -> None:
        for a in alerts(kafka=options, follow=True, since="latest"):
            if a.pipeline == name:
                seen.append(a)
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    threading.Event().wait(1)  # it must listen before the topic exists
    ringer.ring(create_topic("alerts.early"), replace(alert(1), pipeline=name))
    follower.join(30)
    assert seen == [replace(alert(1), pipeline=name)]


def test_a_pipeline_without_alert_topic_is_one_line(kafka: Any, options: dict[str, Any]) -> None:
    with pytest.raises(Unavailable) as said:
        list(alerts("nobody", kafka=options))
    assert str(said.value) == (
        f"alerts of nobody: expected topic alerts.nobody at {kafka.bootstrap_servers}, got none; "
        "start it: `tocsin up nobody`"
    )
