"""A TCP relay that stands for a link that is too slow, with a proxy that stores data at its far end or without one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_TURN_S = 0.01
_KEPT = 4096  # bytes that a relay without storage keeps, apart from the systems' own buffers


class SlowLink:
    """Forwards connections to a port on the loopback interface; all of them share the rate.

    Attributes:
        port: Where to connect to.
        rate: Bytes per second to the clients.
        stores: Whether it takes all that the server sends, and stores what the link does not carry yet.
    """

    def __init__(self, target: int, rate: float, *, stores: bool) -> None:
        self.rate = rate
        self.stores = stores
        self._target = target
        self._lock = threading.Lock()
        self._free_s = 0.0  # when the link has carried what was given to it
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends a waiting `accept`
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket()
            if not self.stores:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KEPT)
            try:
                far.connect(("127.0.0.1", self._target))
            except OSError:  # the server has stopped
                near.close()
                far.close()
                continue
            with self._lock:
                self._open |= {near, far}
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        data = bytearray()
        changed = threading.Condition()
        ended = threading.Event()

        def take() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set() and (more := far.recv(_KEPT)):
                    with changed:
                        data.extend(more)
                        changed.notify_all()
                        while not self.stores and len(data) > _KEPT and not ended.is_set():
                            changed.wait(0.1)
            end()

        def send() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with changed:
                        while not data and not ended.is_set():
                            changed.wait(0.1)
                        part = bytes(data[: max(1, round(self.rate * _TURN_S))])
                        del data[: len(part)]
                        changed.notify_all()
                    if not part:
                        break
                    self._wait(len(part))
                    near.sendall(part)
            end()
            near.close()
            far.close()

        def end() -> None:
            """End both directions; what has been taken is still sent."""
            ended.set()
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)

        for work in (take, send):
            threading.Thread(target=work, daemon=True).start()
        with contextlib.suppress(OSError):
            while request := near.recv(_KEPT):
                far.sendall(request)
        end()
        with changed:
            data.clear()

    def _wait(self, size: int) -> None:
        """Wait until the link carries this many bytes."""
        with self._lock:
            self._free_s = max(self._free_s, time.monotonic()) + size / self.rate
            free_s = self._free_s
        time.sleep(max(0.0, free_s - time.monotonic()))


@contextlib.contextmanager
def slow_link(target: int, rate: float, *, stores: bool) -> Iterator[SlowLink]:
    link = SlowLink(target, rate, stores=stores)
    try:
        yield link
    finally:
        link.close()
