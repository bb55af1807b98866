"""A network camera that delivers MJPEG over HTTP; it can be stopped, restarted and made to hang."""

from __future__ import annotations

import base64
import http.server
import socket
import threading
import time
from collections.abc import Sequence

BOUNDARY = "frame"


class MjpegServer:
    """Serves JPEGs in a loop at a fixed rate on the loopback interface.

    Attributes:
        port: Its port, which stays the same across restarts.
        sent: Monotonic times at which the JPEGs were sent, by index in the sequence [ns].
        hang: While set, connections stay open, but nothing is sent.
    """

    def __init__(
        self,
        jpegs: Sequence[bytes],
        *,
        fps: float = 25,
        with_length: bool = True,
        password: str | None = None,
    ) -> None:
        self.jpegs = list(jpegs)
        self.fps = fps
        self.with_length = with_length
        self.password = password
        self.hang = threading.Event()
        self.sent: list[tuple[int, int]] = []
        self.port = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    def start(self) -> None:
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._serve(self)

            def log_message(self, *args: object) -> None:
                """Log nothing."""

        self._stopping.clear()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop like a camera that loses power: all connections break."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._connections.clear()

    def _serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self._connections.append(request.connection)
        if self.password is not None:
            wanted = "Basic " + base64.b64encode(self.password.encode()).decode()
            if request.headers.get("Authorization") != wanted:
                request.send_response(401)
                request.send_header("WWW-Authenticate", 'Basic realm="camera"')
                request.end_headers()
                return
        request.send_response(200)
        request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        request.end_headers()
        index = 0
        due = time.monotonic()
        try:
            while not self._stopping.is_set():
                if self.hang.is_set():
                    self._stopping.wait(0.02)
                    continue
                jpeg = self.jpegs[index % len(self.jpegs)]
                length = f"Content-Length: {len(jpeg)}\r\n" if self.with_length else ""
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n{length}\r\n"
                self.sent.append((index % len(self.jpegs), time.monotonic_ns()))
                request.wfile.write(head.encode() + jpeg + b"\r\n")
                index += 1
                due += 1 / self.fps
                self._stopping.wait(max(0.0, due - time.monotonic()))
        except OSError:
            return
