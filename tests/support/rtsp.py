"""Run ``rtsp_server.py`` on a port that stays the same across restarts."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")


class RtspServer:
    """GStreamer's RTSP server in a separate process, on a fixed port."""

    def __init__(self, *arguments: str | Path) -> None:
        self.arguments = [str(argument) for argument in arguments]  # for the next start
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/video"

    def start(self) -> None:
        file, *options = self.arguments
        command = [SYSTEM_PYTHON, str(SERVER), file, str(self.port), *options]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("port "), f"the RTSP server printed {line!r}"
        self.port = int(line.split()[1])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@contextlib.contextmanager
def rtsp_server(*arguments: str | Path) -> Iterator[RtspServer]:
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); "
        "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
        "import sys; sys.exit(not Gst.ElementFactory.find('rtph264pay'))"
    )
    found = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip(
            "no GStreamer RTSP server: apt install gir1.2-gst-rtsp-server-1.0 python3-gi "
            "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
        )
    server = RtspServer(*arguments)
    try:
        server.start()
        yield server
    finally:
        server.kill()
