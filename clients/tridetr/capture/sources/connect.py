"""Open the stream of a network camera, as its URL and settings require."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from urllib.parse import urlsplit

from tridetr.capture.sources.av import FfmpegFeed, decoder_options
from tridetr.capture.sources.base import LoginError, LoginRefusedError
from tridetr.capture.sources.http_camera import JpegFeed, LiveStream, open_http
from tridetr.capture.sources.http_request import http_address
from tridetr.capture.sources.late_stream import LEAST_BYTES, LateStream
from tridetr.capture.sources.lateness import Comparison, Lateness
from tridetr.capture.sources.playlist import PlayedSegments, PlaylistParts
from tridetr.capture.sources.pump import Feed
from tridetr.capture.sources.rtsp_redirect import final_url, refuse_followed
from tridetr.capture.sources.tls import ffmpeg_options, python_context, speaks_tls
from tridetr.config import CameraSection
from tridetr.config.secrets import camera_credentials
from tridetr.config.source import shown_url
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp

_LONGEST_LOGIN = 127  # characters of a percent-encoded `user:password` in FFmpeg's RTSP


def connect(
    section: CameraSection,
    hang_up: HangUp,
    played: PlayedSegments,
    *,
    finds_gaps: bool = False,
    lateness: Lateness | None = None,
) -> Feed:
    """Open the stream of a network camera.

    Args:
        section: The camera's configuration.
        hang_up: Once set, ends the connection, even while it is being opened.
        played: What earlier connections to it played, if it is a playlist.
        finds_gaps: Whether packets after a gap in the sequence numbers of RTP over TCP are marked as damaged. (Over UDP
            they always are.)
        lateness: Finds out whether what comes over TCP is late, over all connections to the camera.

    Raises:
        LoginError: The camera does not accept user and password, or another host may have received them.
        SourceError: It cannot be opened, or sends no video.
    """
    source, file = section.source, section.credentials_file
    login = camera_credentials(file) if file else None
    url = source.url(login)
    _bypass_proxies(source.address[0])
    try:
        options = _options(section, finds_gaps) | ffmpeg_options(section)
        if source.kind == "http":
            tls = python_context(section)
            secret = login[1] if login and source.needs_credentials else ""
            address = http_address(url, source.shown, tls, section.timeout_s, hang_up, secret)
            found = open_http(address, section.fps, played, lateness)
            if isinstance(found, JpegFeed):
                return found
            if isinstance(found.parts, PlaylistParts):
                options["http_persistent"] = "0"  # it bypasses `parts`
            is_live = isinstance(found.parts, LiveStream)
            try:
                return FfmpegFeed(
                    found.url,
                    source.shown,
                    options,
                    section.timeout_s,
                    found.parts,
                    is_file=found.parts is None,
                    opening_s=_opening_s(section, hang_up),
                    watch=_watch(section, played, lateness) if is_live else None,
                )
            except SourceError:
                if isinstance(found.parts, PlaylistParts):
                    found.parts.check()
                raise
        if len(urlsplit(url).netloc.rpartition("@")[0]) > _LONGEST_LOGIN:
            raise SourceError(
                f"cannot open {source}: FFmpeg cuts user and password at {_LONGEST_LOGIN} characters, and each one "
                "that is not a letter, digit or one of -._~ counts as three or more: set a shorter password"
            )
        found_url = final_url(
            url, source.shown, python_context(section), section.timeout_s, hang_up
        )
        is_udp = section.rtsp_transport == "udp"
        try:
            return FfmpegFeed(
                found_url,
                source.shown,
                options,
                section.timeout_s,
                redirected=lambda location: refuse_followed(url, found_url, location, source.shown),
                is_udp=is_udp,
                opening_s=_opening_s(section, hang_up),
                watch=_watch(section, played, lateness) if not is_udp else None,
            )
        except LoginRefusedError:
            if urlsplit(url).password and not urlsplit(found_url).password:
                raise SourceError(
                    f"cannot open {source}: it redirects to {shown_url(found_url)}, which requires a login, but the "
                    "password is sent only to the configured host; set source to that address"
                ) from None
            raise
    except LoginError:
        if lateness is not None:
            lateness.forbid()
        raise
    except SourceError:
        if not source.is_encrypted and speaks_tls(*source.address):
            scheme = {"rtsp": "rtsps", "http": "https"}[source.kind]
            raise SourceError(
                f"cannot open {source}: this port speaks TLS; write {scheme}:// in the source"
            ) from None
        raise


def _watch(
    section: CameraSection, played: PlayedSegments, lateness: Lateness | None
) -> LateStream | None:
    """Return what finds out whether the packets of a new connection are late."""
    if lateness is None:
        return None
    read_apart, shown = partial(_read_packets, section, played), section.source.shown
    return LateStream(Comparison(lateness, read_apart, shown, 3 * section.timeout_s), shown)


def _read_packets(
    section: CameraSection, played: PlayedSegments, hang_up: HangUp
) -> Generator[bytes, None, None]:
    """Yield the packets of another connection to a camera."""
    with closing(connect(section, hang_up, played)) as feed:
        for packet in feed.packets(hang_up):
            if packet.size >= LEAST_BYTES:
                yield bytes(packet)


def _opening_s(section: CameraSection, hang_up: HangUp) -> float:
    """Return how long FFmpeg may take to connect: not longer than the attempt is awaited [s].

    FFmpeg does not notice `hang_up`, and could still send the login to another host.

    Raises:
        SourceError: The attempt was given up.
    """
    left_s = min(section.timeout_s, hang_up.until_s - time.monotonic())
    if hang_up.is_set() or left_s <= 0:
        raise SourceError(f"cannot open {section.source}: gave up waiting")
    return left_s


def _bypass_proxies(host: str) -> None:
    """Keep FFmpeg from using the environment's proxies, which it reads at every level, including TLS."""
    hosts = list(filter(None, os.environ.get("no_proxy", "").split(",")))
    if host not in hosts:
        os.environ["no_proxy"] = ",".join([*hosts, host])


def _options(section: CameraSection, finds_gaps: bool) -> dict[str, str]:
    # Enough to find the picture size, no more: each second of probing is a second offline
    options = {"analyzeduration": "1000000", "probesize": "1000000", "fpsprobesize": "0"}
    options |= decoder_options(section.max_pixels)
    if section.source.kind == "rtsp":
        options |= {"rtsp_transport": section.rtsp_transport, "max_delay": "100000"}
        options |= {"allowed_media_types": "video"}
        if section.rtsp_transport == "tcp" and finds_gaps:
            options["reorder_queue_size"] = "2"  # the least with which FFmpeg looks for gaps
    else:
        # Otherwise a camera that answers with SDP makes FFmpeg listen for RTP, on every interface
        options |= {"http_proxy": "", "protocol_whitelist": "http,https,tls,tcp,crypto"}
        options |= {"max_redirects": "0"}  # those of `http_request` have been checked
    return options
