"""The pages on extending Tocsin, each followed in a folder of its own outside the repository."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.conftest import ROOT
from tests.support.collector import Collector
from tests.support.tour import Tour, blocks
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.topics import create_topic
from tocsin.pipelines.runtime.settings import Settings
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions

PAGES = ROOT / "docs" / "extend"
FORMAT, SINK, STORE, CONTRACTS, TRACES = (
    PAGES / f"{name}.md" for name in ("message-format", "alert-sink", "object-store", "contracts", "traces")
)


class Desk:
    """A service that receives alerts. It refuses the first."""

    def __init__(self) -> None:
        self.taken, self.refused = list[dict[str, object]](), 0
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                known = self.headers["authorization"] == "Bearer secret"
                if not desk.refused or not known:
                    desk.refused += 1
                    self.send_error(503)
                    return
                desk.taken.append(body | {"traceparent": self.headers["traceparent"]})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/alerts"


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.server.shutdown()


def test_a_message_format_prints_what_the_page_says(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "")
    tour.write(FORMAT)
    promised = next(text for kind, text in blocks(FORMAT) if kind == "text")
    assert tour("python try_mills.py") == promised


def test_contracts_are_written_and_check_readings_as_the_page_says(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "")
    for page in (FORMAT, CONTRACTS):
        tour.write(page)
    commands = [text.strip() for kind, text in blocks(CONTRACTS) if kind == "sh"]
    promised = [text for kind, text in blocks(CONTRACTS) if kind == "text"]
    assert [tour(command) for command in commands] == promised


def test_the_settings_of_a_schema_registry_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((kind, text),) = blocks(PAGES / "schema-registry.md")
    (tmp_path / "tocsin.toml").write_text(text)
    (tmp_path / "registry.password").write_text("secret\n")
    settings = Settings.load()
    assert kind == "toml"
    options = settings.format_options()["schema_registry"]
    assert (options["url"], options["username"], options["password"]) == ("https://registry:8081", "tocsin", "secret")
    assert settings.pipeline("mills").options["content_type"] == "application/avro"


@pytest.fixture
def tour(kafka: KafkaServer, tmp_path: Path) -> Iterator[Tour]:
    made = Tour(tmp_path / "plant", kafka.bootstrap_servers)
    yield made
    made.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.mark.slow  # half a minute
def test_a_format_a_sink_and_a_store_from_outside_work_together_and_a_trace_passes_through(
    kafka: KafkaServer, tmp_path: Path, desk: Desk, collector: Collector, tour: Tour
) -> None:
    """One pipeline uses all four. The sink's service is unavailable at first."""
    sections = [tour.write(page)["tocsin.toml"] for page in (FORMAT, STORE, SINK)]
    tour.write(TRACES)
    configured = Settings.load(tour.folder / "traces.toml").traces.span_options()
    assert configured == SpanOptions("http://127.0.0.1:4318/v1/traces", {"Authorization": "Bearer of-the-vendor"})
    sections[2], _, _ = sections[2].partition("[pipelines.mills]")  # the first page declares it
    (tour.folder / "tocsin.toml").write_text("".join(sections))
    (token := tmp_path / "token").write_text("secret")
    tour.environment |= {
        "TOCSIN_PIPELINES__MILLS__SINKS": '["desk"]',
        "TOCSIN_SINKS__DESK__URL": desk.url,
        "TOCSIN_SINKS__DESK__TOKEN_FILE": str(token),
        "TOCSIN_TRACES__ENDPOINT": collector.endpoint,
        "STORE_URL": str(tmp_path / "store"),
    }
    with clients.admin({"bootstrap_servers": kafka.bootstrap_servers}) as admin:
        create_topic(admin, "sensors.mills", 2)
    _send(kafka, range(10))
    tour.run("tocsin run mills")
    tour.wait_committed("mills", 10)
    (look,) = tour.json("tocsin status mills")
    assert [sink["sink"] for sink in look["pipelines"][0]["sinks"]] == ["desk"]
    give_up = time.monotonic() + 60
    while not any(alert["current"] == 1000.0 for alert in desk.taken):
        assert time.monotonic() < give_up, desk.taken
        _send(kafka, range(10, 11), current=1000.0)
        _send(kafka, range(10, 11), current=1.0)
        time.sleep(0.5)
    assert desk.refused >= 1
    gateway, alerts = (line for kind, text in blocks(TRACES) if kind == "sh" for line in text.splitlines())
    trace = tour(gateway).strip()
    (taken,) = until(lambda: [a for a in desk.taken if trace in str(a["traceparent"])], "the traced alert", 60)
    (published,) = [alert for alert in map(json.loads, tour(alerts).splitlines()) if alert["id"] == taken["id"]]
    (span,) = until(lambda: [s for s, _ in collector.spans if s.trace_id.hex() == trace], "its span", 60)
    assert taken["traceparent"] == published["traceparent"]
    assert re.fullmatch(f"00-{trace}-{span.span_id.hex()}-0[13]", taken["traceparent"])  # sampled, and perhaps random
    tour.wait_committed("mills", 12)
    (answer,) = tour.json("tocsin query 'SELECT COUNT(*) AS rows FROM mills'")
    assert answer["rows"] >= 12
    assert list((tmp_path / "store" / "line-3" / "lake" / "mills").glob("**/*.parquet"))
    assert not (tour.folder / "lake").exists()
    assert "secret" not in json.dumps(look)


def _send(kafka: KafkaServer, seconds: range, current: float = 300.0) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    headers = [("content-type", b"text/x-line-protocol")]
    for second in seconds:
        line = f"rolling,mill=a current={current} {(1_767_225_600 + second) * 10**9}"
        producer.send("sensors.mills", line.encode(), key=b"a", headers=headers)
    producer.close()


@pytest.mark.slow  # nearly a minute
def test_a_domain_from_outside_is_trained_scored_fed_and_run(kafka: KafkaServer, tour: Tour) -> None:
    """The page's commands work, and each offers only its own options of the domain."""
    page = PAGES / "domain.md"
    tour.write(page)
    commands = [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    train, evaluate, feed, run, status = commands
    assert "--steps" in tour("tocsin train bearings --help") and "--worn" not in tour("tocsin train bearings --help")
    (trained,) = tour.json(train)
    assert (trained["name"], trained["version"], trained["refused"]) == ("bearings", "1", None)
    (said,) = tour.json(evaluate)
    figures = said["figures"]
    assert (said["pipeline"], said["model"], said["counted"]) == (
        "bearings",
        "bearings@champion",
        {"windows": 20 * 193},
    )
    assert 0.05 < figures["above_3"] < 0.5 < figures["mean_score"]
    (sent,) = tour.json(feed)
    assert sent["rows"] == 20 * 200
    tour.run(run.removesuffix(" &"))
    tour.wait_committed("bearings", 20 * 200)
    assert tour(status)
    (answer,) = tour.json("tocsin query 'SELECT COUNT(*) AS rows, COUNT(DISTINCT key) AS bearings FROM bearings'")
    assert answer == {"rows": 20 * (200 - 7), "bearings": 20}
    rang = {alert["subject"] for alert in tour.json("tocsin alerts bearings")}
    assert rang == {"b0"}
