"""Run a node in which every frame is traced and Triton's own metrics are on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.node import Node, running_node
from support.otlp import Collector, running_collector
from support.waiting import wait_for

CAMERAS = {"street": {"source": "synthetic", "width": 640, "height": 360, "fps": 8}}


@dataclass
class Watched:
    """A node and the receiver of its traces."""

    node: Node
    collector: Collector


@contextlib.contextmanager
def running_watched_node(folder: Path) -> Iterator[Watched]:
    """Run a node; yield it when its first frame has been decided on."""
    url_file = folder / "webhook"
    url_file.write_text("http://127.0.0.1:9/\n")  # nothing listens there
    with running_collector() as collector:
        with running_node(
            folder,
            CAMERAS,
            otel={"endpoint": collector.endpoint, "sample_ratio": 1.0},
            detect={"motion_gate_s": 0},  # so that each trace has an inference
            evidence={},
            notify=[
                {"name": "phone", "kind": "webhook", "url_file": str(url_file), "events": ["lost"]}
            ],
        ) as node:
            wait_for(
                lambda: any(span.name == "decide" for span in list(collector.spans)),
                170,
                f"nothing was decided: {node.log_tail()}",
            )
            yield Watched(node, collector)
