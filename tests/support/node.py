"""Run a whole node with ``tridetr up``, on free ports and with a unique instance name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from support.mosquitto import free_port
from support.waiting import wait_for
from tridetr.shm.names import list_instance, list_queues
from tridetr.supervisor import orphans


class Node:
    """A running ``tridetr up``.

    Attributes:
        config: Its configuration.
        process: The supervisor.
    """

    def __init__(self, folder: Path, cameras: dict[str, Any], **sections: Any) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {
            "instance": "t" + uuid.uuid4().hex[:10],
            "cameras": cameras,
            "mqtt": {"host": "embedded", "port": 0},
            "gateway": {"host": "127.0.0.1", "port": free_port()},
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "state"),
            **sections,
        }
        self.instance: str = self.config["instance"]
        self.file = folder / "node.yaml"
        self.log = folder / "node.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the viewer."""
        return f"http://127.0.0.1:{self.config['gateway']['port']}"

    def start(self, *options: str) -> None:
        """Start it."""
        self.file.write_text(yaml.safe_dump(self.config))
        argv = [
            sys.executable,
            "-m",
            "tridetr",
            "up",
            "--config",
            str(self.file),
            "--json",
            *options,
        ]
        with self.log.open("ab") as log, (self.folder / "summary.json").open("wb") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=log, stdin=subprocess.DEVNULL)

    def finish(self, within_s: float = 120) -> dict[str, Any]:
        """Wait until it ends without being stopped; return its summary."""
        assert self.process
        code = self.process.wait(within_s)
        assert code == 0, self.log_tail()
        return self.summary()

    def stop(self, within_s: float = 60) -> dict[str, Any]:
        """Stop it like Ctrl-C; return its summary."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        self.process.wait(within_s)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """Return the summary that it printed."""
        text = (self.folder / "summary.json").read_text()
        assert text, self.log_tail()
        return dict(json.loads(text))

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-6000:]

    def children(self) -> dict[str, psutil.Process]:
        """Return the processes of the node by their role, such as ``capture hall`` or ``detect``."""
        assert self.process
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    words = child.cmdline()
                    name = " ".join(words)
                    if "tridetr.role" in words:
                        start = words.index("tridetr.role") + 1
                        name = " ".join(words[start:]).split(" --config")[0]
                    elif "mosquitto" in name:
                        name = "broker"
                    elif "triton_python_backend_stub" in name:
                        name = "stub"
                    elif "bin/tritonserver" in name:
                        name = "tritonserver"
                    found[name] = child
        return found

    def get(self, path: str) -> bytes:
        """Fetch a path from the gateway."""
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return bytes(answer.read())

    def cameras(self) -> dict[str, Any]:
        """Return the cameras of ``/api/cameras`` by name; empty while the gateway does not answer."""
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(self.get("/api/cameras"))
            rows = data["cameras"] if isinstance(data, dict) else data
            return {row["name"]: row for row in rows}
        return {}

    def leftovers(self) -> list[str]:
        """Return the segments and queues that still exist."""
        return [str(path) for path in list_instance(self.instance)] + list_queues(self.instance)


@contextlib.contextmanager
def running_node(
    folder: Path, cameras: dict[str, Any], *options: str, **sections: Any
) -> Iterator[Node]:
    """Run a node; at the end, check that it left nothing behind."""
    node = Node(folder, cameras, **sections)
    node.start(*options)
    assert node.process
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(60)
        if node.process.poll() is None:
            os.kill(node.process.pid, signal.SIGKILL)
            node.process.wait()
    assert not node.leftovers(), node.log_tail()
    # By their mark, not by their parent, which an orphan no longer has
    wait_for(lambda: not orphans.find(folder / "run"), 30, f"alive: {orphans.find(folder / 'run')}")
