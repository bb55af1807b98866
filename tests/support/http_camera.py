"""An HTTP camera whose answers are written by a function of the test."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answer = Callable[["Request"], None]


class Request(http.server.BaseHTTPRequestHandler):
    """A request, with methods to answer it."""

    def head(self, content_type: str | None = None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


class HttpCamera:
    """Serves on the loopback interface; `requests` has the path and Authorization header of each request."""

    def __init__(self, answer: Answer, tls: tuple[Path, Path] | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.stopping = threading.Event()
        camera = self

        class Handler(Request):
            def do_GET(self) -> None:
                camera.requests.append((self.path, self.headers.get("Authorization", "")))
                with contextlib.suppress(OSError):
                    answer(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                """Ignore clients that disconnect, also during the TLS handshake: tests do that on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str = "/video", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def http_camera(answer: Answer, tls: tuple[Path, Path] | None = None) -> Iterator[HttpCamera]:
    camera = HttpCamera(answer, tls)
    try:
        yield camera
    finally:
        camera.close()
