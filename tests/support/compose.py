"""Run one of the compose files in docker/ as a project with a unique name."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Project:
    """The services of compose files.

    Args:
        environment: Environment variables with which Docker clients reach the engine.
        program: The command of Docker Compose.
        files: The compose files; later ones override earlier ones.
        port: Port of the viewer on the loopback interface.
        profile: A profile to start, if any.
    """

    def __init__(
        self,
        environment: dict[str, str],
        program: Sequence[str],
        files: Sequence[Path],
        port: int,
        profile: str | None = None,
    ) -> None:
        self.name = "t" + uuid.uuid4().hex[:8]
        self.port = port
        self._environment = environment
        chosen = ["--profile", profile] if profile else []
        named = [option for file in files for option in ("-f", str(file))]
        self._command = [*program, "-p", self.name, *chosen, *named]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command of Docker Compose."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def get(self, path: str) -> Any:
        """Return the response of the viewer's API, also with an error status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def ready(self) -> bool:
        """Return whether all cameras are watched."""
        with suppress(OSError, ValueError):
            return bool(self.get("/readyz")["ready"])
        return False

    def container(self, service: str) -> str:
        """Return the container's id."""
        return self.run("ps", "-q", "-a", service).strip()

    def topics(self) -> dict[str, str]:
        """Return the broker's retained topics."""
        listen = ("mosquitto_sub", "-t", "tridetr/#", "-v", "--retained-only", "-W", "3")
        # mosquitto_sub exits with an error when its time is over
        text = self.run("exec", "-T", "broker", *listen, check=False)
        return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
