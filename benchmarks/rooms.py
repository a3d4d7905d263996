"""Measure the cost of a reading in the occupancy pipeline by the number of rooms: only the machine, without Kafka and lake.

    OMP_NUM_THREADS=1 python -m benchmarks.rooms [--rooms 100,1000,10000,100000] [--readings 400000] [--profile]

Each room sends one reading of each property per minute, each at its own time within the minute. A step holds one minute of
readings, at most `pipeline.batch.rows`. An additional line measures 100 rooms that catch up, with 20 minutes per step. Only
`Machine.step` is timed, after 67 minutes have filled the windows of 60 (a row is emitted 5 minutes late). With more than 2,000
rooms, the initial state is cloned from 2,000.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import os
import pstats
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from tocsin.models.occupancy.data import PROPERTIES
from tocsin.models.occupancy.model import OFFICES
from tocsin.pipelines.occupancy import READING, pipeline
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.telemetry.process import KEEP_MEMORY

START = 1_767_600_000_000
"""Monday 5 January 2026, 8:00 UTC, in ms since the epoch, so that the measurement begins in office hours."""
SCHEMA = pa.schema([*IDENTITY, *READING])
MODEL = Model(OFFICES, "offices", "cpu")
WARMUP, WARMED = 67, 2_000
USUAL, MOVES = np.array([700.0, 21.0, 45.0, 0.5]), np.array([5.0, 0.03, 0.2, 0.005])
"""For each of `PROPERTIES`: the start of a room's random walk, and its standard deviation per minute."""


class Rooms:
    """Readings of `rooms` rooms, minute by minute: the value of each property is a random walk."""

    def __init__(self, rooms: int) -> None:
        self.rooms, self._rng, self._minute = rooms, np.random.default_rng(0), 0
        self._last = np.tile(USUAL, (rooms, 1))
        self._offsets = self._rng.integers(0, 60_000, self._last.size)

    def minutes(self, count: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the readings of the next `count` minutes in order of time, at most `rows` per batch."""
        order, n = np.tile(np.argsort(self._offsets, kind="stable"), count), count * len(self._offsets)
        values = self._last + (MOVES * self._rng.standard_normal((count, *self._last.shape))).cumsum(0)
        minutes, nothing = np.repeat(np.arange(count), len(self._offsets)), np.zeros(n, np.int32)
        times, self._last = START + 60_000 * (self._minute + minutes) + self._offsets[order], values[-1]
        names = pa.array([f"room-{i}" for i in range(self.rooms)]).take(pa.array(order // len(PROPERTIES)))
        kinds = pa.array(PROPERTIES).take(pa.array(order % len(PROPERTIES)))
        value = values.reshape(count, -1)[minutes, order]
        columns = [nothing, np.arange(n), nothing, times, names, kinds, times, value]
        arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        self._minute += count
        for start in range(0, n, rows):
            yield pa.RecordBatch.from_arrays([a.slice(start, rows) for a in arrays], schema=SCHEMA)

    def clone(self, times: int, delta: StateDelta) -> StateDelta:
        """Multiply the number of rooms by `times`. Returns the state of all rooms, cloned from the given one."""
        names = [f"room-{int(key[5:]) + self.rooms * i}" for i in range(times) for key in delta.keys["key"].to_pylist()]
        self._last, self._offsets = np.tile(self._last, (times, 1)), np.tile(self._offsets, times)
        self.rooms *= times
        slots, partitions = np.arange(self.rooms), np.zeros(self.rooms, np.int32)
        columns = map(pa.array, (slots, partitions, names, np.tile(delta.keys["last_seen"].to_numpy(), times)))
        keys = pa.RecordBatch.from_arrays([*columns], schema=delta.keys.schema)
        cells = {name: t.repeat(times, *[1] * (t.dim() - 1)) for name, t in delta.cells.items()}
        return replace(delta, keys=keys, cells=cells, facts={**delta.facts, "capacity": self.rooms})


def measure(rooms: int, readings: int, minutes: int, profile: bool) -> tuple[float, float]:
    """Return the processor time in us per reading for steps of `minutes`, and the peak memory after a step in MB."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    simulated, machine, rows = Rooms(min(rooms, WARMED)), Machine(pipeline({}, MODEL)), pipeline({}, MODEL).batch.rows
    for batch in chain.from_iterable(simulated.minutes(1, rows) for _ in range(WARMUP)):
        machine.step(batch, batch["_timestamp"][-1].value)
    if rooms > simulated.rooms:
        warm, machine = machine, Machine(pipeline({}, MODEL))
        machine.restore([simulated.clone(rooms // simulated.rooms, warm.delta(full=True))])
    profiler, seconds, read, results, memory = cProfile.Profile(time.process_time), 0.0, 0, 0, 0.0
    while read < readings:
        for batch in simulated.minutes(minutes, rows):
            began = time.process_time()
            if profile:
                profiler.enable()
            outcome = machine.step(batch, batch["_timestamp"][-1].value)
            profiler.disable()
            seconds += time.process_time() - began
            assert not outcome.refused, outcome.refused[0]
            read, results = read + len(batch), results + len(outcome.results)
            memory = max(memory, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6)
    for order in ("tottime", "cumtime") if profile else ():
        pstats.Stats(profiler).sort_stats(order).print_stats(40)
    assert results == read // len(PROPERTIES), f"expected a row a room and minute, got {results} of {read} readings"
    return seconds / read * 1e6, memory


def main() -> None:
    """Print a line per size, measured in its own process with a worker's memory settings; rates are by processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", default="100,1000,10000,100000")
    parser.add_argument("--readings", type=int, default=400_000)
    parser.add_argument("--profile", action="store_true")
    args, first = parser.parse_args(), 0.0
    os.environ.update(KEEP_MEMORY)
    print("| rooms | minutes a step | readings/s | us a reading | of the first | headroom | memory, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for rooms, minutes in [*((int(n), 1) for n in args.rooms.split(",")), (100, 20)]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost, memory = pool.apply(measure, (rooms, args.readings, minutes, args.profile))
        rate, first = 1e6 / cost, first or cost
        start = f"| {rooms:,} | {minutes} | {rate:,.0f} | {cost:.1f} | {cost / first:.2f} "
        print(f"{start}| {rate * 60 / rooms / len(PROPERTIES):,.0f}x | {memory:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
