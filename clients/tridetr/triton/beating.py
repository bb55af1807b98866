"""Long work that does not make the process look dead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from tridetr.telemetry import heartbeat


def beating(work: Callable[[], None]) -> None:
    """Do something that may take seconds, while the heartbeat goes on; raises what it raises."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not wait([future], timeout=0.5).done:
            heartbeat.beat()
        future.result()
