"""A set-up for `tocsin check`: settings in a folder, topics, a lake."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from typer.testing import CliRunner

from tocsin.pipelines.cli.app import app

JOB = "tests.crash.job:pipeline"


class Setup:
    """A pipeline that can be started, except for what a test breaks.

    Args:
        section: the pipeline's, of the settings. Factory and topic have defaults.
    """

    def __init__(self, folder: Path, bootstrap: str, name: str = "", **section: Any) -> None:
        self.folder, self.bootstrap = folder, bootstrap
        self.name = name or f"job-{uuid.uuid4().hex[:8]}"
        self.topic = section.setdefault("topic", f"in.{self.name}")
        section.setdefault("factory", JOB)
        self.settings = {
            "kafka.bootstrap_servers": bootstrap,
            "lake.path": str(folder / "lake"),
            "mlflow.enabled": "false",
            "ray.num_cpus": "0",
        } | {f"pipelines.{self.name}.{n}": str(v) for n, v in section.items()}

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def create(self, topic: str, partitions: int = 1, **configs: str) -> None:
        """Create a topic."""
        topics = {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as admin:
            admin.create_topics(topics, wait_for_metadata=True)

    def topics(self) -> set[str]:
        """Return all topics of this pipeline; other tests may create theirs at the same time."""
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as admin:
            return {t for t in admin.list_topics() if self.name in t}

    def files(self) -> Mapping[str, tuple[int, int]]:
        """Return all files in the lake with their sizes and modification times."""
        stats = {str(p): p.stat() for p in self.lake.rglob("*")}
        return {p: (s.st_size, s.st_mtime_ns) for p, s in stats.items()}

    def given(self, sets: Mapping[str, Any] | None = None) -> list[str]:
        """Return the settings as a command's options, with those in `sets` changed."""
        settings = self.settings | {n: str(v) for n, v in (sets or {}).items()}
        return [part for n, v in settings.items() for part in ("--set", f"{n}={v}")]

    def run(self, sets: Mapping[str, Any] | None = None, *arguments: str) -> Any:
        """Run `tocsin check` on the pipeline, with the settings in `sets` changed."""
        return CliRunner().invoke(app, [*self.given(sets), "check", self.name, *arguments], catch_exceptions=False)

    def check(self, sets: Mapping[str, Any] | None = None) -> dict[str, tuple[str, str]]:
        """Run the checks. Returns the state and the line of each check."""
        result = self.run(sets, "--json")
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert all("\n" not in f["said"] for f in found)
        wrong = [f for f in found if f["state"] == "wrong"]
        assert result.exit_code == bool(wrong), result.stdout
        return {f["check"]: (f["state"], f["said"]) for f in found}

    def problems(self, sets: Mapping[str, Any] | None = None) -> dict[str, tuple[str, str]]:
        """Run the checks. Returns only those that are wrong or warnings."""
        return {check: found for check, found in self.check(sets).items() if found[0] in ("wrong", "warning")}
