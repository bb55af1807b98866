"""TLS of network cameras: verified by default, against the system's CAs or the camera's `tls_ca_file`."""

from __future__ import annotations

import ssl
from pathlib import Path

import av

from tridetr.config import CameraSection
from tridetr.errors import SourceError
from tridetr.hang_up import open_connection

TLS_REMEDY = "name its certificate or CA in tls_ca_file, or set tls_verify: false"
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_FIRST_VERIFYING_RTSPS = 62  # major version of libavformat; older ones ignore the options for rtsps


def python_context(section: CameraSection) -> ssl.SSLContext | None:
    """Return the context for Python's own connections; None for a source without TLS.

    Raises:
        SourceError: `tls_ca_file` cannot be used.
    """
    if not section.source.is_encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=section.tls_ca_file)
    except (OSError, ValueError) as error:
        raise SourceError(f"tls_ca_file {section.tls_ca_file} cannot be used: {error}") from None
    if not section.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def ffmpeg_options(section: CameraSection) -> dict[str, str]:
    """Return FFmpeg's TLS options; none for a source without TLS.

    Raises:
        SourceError: This FFmpeg cannot verify rtsps, or there are no CA certificates to verify with.
    """
    if not section.source.is_encrypted:
        return {}
    if not section.tls_verify:
        return {"tls_verify": "0"}
    if (
        av.library_versions["libavformat"][0] < _FIRST_VERIFYING_RTSPS
        and section.source.kind == "rtsp"
    ):
        raise SourceError(
            f"{section.source}: this FFmpeg cannot verify the camera's certificate; "
            "pip install --upgrade av, or set tls_verify: false"
        )
    if section.tls_ca_file is not None and not section.tls_ca_file.is_file():
        raise SourceError(f"tls_ca_file {section.tls_ca_file} does not exist")
    bundle = section.tls_ca_file or next((b for b in map(Path, _BUNDLES) if b.is_file()), None)
    if bundle is None:
        raise SourceError(
            f"{section.source}: no CA certificates on this machine; apt install ca-certificates, or "
            + TLS_REMEDY
        )
    return {"tls_verify": "1", "ca_file": str(bundle)}


def speaks_tls(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Return whether a port answers a TLS handshake (used to explain a failed plain connection)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            open_connection(host, port, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except (OSError, ValueError):
        return False
