"""Fetching a file so that it is whole and right, or not there: resumable, checked, atomic."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tridetr import __version__
from tridetr.errors import ModelError

CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 3.0
_CHUNK = 1 << 18
_ALGORITHMS = {"sha256": 64, "md5": 32}

Progress = Callable[[int, int | None], None]
"""Called with the bytes there are so far and the total, None where the server does not say."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """``sha256:<hex>`` or ``md5:<hex>`` (some publishers give only the latter)."""

    algorithm: str
    hexdigest: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Parse ``algorithm:hex``.

        Raises:
            ModelError: unknown algorithm or no such digest.
        """
        algorithm, _, digest = text.partition(":")
        digest = digest.lower()
        if len(digest) != _ALGORITHMS.get(algorithm) or set(digest) - set("0123456789abcdef"):
            raise ModelError(f"{text!r} is no checksum: expected sha256:<64 hex> or md5:<32 hex>")
        return cls(algorithm, digest)

    def of(self, path: Path) -> str:
        """Return the file's digest in this algorithm."""
        with path.open("rb") as file:
            digest = hashlib.new(self.algorithm, usedforsecurity=False)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexdigest}"


def download(
    url: str, target: Path, checksum: Checksum, progress: Progress = lambda done, total: None
) -> Path:
    """Fetch ``url`` to ``target``; a file that is there and right is not fetched again.

    What arrives goes to ``<target>.part``; a broken transfer goes on where it stopped the next time,
    provided the server still has the same file. Only a file with the right checksum becomes
    ``target``.

    Raises:
        ModelError: the server cannot be reached (at once when offline), refuses, breaks off, or
            sends something else than was announced.
    """
    if target.is_file() and checksum.of(target) == checksum.hexdigest:
        return target
    if not urllib.request.getproxies():  # a proxy resolves names itself
        require_host(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _locked(part):
        _transfer(url, part, progress)
        actual = checksum.of(part)
        if actual != checksum.hexdigest:
            _discard(part)
            raise ModelError(
                f"{url} has the checksum {checksum.algorithm}:{actual}, expected {checksum}: not "
                "installed. Either the file was changed at its source or on the way."
            )
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)
    return target


def _transfer(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    validator = _read_validator(part, url)
    request = urllib.request.Request(url, headers={"User-Agent": f"tridetr/{__version__}"})  # noqa: S310
    if have and validator:
        # Without a validator the rest could be that of another file.
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as response:  # noqa: S310
            resumed = response.status == 206
            have = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            _write_validator(part, url, response.headers.get("ETag"))
            with part.open("ab" if resumed else "wb") as file:
                have = _copy(response, file, have, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to send: the checksum decides
            return
        raise ModelError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise ModelError(_unreachable(url, error, part)) from error
    if total is not None and have < total:
        raise ModelError(
            f"{url} broke off after {have} of {total} bytes: nothing was installed; the same command "
            "goes on where it stopped"
        )


def require_host(url: str) -> None:
    """Say at once that this machine is offline (the resolver's own patience is 10 s and more).

    Raises:
        ModelError: the host's name cannot be resolved in time.
    """
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    failure: list[OSError] = [TimeoutError(f"no answer within {RESOLVE_TIMEOUT_S:.0f} s")]

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            failure.clear()
        except OSError as error:
            failure[:] = [error]

    # A daemon: the resolver cannot be told to stop.
    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVE_TIMEOUT_S)
    if failure:
        raise ModelError(
            f"{host} cannot be found ({failure[0].strerror or failure[0]}): this machine is offline or "
            "has no DNS. Fetch the file elsewhere and install it with `tridetr models install FILE`."
        )


def _copy(
    response: BinaryIO, file: BinaryIO, have: int, total: int | None, progress: Progress
) -> int:
    progress(have, total)
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        have += len(chunk)
        progress(have, total)
    return have


def _unreachable(url: str, error: Exception, part: Path) -> str:
    host = urllib.parse.urlsplit(url).netloc or url
    reason = getattr(error, "reason", error)
    kept = "; what arrived is kept, the same command goes on" if part.exists() else ""
    return f"{host} cannot be reached ({reason}){kept}. Offline?"


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path, url: str) -> str | None:
    try:
        noted = json.loads(_validator_file(part).read_text())
    except (OSError, json.JSONDecodeError):
        return None
    etag = noted.get("etag") if isinstance(noted, dict) and noted.get("url") == url else None
    return str(etag) if etag else None


def _write_validator(part: Path, url: str, etag: str | None) -> None:
    # Weak validators promise no equal bytes.
    strong = etag if etag and not etag.startswith("W/") else None
    _validator_file(part).write_text(json.dumps({"url": url, "etag": strong}))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    lock = os.open(part.with_name(part.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"another process is fetching {part.with_suffix('').name}") from None
        yield
    finally:
        os.close(lock)
