"""A collector of OpenTelemetry's spans, by OTLP over HTTP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Collects spans while in the `with` block. `answer` is the status of its answers; while `open` is unset, it does not answer.

    Attributes:
        spans: those of requests with status 200, each with its resource's attributes.
        requests: headers of each request, by names in lower case, and its `path`.
    """

    def __init__(self, answer: int = 200) -> None:
        self.answer, self.open = answer, threading.Event()
        self.open.set()
        self.spans, self.requests = list[tuple[Any, dict[str, str]]](), list[dict[str, str]]()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                collector.requests.append({**headers, "path": self.path})
                collector.open.wait(60)
                if collector.answer == 200:
                    collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """The address that settings name."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: Any) -> None:
        for found in request.resource_spans:
            resource = attributes(found.resource)
            self.spans += [(span, resource) for scope in found.scope_spans for span in scope.spans]


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in of.attributes}
