"""A network camera for the soak: H.264 in an endless MPEG-TS stream over HTTP, decoded by capture like a real one."""

from __future__ import annotations

import http.server
import io
import threading
import time
from fractions import Fraction

import av
import numpy as np

from tridetr_demo.scene import SyntheticCamera

_SECONDS = 10


class NetworkCamera:
    """Serves one stream per connection until it is closed.

    Args:
        width: Width of the pictures.
        height: Height of the pictures.
        fps: Pictures per second.

    Attributes:
        url: Address of the stream.
    """

    def __init__(self, width: int, height: int, fps: int) -> None:
        stream, slices = _encoded(width, height, fps), _SECONDS * fps
        size = -(-len(stream) // slices)
        parts = [stream[n * size : (n + 1) * size] for n in range(slices)]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                try:
                    while True:
                        for part in parts:
                            self.wfile.write(part)
                            time.sleep(1 / fps)
                except OSError:
                    return  # the node has ended, or connects again

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _encoded(width: int, height: int, fps: int) -> bytes:
    """Return some seconds of the demo's street as MPEG-TS."""
    scene = SyntheticCamera(width, height, seed=7, scene="street")
    planes = np.empty((height * 3 // 2, width), np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(2 * fps)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(_SECONDS * fps):
            scene.draw(number / fps, planes)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
