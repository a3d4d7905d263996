"""Late truth of each pipeline: its labels land in a table, and its results are scored with them as one plain loop does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tests.support.lakes import building
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.model import FD001
from tocsin.models.surprise.model import SHIPPED as DIVES
from tocsin.models.touch.model import SHIPPED as TABLE
from tocsin.pipelines import occupancy, rul, surprise, touch
from tocsin.pipelines.runtime import Model, Pipeline, replay
from tocsin.pipelines.runtime.control.labels_table import labels_table_plan
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.lake.storage import Lake

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _minute(n: float) -> datetime:
    return NOON + timedelta(minutes=n)


def _landing(declared: Pipeline, folder: Path) -> Pipeline:
    assert declared.truth
    landing = labels_table_plan(declared.name, declared.truth).build(Lake(str(folder)))
    assert (landing.name, landing.topic, landing.folder) == (f"labels.{declared.name}",) * 3
    return landing


def _decoded(landing: Pipeline, labels: Sequence[dict[str, Any]]) -> tuple[pa.RecordBatch, list[DeadLetter]]:
    """Decode labels that arrive as JSON."""
    at, records = round(NOON.timestamp() * 1000), list[ConsumerRecord]()
    for offset, label in enumerate(labels):
        value = orjson.dumps(label)
        place = landing.topic, 0, 0, offset, at + offset, 0
        records.append(ConsumerRecord(*place, None, value, [], None, -1, len(value), -1))
    return Codec.of(landing).decode(records)


def _landed(declared: Pipeline, labels: Sequence[dict[str, Any]], folder: Path) -> pl.LazyFrame:
    """The table of labels."""
    batch, letters = _decoded(landing := _landing(declared, folder), labels)
    assert not letters
    rows = replay(landing, pa.Table.from_batches([batch]))[0]
    assert len(rows) == len(labels)
    return rows.lazy()


def _camera(minute: float, **columns: Any) -> dict[str, Any]:
    return {"key": "cam", "event_time": _minute(minute), "model_version": "m/1", **columns}


def _span(start: float, end: float, **more: Any) -> dict[str, Any]:
    return {"camera": "cam", "start": _minute(start).isoformat(), "end": _minute(end).isoformat(), **more}


def test_a_failure_scores_the_predictions_before_it(tmp_path: Path) -> None:
    declared = rul.pipeline({}, Model(FD001, "rul/1", "cpu"))
    failures = _landed(declared, [{"unit": 7, "cycle": 100}], tmp_path)
    rows = [
        {**_camera(cycle), "key": "7", "cycle": cycle, "rul": 110.0 - cycle, "rul_low": 0.0, "rul_high": 125.0}
        for cycle in range(1, 101)
    ]
    assert declared.truth
    (score,) = declared.truth.score(pl.LazyFrame(rows), failures).to_dicts()
    assert (score["rows"], score["rmse"], score["coverage"]) == (100, pytest.approx(10), 1.0)


def test_counts_of_people_score_a_rooms_verdicts_until_the_next_count_for_a_quarter_of_an_hour_at_most(
    tmp_path: Path,
) -> None:
    declared, results, _ = building(rooms=2, days=1)
    rooms, times = results["room"].unique().sort().to_list(), results["event_time"].sort()
    first = times[len(times) // 2].replace(second=0, microsecond=0)
    counts = [(rooms[0], 0, 2.0), (rooms[0], 5, 0.0), (rooms[1], 0, 1.0)]
    labels = [
        {"room": room, "time": (first + timedelta(minutes=at)).isoformat(), "count": count}
        for room, at, count in counts
    ]
    truth = {(rooms[0], n): n < 5 for n in range(20)} | {(rooms[1], n): True for n in range(15)}
    verdicts = {
        (room, (time - first) // timedelta(minutes=1)): occupied
        for room, time, occupied in results.select("room", "event_time", "occupied").iter_rows()
        if occupied is not None
    }
    judged = [(verdicts[place], true) for place, true in truth.items() if place in verdicts]
    assert declared.truth and len(judged) == 35
    (score,) = declared.truth.score(results.lazy(), _landed(declared, labels, tmp_path)).to_dicts()
    assert (score["rows"], score["assets"]) == (35, 2)
    assert score["accuracy"] == pytest.approx(sum(said == true for said, true in judged) / 35)


def test_reviewed_spans_score_a_cameras_frames(tmp_path: Path) -> None:
    declared = surprise.pipeline({}, Model(DIVES, "surprise/1", "cpu"))
    frames = [_camera(n, novel=n in (2, 3, 8)) for n in range(10)]
    spans = [_span(0, 5, novel=False), _span(2, 4, novel=True)]
    assert declared.truth
    (score,) = declared.truth.score(pl.LazyFrame(frames), _landed(declared, spans, tmp_path)).to_dicts()
    assert (score["rows"], score["precision"], score["recall"]) == (4, 1.0, 1.0)


def test_reviewed_spans_score_each_hand_by_itself(tmp_path: Path) -> None:
    declared = touch.pipeline({}, Model(TABLE, "touch/1", "cpu"))
    frames = [_camera(n, left_touches=n < 3, right_touches=False) for n in range(6)]
    spans = [_span(0, 4, hand="left", touches=True), _span(0, 6, hand="right", touches=False)]
    assert declared.truth
    (score,) = declared.truth.score(pl.LazyFrame(frames), _landed(declared, spans, tmp_path)).to_dicts()
    assert (score["rows"], score["assets"], score["precision"], score["recall"]) == (10, 2, 1.0, pytest.approx(3 / 4))


def test_a_label_without_its_asset_is_a_dead_letter(tmp_path: Path) -> None:
    declared = occupancy.pipeline({}, Model(OFFICES, "occupancy/1", "cpu"))
    batch, (letter,) = _decoded(_landing(declared, tmp_path), [{"time": NOON.isoformat(), "count": 1}])
    assert not len(batch) and "room" in letter.message
