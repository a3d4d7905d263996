"""The page on MQTT, followed with a Mosquitto that is killed, and a bridge that is."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.conftest import ROOT, CreateTopic
from tests.support.ports import free_port
from tests.support.tour import Tour
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin") or shutil.which("mosquitto")
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs Mosquitto: apt-get install mosquitto"),
    pytest.mark.skipif(importlib.util.find_spec("paho") is None, reason="needs paho-mqtt: pip install paho-mqtt"),
]
READINGS = 3000


class Mosquitto:
    """A broker that stores its messages."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        self.start()

    def start(self) -> None:
        assert MOSQUITTO
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._settings)], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto")
    yield broker
    broker.kill()


def _publish(port: int, first: int, last: int) -> None:
    """Publish readings of three machines, each acknowledged by the broker."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    until(lambda: _connects(client, port), "Mosquitto to answer", 30)
    sent = [
        client.publish(f"plant/mill-{n % 3}/readings", json.dumps({"mill": f"mill-{n % 3}", "n": n}), qos=1)
        for n in range(first, last)
    ]
    give_up = time.monotonic() + 60
    while not all(message.is_published() for message in sent):  # in this thread: paho's `loop_stop` races with its own
        assert client.loop(0.1) == mqtt.MQTT_ERR_SUCCESS and time.monotonic() < give_up
    client.disconnect()


def _connects(client: object, port: int) -> bool:
    try:
        client.connect("127.0.0.1", port)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def test_no_reading_is_lost_although_the_bridge_is_killed(
    kafka: KafkaServer, create_topic: CreateTopic, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    topic = create_topic()
    tour = Tour(tmp_path / "plant", kafka.bootstrap_servers)
    tour.write(ROOT / "docs" / "extend" / "mqtt.md")
    environment = {
        **tour.environment,
        "TOPIC": topic,
        "KAFKA": kafka.bootstrap_servers,
        "MQTT_PORT": str(mosquitto.port),
    }
    found = list[tuple[bytes | None, int]]()
    tp = TopicPartition(topic, 0)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "bridge.py"], cwd=tour.folder, env=environment)

    def arrived(consumer: KafkaConsumer, least: int) -> bool:
        for record in consumer.poll(100).get(tp, []):
            found.append((record.key, json.loads(record.value)["n"]))
        return len({n for _, n in found}) >= least

    with clients.consumer({"bootstrap_servers": kafka.bootstrap_servers}) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        _publish(mosquitto.port, 0, 1)  # waits until the broker runs
        bridge = start()
        until(lambda: _publish(mosquitto.port, 0, 1) or arrived(consumer, 1), "the bridge to have subscribed", 60)
        _publish(mosquitto.port, 1, READINGS // 2)
        bridge.kill()  # with readings on their way
        bridge.wait()
        _publish(mosquitto.port, READINGS // 2, READINGS)  # kept by the broker meanwhile
        bridge = start()
        try:
            until(lambda: arrived(consumer, READINGS), "each reading to arrive", 60)
        finally:
            bridge.kill()
            bridge.wait()
    assert {n for _, n in found} == set(range(READINGS))
    assert {(key, n % 3) for key, n in found} == {(f"mill-{m}".encode(), m) for m in range(3)}
    first = list(dict.fromkeys(n for _, n in found))
    for machine in range(3):
        own = [n for n in first if n % 3 == machine]
        assert own == sorted(own)
