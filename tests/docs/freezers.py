"""Readings of freezers, and the output expected of the page's pipeline: one plain loop, without code of the runtime."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from kafka.consumer.fetcher import ConsumerRecord

PARTITIONS, FREEZERS = 2, 20
WINDOW, LATE_MS, AHEAD_MS = 12, 120_000, 3_600_000
RULES = {"warm": (-15.0, -17.0, 3), "thawing": (-5.0, -8.0, 2)}
"""By rule: raised above this temperature, cleared below this one, after so many rows in succession."""
TOLERANCE = 1e-4


class Message(NamedTuple):
    """One message, before Kafka assigns its offset."""

    partition: int
    key: bytes
    value: bytes


def messages(seed: int) -> Iterator[Message]:
    """Yield a shop's messages without end: doors open, freezers fail and are repaired, clocks and networks err."""
    rng, start = random.Random(seed), datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    minute = 0
    while True:
        minute += 1
        for freezer in rng.sample(range(FREEZERS), FREEZERS):

            def reading(minutes: float = minute, freezer: int = freezer, **other: Any) -> Message:
                wave = math.sin(minutes / (15 + freezer)) * 10 - 10
                celsius = 5.0 if rng.random() < 0.05 else round(wave + rng.uniform(-0.5, 0.5), 3)
                at = (start + timedelta(minutes=minutes)).isoformat()
                name = f"freezer-{freezer:02}"
                value = json.dumps({"freezer": name, "at": at, "celsius": celsius} | other)
                return Message(freezer % PARTITIONS, name.encode(), value.encode())

            match rng.choices(("good", "early", "twice", "late", "future", "text", "broken"), (86, 4, 2, 2, 2, 2, 2))[
                0
            ]:
                case "good":
                    yield reading()
                case "early":  # half a minute out of order, which is allowed
                    yield reading(minute + 0.4)
                    yield reading(minute - 0.1)
                case "twice":
                    yield reading()
                    yield reading()
                case "late":
                    yield reading(minute - 10)
                case "future":
                    yield reading(at=(datetime.now(UTC) + timedelta(days=2)).isoformat())
                case "text":
                    yield reading(celsius="cold")
                case "broken":
                    yield reading()._replace(value=b"hello?")


@dataclass
class Outcome:
    """What a pipeline produced, or should produce. Counters reveal duplicates.

    Args:
        rows: partition, offset (None for an inactive key), freezer, event time in ms.
        steady: temperature by partition and offset.
        alerts: rule, transition, partition, offset, freezer, event time in ms.
        letters: partition and offset.
    """

    rows: Counter[tuple[int, int | None, str, int]] = field(default_factory=Counter)
    steady: dict[tuple[int, int], float] = field(default_factory=dict)
    alerts: Counter[tuple[str, str, int, int | None, str, int]] = field(default_factory=Counter)
    letters: Counter[tuple[int, int]] = field(default_factory=Counter)


def judge(records: Iterable[ConsumerRecord], found: Mapping[tuple[int, int], float]) -> Outcome:
    """The rows, alerts and dead letters expected of these records, if every freezer becomes inactive after them.

    Args:
        found: the table's steady temperatures. One that equals ours within `TOLERANCE` decides which side of a level it is on.
    """
    out, arrived = Outcome(), dict[tuple[int, str], dict[int, tuple[int, float]]]()
    for record in records:
        at, name, celsius = _reading(record)
        times = arrived.setdefault((record.partition, name), {})
        if at is None or at > record.timestamp + AHEAD_MS or at < max(times, default=at) - LATE_MS:
            out.letters[record.partition, record.offset] += 1
        else:
            times.setdefault(at, (record.offset, celsius))
    for (partition, name), times in arrived.items():
        rows = [(at, *times[at]) for at in sorted(times)]
        firing, held = dict.fromkeys(RULES, False), dict.fromkeys(RULES, 0)
        for i in range(WINDOW - 1, len(rows)):
            at, offset, _ = rows[i]
            out.rows[partition, offset, name, at] += 1
            steady = out.steady[partition, offset] = _steady(
                [celsius for _, _, celsius in rows[i - WINDOW + 1 : i + 1]]
            )
            if abs(found.get((partition, offset), math.inf) - steady) < TOLERANCE:
                steady = found[partition, offset]
            for rule, (level, end, hold) in RULES.items():
                held[rule] = held[rule] + 1 if steady > level else 0
                if held[rule] >= hold and not firing[rule]:
                    firing[rule] = True
                    out.alerts[rule, "raised", partition, offset, name, at] += 1
                elif steady < end and firing[rule]:
                    firing[rule] = False
                    out.alerts[rule, "cleared", partition, offset, name, at] += 1
        if len(rows) >= WINDOW:
            out.rows[partition, None, name, rows[-1][0]] += 1
            out.alerts["silent", "raised", partition, None, name, rows[-1][0]] += 1
    return out


def _reading(record: ConsumerRecord) -> tuple[int | None, str, float]:
    """A record's time in ms, freezer and temperature. The time is None if the record is not a reading."""
    try:
        found = json.loads(record.value)
        return milliseconds(found["at"]), found["freezer"], float(found["celsius"])
    except ValueError:
        return None, "", 0.0


def _steady(window: list[float]) -> float:
    median = sorted(window)[(WINDOW - 1) // 2]
    weights = [math.exp(-abs(celsius - median)) for celsius in window]
    return sum(w * celsius for w, celsius in zip(weights, window, strict=True)) / sum(weights)


def milliseconds(time: str) -> int:
    """Milliseconds since the epoch of a time in ISO 8601."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)
