"""Container engines, and substitutes for base images if no registry can be reached."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.waiting import wait_for
from tridetr import __version__

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "docker.io/library/python:3.12-slim-bookworm"
CLIENT, TRITON = f"tridetr:{__version__}", f"tridetr-triton-cpu:{__version__}"
MOSQUITTO = "docker.io/library/eclipse-mosquitto:2.0.22"

_MOSQUITTO_STANDIN = f"""
FROM {PYTHON}
RUN apt-get update && apt-get install --yes --no-install-recommends mosquitto mosquitto-clients
RUN printf 'listener 1883\\nallow_anonymous true\\n' > /mosquitto-no-auth.conf
USER mosquitto
CMD ["mosquitto", "-c", "/mosquitto-no-auth.conf"]
"""


class Engine:
    """Podman or Docker, by its command line.

    Args:
        program: `podman` or `docker`.
        folder: For configuration and sockets of this run.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self._folder = folder
        self._environment = dict(os.environ)
        if program == "podman":
            configuration = folder / "containers.conf"
            # runc, because crun does not support hybrid cgroups; lower limits, because an unprivileged host refuses the
            # defaults
            configuration.write_text(
                "[containers]\n"
                'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
                f'[engine]\nruntime = "{"runc" if shutil.which("runc") else "crun"}"\n'
            )
            self._environment["CONTAINERS_CONF"] = str(configuration)

    def run(self, *arguments: str, check: bool = True, timeout: float = 900) -> str:
        """Run a command of the engine and return what it prints.

        Raises:
            RuntimeError: The command failed; the message contains its output.
        """
        done = subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.program} {' '.join(arguments)} failed with {done.returncode}:\n"
                f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done.stdout

    def works(self) -> bool:
        """Return whether containers can be run at all."""
        try:
            self.run("info", timeout=60)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            return False
        return True

    def build(self, dockerfile: Path, tag: str, context: Path = ROOT) -> None:
        """Build an image, with the host's certificates, for registries behind a proxy."""
        trust = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"] if self.program == "podman" else []
        self.run(
            *("build", "--network", "host", *trust, "--file", str(dockerfile), "--tag", tag),
            str(context),
            timeout=1500,
        )

    def has_image(self, name: str) -> bool:
        """Return whether the image is stored here."""
        return bool(self.run("images", "--quiet", name).strip())

    def size_mb(self, name: str) -> float:
        """Return the unpacked size of an image in MB."""
        return float(json.loads(self.run("image", "inspect", name))[0]["Size"]) / 1e6

    def inspect(self, container: str) -> dict[str, Any]:
        """Return the engine's description of a container."""
        found: dict[str, Any] = json.loads(self.run("container", "inspect", container))[0]
        return found

    def need_base_images(self) -> None:
        """Pull the base images; if no registry can be reached, build substitutes from Debian packages."""
        if not self._pulled(PYTHON):
            _import_debian(self, PYTHON, self._folder)
        if not self._pulled(MOSQUITTO):
            dockerfile = self._folder / "mosquitto.Dockerfile"
            dockerfile.write_text(_MOSQUITTO_STANDIN)
            self.build(dockerfile, MOSQUITTO, self._folder)

    def _pulled(self, name: str) -> bool:
        if self.has_image(name):
            return True
        try:
            self.run("pull", "--quiet", name, timeout=120)
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return True

    @contextmanager
    def docker_host(self) -> Iterator[dict[str, str]]:
        """Yield environment variables with which Docker clients reach this engine."""
        if self.program == "docker":
            yield self._environment
            return
        address = self._folder / "engine.sock"
        with subprocess.Popen(
            [self.program, "system", "service", "--time", "0", f"unix://{address}"],
            env=self._environment,
            stderr=subprocess.DEVNULL,
        ) as service:
            try:
                wait_for(lambda: _listens(address), 60, "podman's service listens")
                yield self._environment | {"DOCKER_HOST": f"unix://{address}"}
            finally:
                service.terminate()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _import_debian(engine: Engine, tag: str, folder: Path) -> None:
    """Import a bare Debian with its Python as an image with this tag."""
    tree = folder / "debian"
    packages = "ca-certificates,python3,python3-venv,libpython3.11"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree)],
        check=True,
        capture_output=True,
        timeout=900,
    )
    (tree / "usr/bin/python").symlink_to("python3")
    for cache in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(tree / cache)
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
    archive = folder / "debian.tar"
    subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True, timeout=300)
    shutil.rmtree(tree)
    engine.run("import", str(archive), tag)
    archive.unlink()


def compose_command() -> Sequence[str] | None:
    """Return the command of Docker Compose; None if it is not installed."""
    for program in (shutil.which("docker-compose"), str(ROOT / "build/docker-compose")):
        if program and Path(program).exists():
            return [program]
    plugins = ("/usr/libexec", "/usr/lib", "/usr/local/lib", "/usr/local/libexec")
    for folder in plugins:
        plugin = Path(folder) / "docker/cli-plugins/docker-compose"
        if plugin.exists():
            return [str(plugin)]
    return None
