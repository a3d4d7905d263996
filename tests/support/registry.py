"""A schema registry in the test's process, with the part of Confluent's interface that readers of messages use."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NOT_FOUND = {"error_code": 40403, "message": "Schema not found"}


class Registry:
    """A registry on 127.0.0.1.

    Args:
        status: every request is answered with this HTTP status, if it is set.
        login: the `authorization` header that is expected, if it is set.
        describes: whether descriptors are returned for `format=serialized`; else the text, as older registries do.
    """

    def __init__(self) -> None:
        self.status = 0
        self.body: bytes | None = None
        self.login = ""
        self.describes = True
        self.requests = list[str]()
        self._schemas, self._ids = dict[int, dict[str, Any]](), dict[tuple[str, str], int]()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.requests.append(self.path)
                status, body = registry._answer(self.path, self.headers.get("authorization", ""))
                content = registry.body if registry.body is not None else json.dumps(body).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", f"{registry.url}/elsewhere")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(
        self,
        schema: Any,
        kind: str = "AVRO",
        *,
        subject: str = "",
        references: Sequence[Mapping[str, Any]] = (),
        descriptors: str = "",
    ) -> int:
        """Register a schema and return its id. Under a subject, it is version 1.

        Args:
            descriptors: of a Protobuf schema, in base64.
        """
        id = len(self._schemas) + 1
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self._schemas[id] = {"schema": text, "references": [*references], "descriptors": descriptors}
        if kind != "AVRO":  # the default is left out
            self._schemas[id]["schemaType"] = kind
        if subject:
            self._ids[subject, "1"] = id
        return id

    def options(self, **more: Any) -> dict[str, dict[str, Any]]:
        """The options of formats that use this registry, for `Codec`."""
        return {"schema_registry": {"url": self.url, **more}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, login: str) -> tuple[int, Any]:
        if self.status:
            return self.status, {"error_code": self.status, "message": "as the test wants it"}
        if self.login and login != self.login:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        where = urlsplit(path)
        steps = [unquote(step) for step in where.path.split("/")[1:]]
        match steps:
            case ["schemas", "types"]:
                return 200, ["PROTOBUF", "AVRO"]
            case ["schemas", "ids", number]:
                id = int(number)
            case ["subjects", subject, "versions", version]:
                id = self._ids.get((subject, version), 0)
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        if id not in self._schemas:
            return 404, NOT_FOUND
        found = dict(self._schemas[id])
        descriptors = found.pop("descriptors")
        if parse_qs(where.query).get("format") == ["serialized"]:
            if "schemaType" not in found:
                return 500, {"error_code": 50001, "message": "Unsupported format"}
            found["schema"] = descriptors if self.describes else found["schema"]
        return 200, found if steps[0] == "schemas" else {**found, "id": id, "subject": steps[1], "version": 1}


@contextmanager
def registry() -> Iterator[Registry]:
    """Run a registry."""
    made = Registry()
    try:
        yield made
    finally:
        made.close()


def framed(id: int, body: bytes) -> bytes:
    """A message in Confluent's wire format."""
    return struct.pack(">bi", 0, id) + body
