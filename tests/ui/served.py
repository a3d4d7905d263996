"""`python -m tests.ui.served FOLDER PORT [--changes] [--token-file FILE] [--kafka SERVERS]`: the live page over a scene.

It prints `ready`. Each line of stdin is an order: `raise KEY`, `clear KEY`, `status JSON`, `commit KEY`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.ui import scene
from tocsin.pipelines.runtime import Alert, Settings
from tocsin.pipelines.ui.access import AccessPolicy
from tocsin.pipelines.ui.app import serve
from tocsin.pipelines.ui.data.board import AlertBoard
from tocsin.pipelines.ui.sources import Commands, Sources


class Letters:
    """Two dead letters; a replay is only counted."""

    def newest(self) -> list[Any]:
        return [scene.letter(7), scene.letter(9, "TooLate")]

    def original(self, entry: Any) -> Any:
        from tocsin.pipelines.runtime.kafka.dead_letters import readable
        from tocsin.pipelines.ui.data.letters import Original

        return Original({"source": "plant"}, readable(entry.dead_letter.value), len(entry.dead_letter.value))

    def replay(self, chosen: Any) -> Any:
        from tocsin.pipelines.runtime.kafka.redelivery import Redelivered

        return Redelivered(sent=len(chosen))


class Feed:
    """No Kafka: alerts come from stdin."""

    problem = ""

    def start(self) -> None: ...

    def close(self) -> None: ...


def publishing(board: AlertBoard) -> Any:
    """Stands in for `publish`: the event goes straight to the board."""

    def publish(options: Any, alert: Alert, partition: int) -> None:
        board.add(alert, partition)

    return publish


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--kafka")
    args = parser.parse_args()
    settings = Settings.load(
        None,
        {
            "lake.path": str(args.folder),
            "mlflow.enabled": False,
            "kafka.bootstrap_servers": args.kafka or "localhost:1",
        },
    )
    commands = Commands(lambda: {}, lambda pipeline, key, last: [sys.executable, "-c", ""])
    sources = Sources.of(settings, commands, allow_changes=args.changes)
    if not args.kafka:
        from tocsin.pipelines.ui.data import actions

        actions.publish = publishing(sources.board)  # type: ignore[attr-defined]
        sources.actions._letters = Letters()  # type: ignore[assignment]
        sources = replace(sources, feed=Feed(), letters=Letters())  # type: ignore[arg-type]
    threading.Thread(target=_obey, args=(sources, args.folder), daemon=True).start()
    threading.Thread(target=_report, args=(sources,), daemon=True).start()
    policy = AccessPolicy.of("127.0.0.1", args.token_file, "", ())
    serve(sources, policy, args.port, started=lambda: print("ready", flush=True))


def _obey(sources: Sources, lake: Path) -> None:
    for n, line in enumerate(sys.stdin):
        order, _, what = line.strip().partition(" ")
        match order:
            case "raise" | "clear":
                transition = {"raise": "raised", "clear": "cleared"}[order]
                sources.board.add(scene.alert(what, transition=transition, after_s=n), 0)
            case "status":
                sources.fleet.record("test", json.dumps({"pipelines": json.loads(what)}).encode())
            case "commit":
                scene.commit(lake, "rul", scene.engine(what, 1, 5.0))


def _report(sources: Sources) -> None:
    """Pipelines report a status four times a second, so that sparklines fill soon."""
    for n in itertools.count():
        rate = 1500 + 300 * math.sin(n / 5)
        reports = [
            scene.report(
                "rul", scene.shard("rul", rows_per_s=rate, lag=int(abs(400 * math.sin(n / 9))), dead_letters=2)
            ),
            scene.report("occupancy", scene.shard("occupancy", rows_per_s=40 + n % 7, lag=0)),
            scene.report(
                "surprise",
                scene.shard(
                    "surprise", state="waiting", error="Kafka at localhost: expected a broker to answer", lag=None
                ),
                ready=False,
            ),
        ]
        sources.fleet.record("scene", json.dumps({"pipelines": reports}).encode())
        time.sleep(0.25)


if __name__ == "__main__":
    main()
