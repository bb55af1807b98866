"""The address of the inference server of this node, published in a small file in the run folder."""

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
    """The gRPC address of a server, and the key for its restricted APIs.

    Attributes:
        address: the gRPC target.
        secret_file: file that contains the key of the restricted APIs.
        pid: process ID of the embedded server.
        engine_report: file in which the engine describes itself.
        metrics: Unix socket, or loopback port, on which the embedded server answers HTTP requests for its metrics.
    """

    address: str
    secret_file: str | None = None
    pid: int | None = None
    engine_report: str | None = None
    metrics: str | int | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the gRPC headers for the restricted APIs; the secret is read each time, since it may change."""
        if self.secret_file is None:
            return ()
        try:
            return ((SECRET_HEADER, Path(self.secret_file).read_text().strip()),)
        except OSError:
            return ()  # the server rejects the request, and its error is reported


def endpoint_of(config: Config) -> Endpoint | None:
    """Return the endpoint of the configured server, or of the embedded one; None while that is not running."""
    secret = config.triton.secret_file
    if config.triton.url is not None:
        address = config.triton.url.removeprefix("grpc://")
        return Endpoint(address, str(secret) if secret else None)
    return read_endpoint(config.run_dir)


def read_endpoint(run_dir: Path) -> Endpoint | None:
    """Return the embedded server's endpoint; None while it is not running."""
    try:
        fields = json.loads((run_dir / FILE_NAME).read_text())
        return Endpoint(**fields)
    except (OSError, ValueError, TypeError):
        return None


def write_endpoint(run_dir: Path, endpoint: Endpoint) -> None:
    """Publish the endpoint atomically, readable by the owner only."""
    write_text(run_dir / FILE_NAME, json.dumps(asdict(endpoint)))


def remove_endpoint(run_dir: Path) -> None:
    """Withdraw the endpoint: the server is not available any more."""
    (run_dir / FILE_NAME).unlink(missing_ok=True)
