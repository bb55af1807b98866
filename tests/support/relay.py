"""A TCP relay between a client and its server that can cut connections, damage and forbid data."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Forwards connections to a port; ``cut`` closes them and refuses new ones until ``mend``."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._whole = True
        self.damage = 0.0  # share of the bytes to the client that are replaced
        self.forbidden = b""  # the connection ends when the client sends it
        self._random = random.Random(5)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections immediately, including data in transit."""
        with self._lock:
            self._whole = False
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        """Accept new connections again."""
        with self._lock:
            self._whole = True

    @property
    def connections(self) -> int:
        """Number of connected clients."""
        with self._lock:
            return len(self._open) // 2

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                    far.settimeout(None)  # the 5 s are only the limit for connecting
                except OSError:
                    near.close()
                    continue
                self._open |= {near, far}
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._pump, args=(far, near, True), daemon=True)
            back.start()
            self._pump(near, far, False)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, damaged: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.forbidden and not damaged and self.forbidden in data:
                    break
                sink.sendall(self._damaged(data) if damaged and self.damage else data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}

    def _damaged(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(max(1, round(len(data) * self.damage))):
            changed[self._random.randrange(len(data))] = self._random.randrange(256)
        return bytes(changed)


@contextlib.contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """Run a relay for the duration of a test."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
