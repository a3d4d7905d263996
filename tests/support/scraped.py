"""A local cluster that serves metrics, and a Prometheus that scrapes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import yaml

from tests.conftest import ROOT
from tests.support.ports import free_port
from tests.support.waits import until
from tocsin.pipelines.runtime.control.ray_client import connect

CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
PROMETHEUS = shutil.which("prometheus")


@contextmanager
def local_cluster() -> Iterator[int]:
    """Start Ray here. Yields the port on which it serves metrics."""
    port = free_port()
    connect("local", env={"PYTHONPATH": str(ROOT)}, cpus=2, metrics_port=port)
    try:
        yield port
    finally:
        ray.shutdown()


class Prometheus:
    """A Prometheus with the shipped rules, asked over HTTP."""

    def __init__(self, folder: Path, metrics_port: int) -> None:
        assert PROMETHEUS
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(CONFIG.parent / name) for name in config["rule_files"]]
        config["scrape_configs"] = [
            {"job_name": "tocsin", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
        ]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._address = f"127.0.0.1:{free_port()}"
        command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address={self._address}"], stdout=log, stderr=subprocess.STDOUT
            )
        until(self._is_ready, "Prometheus to be ready", 30)

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression gives now."""
        found: list[Any] = self._get("query", query=expression)["result"]
        return found

    def rules(self) -> dict[str, Any]:
        """Return the alert rules by their names."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def stop(self) -> None:
        """Stop the process."""
        self._process.terminate()
        self._process.wait(30)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended with {self._process.returncode}"
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, what: str, **query: str) -> Any:
        address = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]
