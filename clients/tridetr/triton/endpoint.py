"""Where the inference server of this node answers: a small file in the run directory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tridetr.config import Config
from tridetr.files import write_text

FILE_NAME = "triton.json"
SECRET_KEY = "tridetr"  # noqa: S105  (the header's name, not its value)
SECRET_HEADER = f"triton-grpc-protocol-{SECRET_KEY}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A gRPC target with what is needed to use its restricted APIs.

    Attributes:
        address: the target.
        secret_file: file with the key of the restricted APIs.
        pid: the embedded server's process.
        engine_report: file in which the engine describes itself.
        metrics_port: port of the embedded server's metrics on loopback; 0 = none.
    """

    address: str
    secret_file: str | None = None
    pid: int | None = None
    engine_report: str | None = None
    metrics_port: int = 0

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the gRPC headers for the restricted APIs (read anew: the secret may change)."""
        if self.secret_file is None:
            return ()
        try:
            return ((SECRET_HEADER, Path(self.secret_file).read_text().strip()),)
        except OSError:
            return ()  # the server's refusal tells the rest


def endpoint_of(config: Config) -> Endpoint | None:
    """Return where to connect: the configured server, or the embedded one once it is there."""
    secret = config.triton.secret_file
    if config.triton.url is not None:
        address = config.triton.url.removeprefix("grpc://")
        return Endpoint(address, str(secret) if secret else None)
    return read_endpoint(config.run_dir)


def read_endpoint(run_dir: Path) -> Endpoint | None:
    """Return the embedded server's endpoint, or None while there is none."""
    try:
        fields = json.loads((run_dir / FILE_NAME).read_text())
        return Endpoint(**fields)
    except (OSError, ValueError, TypeError):
        return None


def write_endpoint(run_dir: Path, endpoint: Endpoint) -> None:
    """Publish the endpoint in one step, readable by the owner only."""
    write_text(run_dir / FILE_NAME, json.dumps(asdict(endpoint)))


def remove_endpoint(run_dir: Path) -> None:
    """Take the endpoint back (the server is gone)."""
    (run_dir / FILE_NAME).unlink(missing_ok=True)
