"""A frame that carries a trace context appears as a span of the server in that trace."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from support.data import ORACLE, shared
from support.triton import SharedFrame, running_triton, triton_config
from support.waiting import wait_for
from tridetr.triton.client import TritonClient

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(HTTPServer):
    """Keeps what an OTLP exporter posts."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Receiver)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in body["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.server.spans += scope["spans"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


async def test_a_traced_frame_becomes_spans(tmp_path: Path) -> None:
    collector = Collector()
    base = triton_config(tmp_path, shared(*ORACLE))
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    config = base.model_copy(update={"otel": base.otel.model_copy(update={"endpoint": endpoint})})
    try:
        with running_triton(config) as triton:
            await asyncio.to_thread(triton.endpoint)
            async with TritonClient(config) as client:
                with SharedFrame(config.instance, 64, 48) as slot:
                    await client.register(slot.frame.region)
                    await client.infer(slot.frame)
                    # gRPC on 2.51 loses some of the parents, so more than one is sent.
                    for number in range(12):
                        parent = f"00-{TRACE}-{number + 1:016x}-01"
                        await client.infer(slot.frame, request_id=TRACE, traceparent=parent)
                    await client.unregister(slot.frame.region)
            await asyncio.to_thread(wait_for, lambda: collector.spans, 20, "spans")
    finally:
        collector.shutdown()
        collector.server_close()
    assert {span["traceId"].lower() for span in collector.spans} == {TRACE}
