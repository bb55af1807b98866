"""The metrics of a whole node on one page: those of its processes and those of the embedded Triton."""

from __future__ import annotations

import contextlib
import urllib.request

from tridetr.config import Config
from tridetr.telemetry.process_files import render_all
from tridetr.triton.endpoint import read_endpoint

_TIMEOUT_S = 1.0  # Triton is on this machine; without it the page shows the rest


def render_node(config: Config) -> bytes:
    """Return the page in Prometheus text format.

    The embedded Triton answers on loopback only, so that whoever scrapes the gateway gets it here. An external one
    is scraped by itself.
    """
    page = render_all(config.run_dir / "metrics")
    endpoint = read_endpoint(config.run_dir) if config.triton.url is None else None
    if endpoint is not None and endpoint.metrics_port:
        with contextlib.suppress(OSError):
            page += _fetch(f"http://127.0.0.1:{endpoint.metrics_port}/metrics")
    return page


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        page = bytes(answer.read())
    return page if page.endswith(b"\n") else page + b"\n"
