"""Fetching a file so that it is whole and right, or not there: resumable, bounded, checked, atomic.

`pooch` cannot resume and `huggingface_hub` only fetches from its own hub, so this is urllib with a range request.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tridetr import __version__
from tridetr.errors import ModelError
from tridetr.file_lock import FileLock, FileLockedError

CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 3.0
MAX_BYTES = 4 << 30  # of a file whose size the catalogue does not give
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


def check_address(url: str) -> None:
    """Refuse addresses from which nothing is fetched: all but https://, and http:// on this machine.

    Raises:
        ModelError: It is such an address.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not local:
        raise ModelError(
            f"{url}: models and catalogues are fetched over https:// only, since anybody on the way could replace "
            "what plain HTTP brings. Remedy: an https:// address, or fetch the file yourself"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_address(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Open an address for reading; redirects lead to allowed addresses only.

    Raises:
        ModelError: The address is refused, or the machine is offline.
        OSError: The server cannot be reached, or answers with an error (`urllib.error`).
    """
    check_address(url)
    # A proxy resolves names itself; `no_proxy` alone names none.
    if not urllib.request.getproxies().keys() - {"no"}:
        require_host(url)
    request = urllib.request.Request(url)  # noqa: S310
    for name, value in {"User-Agent": f"tridetr/{__version__}", **(headers or {})}.items():
        request.add_header(name, value)
    return urllib.request.build_opener(_Redirects).open(request, timeout=CONNECT_TIMEOUT_S)


def download(
    url: str,
    target: Path,
    checksum: Checksum,
    progress: Progress = lambda done, total: None,
    *,
    limit: int = MAX_BYTES,
) -> Path:
    """Fetch ``url`` to ``target``; a file that is there and right is not fetched again.

    What arrives goes to ``<target>.part``; a broken transfer goes on where it stopped the next time,
    provided the server still has the same file. Only a file with the right checksum becomes
    ``target``.

    Args:
        url: https://, or http:// on this machine.
        target: The file to write.
        checksum: What the file must have.
        progress: Called while bytes arrive.
        limit: Largest size in bytes; more is not stored.

    Raises:
        ModelError: The server cannot be reached (immediately when offline), refuses, breaks off,
            or sends something else or more than was announced; or the disk is full.
    """
    if target.is_file() and checksum.of(target) == checksum.hexdigest:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        lock = FileLock(part.with_name(part.name + ".lock"))
    except FileLockedError:
        raise ModelError(f"another process is fetching {target.name}") from None
    with lock:
        _transfer(url, part, progress, limit)
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


def _transfer(url: str, part: Path, progress: Progress, limit: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    validator = _read_validator(part, url)
    # Without a validator the rest could be that of another file.
    resume = {"Range": f"bytes={have}-", "If-Range": validator} if have and validator else {}
    try:
        with open_address(url, resume) as response:
            resumed = response.status == 206
            have = have if resumed else 0
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdigit() else None
            _check_room(url, part, have, total, limit)
            _write_validator(part, url, response.headers.get("ETag"))
            with part.open("ab" if resumed else "wb") as file:
                have = _copy(response, file, have, total, progress, limit)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing left to send: the checksum decides
            return
        raise ModelError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            _discard(part)
        raise ModelError(_unreachable(url, error, part)) from error
    if have > limit:
        _discard(part)
        raise ModelError(f"{url} is larger than the {limit} bytes that it may have: not installed")
    if total is not None and have < total:
        raise ModelError(
            f"{url} broke off after {have} of {total} bytes: nothing was installed; the same command "
            "goes on where it stopped"
        )


def _check_room(url: str, part: Path, have: int, total: int | None, limit: int) -> None:
    if total is not None and total > limit:
        raise ModelError(
            f"{url} has {total} bytes, more than the {limit} that it may have: not fetched"
        )
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise ModelError(
            f"{url} has {total} bytes, and {part.parent} has room for {free} more. Remedy: make room, or set "
            "XDG_CACHE_HOME to a larger disk"
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
    response: BinaryIO, file: BinaryIO, have: int, total: int | None, progress: Progress, limit: int
) -> int:
    progress(have, total)
    while have <= limit and (chunk := response.read(_CHUNK)):
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
