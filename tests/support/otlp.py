"""An OTLP/HTTP receiver that accepts protobuf (Python exporter) and JSON (Triton), and keeps the spans."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Span:
    """One span; ids as lower-case hexadecimal digits, times as Unix nanoseconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class Collector(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface.

    Attributes:
        spans: All received spans.
        refuse: While set, requests are answered with 503.
        body: The body of the other answers, compressed with gzip.
        requests: Number of requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.refuse = False
        self.body = b""
        self.requests = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        """The value for ``otel.endpoint``."""
        return f"http://127.0.0.1:{self.server_port}"

    def traces(self) -> dict[str, list[Span]]:
        """Return the spans, grouped by trace."""
        found: dict[str, list[Span]] = {}
        for span in list(self.spans):
            found.setdefault(span.trace, []).append(span)
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        if self.server.refuse or self.path != "/v1/traces":
            self.send_response(503 if self.server.refuse else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parse = _from_json if "json" in self.headers["Content-Type"] else _from_protobuf
        self.server.spans += parse(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        if self.server.body:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


def _from_protobuf(body: bytes) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    spans = []
    for resource in request.resource_spans:
        about = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                facts = {
                    item.key: getattr(item.value, item.value.WhichOneof("value"))
                    for item in span.attributes
                }
                spans.append(
                    Span(
                        about["service.name"],
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        facts,
                    )
                )
    return spans


def _from_json(body: bytes) -> list[Span]:
    def facts(items: list[dict[str, Any]]) -> dict[str, Any]:
        return {item["key"]: next(iter(item["value"].values())) for item in items}

    spans = []
    for resource in json.loads(body)["resourceSpans"]:
        service = facts(resource["resource"]["attributes"])["service.name"]
        for scope in resource["scopeSpans"]:
            spans += [
                Span(
                    service,
                    span["name"],
                    span["traceId"].lower(),
                    span["spanId"].lower(),
                    span.get("parentSpanId", "").lower(),
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    facts(span.get("attributes", [])),
                )
                for span in scope["spans"]
            ]
    return spans


@contextlib.contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a receiver."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        collector.server_close()
        thread.join()
