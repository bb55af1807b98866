"""Run an HTTP server as the target of notifications: it accepts, fails, stalls, redirects or trickles."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class WebhookServer:
    """The server.

    Attributes:
        mode: how it answers the next request: `ok`, `stall`, `trickle`, `endless` (headers without an end), or a
            status such as `500`.
        interim: status that it sends before the actual answer, such as 103; 0 = none.
        asked: all requests, in order of arrival.
        taken: those that were answered with 200.
    """

    def __init__(self) -> None:
        self.mode = "ok"
        self.location = ""
        self.interim = 0
        self.refuse: Callable[[Request], bool] = lambda _request: False
        self.refusal = "413"
        self.asked: list[Request] = []
        self.taken: list[Request] = []
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._handle(self)

            def do_GET(self) -> None:
                outer._handle(self)

            def log_message(self, *_arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/s3cret-path?token=s3cret-query"

    def ids(self) -> list[str]:
        """Return the ids of the accepted events, without repeats."""
        return list(dict.fromkeys(request.headers["webhook-id"] for request in self.taken))

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.path, headers, body)
        mode = self.refusal if self.refuse(request) else self.mode
        self.asked.append(request)
        if mode == "stall":
            self._closing.wait()
            return
        if mode in ("trickle", "endless"):
            with contextlib.suppress(OSError):
                if mode == "endless":
                    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                while not self._closing.wait(0.05):
                    handler.wfile.write(b"H")
            return
        if mode == "ok":
            self.taken.append(request)
        with contextlib.suppress(OSError):
            if self.interim:
                handler.send_response_only(self.interim)
                handler.send_header("Link", "</style.css>")
                handler.end_headers()
            handler.send_response(200 if mode == "ok" else int(mode))
            if self.location:
                handler.send_header("Location", self.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def running_webhooks() -> Iterator[WebhookServer]:
    """Run a server while the context is open."""
    server = WebhookServer()
    try:
        yield server
    finally:
        server.close()
