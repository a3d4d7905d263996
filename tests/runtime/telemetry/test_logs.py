"""Logs: one JSON object per line with its context, no secrets, and few lines for many dead letters."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.state import State
from tocsin.pipelines.runtime.declare.stores import Cell
from tocsin.pipelines.runtime.telemetry import logs
from tocsin.pipelines.runtime.telemetry.logs import EVERY_S, KINDS, DeadLetterLog

log = logging.getLogger("tocsin.pipelines.runtime.test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restore the process's logging, which `start` changes."""
    root, ours = logging.getLogger(), logging.getLogger("tocsin")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def letter(
    offset: int = 1042, *, error: str = "BadValue", key: bytes | None = b"unit-7", traceparent: bytes = b""
) -> DeadLetter:
    message, headers = "expected 21 sensors, got 20", (("traceparent", traceparent),) if traceparent else ()
    return DeadLetter("sensors", 3, offset, None, "decode", error, message, 0, key, b"{}", headers)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.logs.time.monotonic", lambda: now[0])
    return now


def test_a_line_is_one_object_that_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start(pipeline="rul")

    def work() -> None:
        logs.about(shard=2)
        log.info("two\nlines, %d", 1, extra={"topic": "sensors", "partition": 3, "offset": 1042, "asset": "unit-7"})

    (thread := threading.Thread(target=work)).start()
    thread.join()
    log.warning("of no shard")
    first, second = lines(capsys)
    assert first.pop("ts").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "tocsin.pipelines.runtime.test",
        "message": "two\nlines, 1",
        "pipeline": "rul",
        "shard": 2,
        "topic": "sensors",
        "partition": 3,
        "offset": 1042,
        "asset": "unit-7",
    }
    assert "shard" not in second and second["pipeline"] == "rul"


def test_a_traceback_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    try:
        raise ValueError("what went wrong")
    except ValueError:
        log.exception("it ends")
    (line,) = lines(capsys)
    assert line["message"] == "it ends"
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("ValueError: what went wrong")


def test_passwords_in_addresses_are_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for style in ("json", "text"):
        monkeypatch.setenv(logs.FORMAT, style)
        logs.start()
        try:
            raise OSError("no answer from postgresql://me:hush@host/db")
        except OSError as reason:
            log.exception("MLflow at http://me:hush@mlflow: %s", reason)
    said = capsys.readouterr().err
    assert "hush" not in said and "http://me:***@mlflow" in said and "postgresql://me:***@host/db" in said


def test_what_json_cannot_hold_is_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    log.info("a lone surrogate \udcff", extra={"asset": b"\xff", "offset": 2**70})
    (line,) = lines(capsys)
    assert (line["message"], line["asset"], line["offset"]) == ("a lone surrogate \udcff", "b'\\xff'", 2**70)


def test_level_and_format_come_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv(logs.FORMAT, "text")
    monkeypatch.setenv(logs.LEVEL, "warning")
    logs.start(pipeline="rul")
    log.info("not said")
    logging.getLogger("kafka.client").info("not said either")
    log.warning("said", extra={"shard": 2})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" WARNING rul/2: said")


def test_a_dead_letter_is_found_by_its_place_and_its_asset(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    DeadLetterLog().note([letter()])
    (line,) = lines(capsys)
    assert line["message"] == "sensors[3]@1042: expected 21 sensors, got 20; sent to sensors.dlq"
    place = {name: line[name] for name in ("topic", "partition", "offset", "stage", "error", "asset", "count")}
    assert place == {
        "topic": "sensors",
        "partition": 3,
        "offset": 1042,
        "stage": "decode",
        "error": "BadValue",
        "asset": "unit-7",
        "count": 1,
    }


def test_the_line_of_a_dead_letter_names_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    DeadLetterLog().note([letter(traceparent=b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")])
    DeadLetterLog().note([letter(traceparent=b"nothing")])
    traced, plain = lines(capsys)
    assert (traced["trace_id"], traced["span_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert not {"trace_id", "span_id"} & plain.keys()


def test_ten_thousand_dead_letters_a_second_are_one_line_a_second(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    logs.start()
    mentions = DeadLetterLog()
    for step in range(100):
        clock[0] = 100 + step * 0.05
        mentions.note([letter(step * 500 + n) for n in range(500)])
    clock[0] += EVERY_S
    mentions.note([])  # logs the last ones although none follow
    said = lines(capsys)
    assert [line["offset"] for line in said][:2] == [0, 500]
    assert len(said) == 6 and sum(line["count"] for line in said) == 50_000
    assert said[1]["message"].endswith("; sent to sensors.dlq; and 9999 more like it")
    clock[0] += EVERY_S
    mentions.note([])
    assert mentions._kinds == {}


def test_kinds_beyond_a_few_share_a_line(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    logs.start()
    mentions = DeadLetterLog()
    for step in range(10):
        mentions.note([letter(error=f"Error{step}-{n}") for n in range(50)])
    clock[0] += EVERY_S
    mentions.note([])
    said = lines(capsys)
    assert len(said) == KINDS + 2  # the shared line is logged twice: at once, and at the end
    assert sum(line["count"] for line in said) == 500


def test_a_key_on_two_partitions_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    state = State({"last": Cell()}, pa.int64())
    for partition in (0, 1):
        keys = pa.array([7, 8])
        state.slots(pa.array([partition] * 2).to_numpy(), keys)
    assert state.key_clashes == 2
    (line,) = lines(capsys)
    assert (line["asset"], line["partition"], line["level"]) == ("7", 1, "warning")
    assert line["message"].startswith("key 7: expected it on partition 0 only, got it on 1 too")
