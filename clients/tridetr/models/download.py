"""Download a file: resumable, with a size limit and a checksum, and atomic.

`pooch` cannot resume downloads and `huggingface_hub` only supports its own hub, so this uses urllib with range
requests.
"""

from __future__ import annotations

import errno
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
from tridetr.files import checksum_of

CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 3.0
MAX_BYTES = 4 << 30  # limit for files without a size in the catalogue
_CHUNK = 1 << 18
_ALGORITHMS = {"sha256": 64, "md5": 32}

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes so far and the total; None if the server does not report the total."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """``sha256:<hex>`` or ``md5:<hex>`` (some publishers provide only the latter)."""

    algorithm: str
    hexdigest: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Parse ``algorithm:hex``.

        >>> str(Checksum.parse("md5:FB6504CCE7FBDC783F7A46991F07639F"))
        'md5:fb6504cce7fbdc783f7a46991f07639f'

        Raises:
            ModelError: the algorithm is unknown or the digest is invalid.
        """
        algorithm, _, digest = text.partition(":")
        digest = digest.lower()
        if len(digest) != _ALGORITHMS.get(algorithm) or set(digest) - set("0123456789abcdef"):
            raise ModelError(
                f"{text!r} is not a checksum: expected sha256:<64 hex digits> or md5:<32 hex digits>"
            )
        return cls(algorithm, digest)

    def of(self, path: Path) -> str:
        """Return the hex digest of a file with this algorithm."""
        return checksum_of(path, self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexdigest}"


def check_address(url: str) -> None:
    """Check that a URL is https://, or http:// on this machine, and contains no password.

    Raises:
        ModelError: It is not, or does.
    """
    parts = urllib.parse.urlsplit(url)
    if "@" in parts.netloc:
        raise ModelError(
            "models and catalogues cannot be downloaded with a user name or password in the URL. Remedy: download the "
            "file yourself, and give its path"
        )
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not local:
        raise ModelError(
            f"{url}: models and catalogues are downloaded only over https://, because plain HTTP can be tampered with "
            "on the way. Remedy: use an https:// URL, or download the file yourself"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_address(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Open a URL for reading; redirects are checked like the URL itself.

    Args:
        url: An allowed URL; see `check_address`.
        headers: Further request headers.

    Raises:
        ModelError: The URL is not allowed, or its host cannot be resolved.
        OSError: The server cannot be reached, or answers with an error (`urllib.error`).
    """
    check_address(url)
    # A proxy resolves names itself; a `no_proxy` setting alone is not a proxy.
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
    """Download ``url`` to ``target``, unless ``target`` already has the right checksum; return ``target``.

    Data is written to ``<target>.part``. An interrupted download is resumed by the next call if the server still has
    the same file. The file is renamed to ``target`` only if its checksum matches.

    Args:
        url: An https:// URL, or http:// on this machine.
        target: The file to write.
        checksum: The expected checksum.
        progress: Called while data arrives.
        limit: Maximum size in bytes.

    Raises:
        ModelError: The server cannot be reached, answers with an error or aborts the transfer; the file is too large or
            has another checksum; the disk is full; or another process downloads the same file.
    """
    if target.is_file() and checksum.of(target) == checksum.hexdigest:
        return target
    check_address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        lock = FileLock(part.with_name(part.name + ".lock"))
    except FileLockedError:
        raise ModelError(f"another process is already downloading {target.name}") from None
    with lock:
        _transfer(url, part, progress, limit)
        actual = checksum.of(part)
        if actual != checksum.hexdigest:
            _discard(part)
            raise ModelError(
                f"{url} has the checksum {checksum.algorithm}:{actual}, expected {checksum}: not "
                "installed. The file was changed at its source or during the transfer."
            )
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)
    return target


def _transfer(url: str, part: Path, progress: Progress, limit: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    validator = _read_validator(part, url)
    # Without a validator (ETag), the rest could belong to another version of the file.
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
        if error.code == 416:  # the file is complete already: the checksum decides
            return
        raise ModelError(
            f"cannot download {url}: the server answered {error.code} {error.reason}"
        ) from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            _discard(part)
        raise ModelError(_unreachable(url, error, part)) from error
    if have > limit:
        _discard(part)
        raise ModelError(f"{url} is larger than the limit of {limit} bytes: not installed")
    if total is not None and have < total:
        raise ModelError(
            f"the download of {url} was interrupted after {have} of {total} bytes: nothing was installed. Run the same "
            "command again to resume it"
        )


def _check_room(url: str, part: Path, have: int, total: int | None, limit: int) -> None:
    if total is not None and total > limit:
        raise ModelError(
            f"{url} has {total} bytes, more than the limit of {limit} bytes: not downloaded"
        )
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise ModelError(
            f"{url} has {total} bytes, but only {free} bytes are free in {part.parent}. Remedy: free some space, or "
            "set XDG_CACHE_HOME to a folder on a larger disk"
        )


def require_host(url: str) -> None:
    """Check within 3 s that the host of a URL can be resolved; the resolver's own timeout is 10 s or more.

    Raises:
        ModelError: The host name cannot be resolved in time.
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

    # A daemon thread, because the resolver cannot be interrupted.
    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVE_TIMEOUT_S)
    if failure:
        raise ModelError(
            f"cannot resolve {host} ({failure[0].strerror or failure[0]}): this machine is offline or "
            "has no DNS. Download the file elsewhere and install it with `tridetr models install FILE`."
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
    kept = (
        ". The part that arrived is kept: run the same command again to resume"
        if part.exists()
        else ""
    )
    return f"cannot connect to {host} ({reason}){kept}. Check the network connection"


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
    # A weak validator does not guarantee identical bytes.
    strong = etag if etag and not etag.startswith("W/") else None
    _validator_file(part).write_text(json.dumps({"url": url, "etag": strong}))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)
