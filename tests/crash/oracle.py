"""The expected output of the crash tests' job, computed by a plain loop over the messages without code of the runtime.

A reading counts if its cycle is ahead of all earlier cycles of its unit. A reading that repeats the newest cycle is dropped. An
older one is a dead letter, and so is one that does not fit 32-bit floats. Three readings make a window, a window makes a row, and
a row may raise an alert.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord

WEIGHTS = np.array([0.2, 0.3, 0.5])
HOT, COOL, STEADY, STEADY_ROWS, STEADY_PAUSE_MS = 0.75, 0.25, 0.5, 2, 3000
TOLERANCE = 1e-4
FIRST_CYCLE = -(2**62) + 1
ENDLESS = 2.0**128 - 2.0**103  # float32 rounds it to infinity

Identity = tuple[int, int | None, int | None, int]
"""Partition, offset, row in message, unit; a timer's row has no offset and no row."""


@dataclass
class Outcome:
    """The actual or expected output of a job, counted to show duplicates.

    Args:
        rows: identity and cycle.
        values: identity -> score and loads.
        alerts: rule, transition, identity, event time in ms.
        letters: partition, offset, row in message (None for the whole message).
        dropped: number of repeated readings.
    """

    rows: Counter[tuple[Identity, int | None]] = field(default_factory=Counter)
    values: dict[Identity, list[float]] = field(default_factory=dict)
    alerts: Counter[tuple[str, str, Identity, int]] = field(default_factory=Counter)
    letters: Counter[tuple[int, int, int | None]] = field(default_factory=Counter)
    dropped: int = 0

    def differences(self, got: Outcome) -> list[str]:
        """Return how `got` differs from this, one line per kind; no lines if everything is there exactly once."""
        lines = []
        for name in ("rows", "alerts", "letters"):
            expected, found = getattr(self, name), getattr(got, name)
            kinds = {
                "lost": [k for k in expected if k not in found],
                "untrue": [k for k in found if k not in expected],
                "twice": [k for k, n in found.items() if n > 1],
            }
            lines += [f"{name} {kind}: {len(which)}, first {which[0]}" for kind, which in kinds.items() if which]
        both = [k for k in self.values if k in got.values]
        wrong = [k for k in both if not np.allclose(self.values[k], got.values[k], rtol=1e-6, atol=TOLERANCE)]
        if wrong:
            lines.append(
                f"values wrong: {len(wrong)}, first {wrong[0]}: {self.values[wrong[0]]} {got.values[wrong[0]]}"
            )
        return lines


@dataclass
class _Unit:
    """The state of one unit on one partition."""

    newest: int = FIRST_CYCLE - 1
    heats: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    hot: bool = False
    steady: bool = False
    above: int = 0
    rang_ms: int | None = None
    heard_ms: int = 0


Readings = Iterator[tuple[int | None, dict[str, Any] | None]]


def judge(
    messages: Iterable[ConsumerRecord],
    *,
    silent: bool = False,
    readings: Callable[[ConsumerRecord], Readings] | None = None,
) -> Outcome:
    """Compute the rows, alerts and dead letters of these messages.

    Args:
        messages: all messages of each partition, in order.
        silent: whether every unit becomes inactive after its last reading.
        readings: decodes a message; by default, messages are those of `tests.crash.load`.
    """
    out, units = Outcome(), dict[tuple[int, int], _Unit]()
    for m in messages:
        for row, reading in (readings or _readings)(m):
            if reading is None:
                out.letters[m.partition, m.offset, row] += 1
                continue
            u = units.setdefault((m.partition, reading["unit"]), _Unit())
            if reading["cycle"] < max(u.newest, FIRST_CYCLE):
                out.letters[m.partition, m.offset, row] += 1
                continue
            if reading["cycle"] == u.newest:
                out.dropped += 1
                continue
            u.newest = reading["cycle"]
            if max(abs(reading["heat"]), abs(reading["load"])) >= ENDLESS:
                out.letters[m.partition, m.offset, row] += 1
                continue
            u.heats = [*u.heats, reading["heat"]][-3:]
            u.loads = [*u.loads, reading["load"]][-3:]
            if len(u.heats) == 3:
                u.heard_ms = m.timestamp
                identity = (m.partition, m.offset, row, reading["unit"])
                score = float(np.dot(WEIGHTS, u.heats))
                out.rows[identity, u.newest] += 1
                out.values[identity] = [score, *u.loads]
                for rule, transition in _rings(u, score, m.timestamp):
                    out.alerts[rule, transition, identity, m.timestamp] += 1
    for (partition, unit), u in units.items() if silent else ():
        if len(u.heats) < 3:
            continue
        nobody = (partition, None, None, unit)
        out.rows[nobody, None] += 1
        out.alerts["silent", "raised", nobody, u.heard_ms] += 1
        if u.steady:  # the row of an inactive unit has no score above the level
            out.alerts["steady", "cleared", nobody, u.heard_ms] += 1
    return out


def _readings(m: ConsumerRecord) -> Readings:
    """Yield a message's readings with their rows; None for a message without a valid reading."""
    if dict(m.headers).get("content-type") == b"application/vnd.apache.arrow.stream":
        yield from enumerate(pa.ipc.open_stream(io.BytesIO(m.value)).read_all().to_pylist())
        return
    try:
        yield 0, json.loads(m.value)
    except ValueError:
        yield None, None


def _rings(u: _Unit, score: float, at_ms: int) -> Iterator[tuple[str, str]]:
    """Yield the alerts of one row, and update the unit's state."""
    if not u.hot and score > HOT:
        u.hot = True
        yield "hot", "raised"
    elif u.hot and score < COOL:
        u.hot = False
        yield "hot", "cleared"
    u.above = u.above + 1 if score > STEADY else 0
    if u.steady and not u.above:
        u.steady = False
        yield "steady", "cleared"
    elif not u.steady and u.above >= STEADY_ROWS and (u.rang_ms is None or at_ms >= u.rang_ms + STEADY_PAUSE_MS):
        u.steady, u.rang_ms = True, at_ms
        yield "steady", "raised"
