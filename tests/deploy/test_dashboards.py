"""The dashboards and alert rules answer on a Prometheus that scrapes a running pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.crash.deployed import Deployed
from tests.crash.harness import Job
from tests.support.scraped import PROMETHEUS, Prometheus, local_cluster
from tests.support.waits import until
from tocsin.deploy.grafana.__main__ import FOLDER, text
from tocsin.deploy.grafana.boards import BOARDS
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.telemetry.metrics import METRICS

NOT_HERE = ("ray_node_gpus", "ray_node_gram", "ray_tocsin_model_info", "ray_tocsin_live", "ray_tocsin_drift")
"""What a machine without a GPU and a pipeline without a model do not export."""


def _queries(name: str) -> list[str]:
    panels: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_what_its_source_says(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == text(name)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_names_and_places_of_their_own(name: str) -> None:
    board = json.loads((FOLDER / f"{name}.json").read_text())
    titles = [panel["title"] for panel in board["panels"]]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(titles) == len(set(titles)) and len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_each_metric_is_on_a_dashboard() -> None:
    shown = {name for board in BOARDS for query in _queries(board) for name in re.findall(r"ray_tocsin_\w+", query)}
    exported = {name for metric in METRICS for name in metric.exported}
    assert shown <= exported
    unseen = {metric.name for metric in METRICS if not shown & set(metric.exported)}
    assert unseen == {"tocsin_steps_total", "tocsin_step_age_seconds", "tocsin_undeleted_total"} | {
        f"tocsin_{name}_total" for name in ("forgotten", "ignored", "spans", "spans_dropped")
    }


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus")
def test_every_query_and_rule_answers_on_a_pipeline_that_runs(kafka: KafkaServer, tmp_path: Path) -> None:
    with local_cluster() as port:
        job = Job(kafka.bootstrap_servers, tmp_path)
        deployed, prometheus = Deployed(job), Prometheus(tmp_path / "prometheus", port)
        try:
            with job.load(rate=300):
                deployed.goes_on()
                for query in (query for name in BOARDS for query in _queries(name)):
                    asked = query.replace("$pipeline", job.name).replace("$__rate_interval", "1m")
                    if not any(name in asked for name in NOT_HERE):
                        until(lambda asked=asked: prometheus.query(asked), f"an answer to {asked}", 60)
                    else:
                        assert prometheus.query(asked) == []
                rules = prometheus.rules()
                assert {name: rule["health"] for name, rule in rules.items()} == dict.fromkeys(rules, "ok")
                # The load has three bad records in a hundred, and its timestamps are an hour old.
                for name in ("TocsinDeadLetters", "TocsinLate"):
                    until(lambda name=name: prometheus.query(rules[name]["query"]), f"{name} to be noticed", 60)
                    del rules[name]
                assert {name for name, rule in rules.items() if prometheus.query(rule["query"])} == set()
        finally:
            prometheus.stop()
            deployed.stop()
