"""The registry's client: what is fetched once, what is waited for, what is refused, and that no secret is told."""

from __future__ import annotations

import pickle
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.registry import Registry, registry
from tocsin.pipelines.runtime.declare.errors import ConfigError, Refused, TocsinError, Unavailable
from tocsin.pipelines.runtime.formats import schema_registry
from tocsin.pipelines.runtime.formats.rows import RejectedError
from tocsin.pipelines.runtime.formats.schema_registry import SchemaRegistry


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(schema_registry, "PAUSES_S", (0.0, 0.0))
    with registry() as made:
        yield made


def _client(served: Registry, **options: Any) -> SchemaRegistry:
    return SchemaRegistry(url=served.url, **options)


def test_a_schema_is_fetched_once(served: Registry) -> None:
    id = served.add({"type": "string"})
    client = _client(served)
    assert client.schema(id) is client.schema(id)
    assert (client.schema(id).kind, client.schema(id).text) == ("AVRO", '{"type": "string"}')
    assert served.requests == [f"/schemas/ids/{id}"]


def test_the_schemas_that_one_refers_to_come_with_it(served: Registry) -> None:
    served.add("A", subject="deep")
    served.add("B", subject="a/b c", references=[{"name": "A.x", "subject": "deep", "version": 1}])
    id = served.add("C", references=[{"name": "B.x", "subject": "a/b c", "version": 1}])
    found = _client(served).schema(id)
    assert [*found.references] == ["B.x"]
    assert found.references["B.x"].references["A.x"].text == "A"
    assert "/subjects/a%2Fb%20c/versions/1?deleted=true" in served.requests


def test_schemas_that_refer_to_each_other_in_a_circle_are_rejected(served: Registry) -> None:
    id = served.add("A", subject="me", references=[{"name": "me", "subject": "me", "version": 1}])
    with pytest.raises(RejectedError, match="expected at most 20 references in a row"):
        _client(served).schema(id)


def test_an_unknown_schema_is_rejected_and_not_asked_for_again_at_once(
    served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = _client(served)
    for _ in range(3):
        with pytest.raises(RejectedError, match=f"expected schema 7 in the registry {served.url}, got none") as said:
            client.schema(7)
        assert said.value.error == "SchemaUnknown"
    assert len(served.requests) == 1
    monkeypatch.setattr(schema_registry, "UNKNOWN_S", -1.0)
    with pytest.raises(RejectedError):
        client.schema(8)
    for n in range(8):
        served.add(f"schema {n}")
    assert client.schema(8).text == "schema 7"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_registry_that_is_in_trouble_is_waited_for(served: Registry, status: int) -> None:
    id, client = served.add("A"), _client(served)
    served.status = status
    with pytest.raises(Unavailable, match=f"expected an answer, got HTTP {status}.*messages wait until it answers"):
        client.schema(id)
    assert len(served.requests) == 3
    served.status = 0
    assert client.schema(id).text == "A"


def test_a_registry_that_is_down_is_waited_for(served: Registry) -> None:
    with registry() as other:
        url = other.url
    with pytest.raises(Unavailable, match=f"schema registry {url}: expected an answer, got .*refused"):
        SchemaRegistry(url=url).schema(1)


def test_a_registry_that_hangs_is_waited_for_and_asked_once() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = SchemaRegistry(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(Unavailable, match="timed out"):
            client.schema(1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_login_that_is_refused_is_no_outage(served: Registry, status: int) -> None:
    served.status = status
    with pytest.raises(Refused, match=f"expected it to accept the login, got HTTP {status}; correct"):
        _client(served).schema(1)
    assert len(served.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        *((status, None, f"HTTP {status}") for status in (302, 400, 404, 405, 501)),
        (200, b"<html>hello</html>", "18 bytes that are not JSON"),
        (200, b"[1]", "an answer without a schema"),
        (200, b'{"schema": 7}', "an answer without a schema"),
    ],
)
def test_what_is_no_registry_is_refused(served: Registry, status: int, body: bytes | None, said: str) -> None:
    served.status, served.body = status, body
    with pytest.raises(Refused, match=f"expected a registry's answer, got {said}; correct schema_registry.url"):
        _client(served).schema(1)
    assert served.requests == ["/schemas/ids/1"]  # no redirect is followed


def test_it_logs_in_with_a_password_or_a_token(served: Registry) -> None:
    id = served.add("A")
    served.login = f"Basic {b64encode(b'ada:geheim').decode()}"
    assert _client(served, username="ada", password="geheim").schema(id).text == "A"
    served.login = "Bearer geheim"
    assert _client(served, username="ada", password="x", token="geheim").schema(id).text == "A"


@pytest.mark.parametrize("options", [{"username": "ada", "password": "geheim"}, {"token": "geheim"}])
def test_no_error_tells_a_secret(served: Registry, options: dict[str, str]) -> None:
    for status in (200, 302, 401, 404, 500):
        served.status, served.body = status, b"nothing"
        with pytest.raises(TocsinError) as said:
            _client(served, **options).schema(1)
        assert "geheim" not in str(said.value) and b64encode(b"ada:geheim").decode() not in str(said.value)


def test_certificates_that_are_not_pem_are_an_error_in_the_settings(served: Registry) -> None:
    with pytest.raises(ConfigError, match=r"schema_registry\.ssl_cafile: expected certificates in PEM, got"):
        _client(served, certificates="no PEM").schema(1)


def test_it_travels_to_another_process_after_use(served: Registry) -> None:
    id, client = served.add("A"), _client(served)
    client.schema(id)
    assert pickle.loads(pickle.dumps(client)).schema(id).text == "A"


def test_a_check_asks_for_the_types_of_schemas(served: Registry) -> None:
    assert _client(served).check() == f"{served.url}: AVRO, PROTOBUF"
