"""Run the same jobs on Tocsin and its peers, one after the other, on one Apache Kafka.

    make bench [ARGS="--jobs windows,alerts --records 1000000 --rounds 3 --only Tocsin,Bytewax"]

- windows: JSON readings of 24 sensors (some 390 bytes), for each engine of a fleet the mean over its last 30, to Parquet. Measured
  from outside: the time until a reader of the table sees the first row, the rows a second from there to the last one, the
  processor time of all processes, start included, and the most memory that they held at a time, shared pages counted once.
  Every row is checked.
- arrow: the same from Arrow messages of up to a thousand readings.
- rul: JSON readings, and the shipped RUL network on each window.
- frames: a hundredth as many JPEG frames of 640 x 360 from 16 cameras, and an encoder on each.
- once: JSON readings, one in a hundred of which is an alert, by Tocsin alone: with its transactions, and without.
- kill: the first job. After a third of the rows a SIGKILL to all processes of the engine, and the same command again: what is
  lost, what is there twice. Tocsin commits every five seconds, so ask for as many readings as take it twenty (3,000,000).
- alerts: one reading in a hundred is an alert on another topic. Their age at a `read_committed` subscriber, at a steady rate,
  beside a bare relay whose every poll is one transaction.

Each engine runs as its documentation writes it, as a command from the shell.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.engine import Bench
from benchmarks.peers import alerts, kill, throughput
from benchmarks.peers.engines import engines
from tocsin.deploy.kafka.server import KafkaServer


def main() -> None:
    """Run the selected engines and jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="windows,arrow,rul,frames,once,kill,alerts")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rates", default="5000,100", help="readings per second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="beginnings of engines' names")
    args = parser.parse_args()
    chosen = [e for e in engines().values() if not args.only or e.name.startswith(tuple(args.only.split(",")))]
    print(f"{os.cpu_count()} cores, {args.records:,} readings, medians of {args.rounds}", flush=True)
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        bench = Bench(Path(folder), server)
        for job in [job for name, job in throughput.JOBS.items() if name in args.jobs.split(",")]:
            throughput.compare(job, bench, chosen, Path(folder), args.records, args.rounds)
        if "kill" in args.jobs.split(","):
            kill.compare(bench, chosen, Path(folder), args.records)
        if "alerts" in args.jobs.split(","):
            rates = [int(rate) for rate in args.rates.split(",")]
            alerts.compare(bench, [e for e in chosen if "alerts" in e.commands], Path(folder), rates, args.rounds)


if __name__ == "__main__":
    main()
