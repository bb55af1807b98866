"""A camera's source: its kind, and that passwords in URLs are neither accepted nor shown."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.leaks import LEAKS, SECRET
from tridetr.config.load import parse_config
from tridetr.config.source import CameraSource, shown_url, shown_value, without_logins
from tridetr.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("synthetic", "synthetic"),
        ("/dev/video7", "v4l2"),
        ("/dev/v4l/by-id/usb-cam", "v4l2"),
        ("/dev/shm/clip.mp4", "file"),
        ("clip:with:colons.mp4", "file"),
        ("rtsp://camera/1", "rtsp"),
        ("RTSPS://camera/1", "rtsp"),
        ("http://[fe80::1]:8080/video", "http"),
        ("https://guest@camera/stream?channel=1&stream=0", "http"),
        ("rtsp://camera/h264:1/tokens", "rtsp"),
        ("rtsp://{user}:{password}@camera/1", "rtsp"),
        ("http://camera/flv?user={user}&password={password}", "http"),
        ("rtsp://camera/user={user}_password={password}_channel=1_stream=0.sdp", "rtsp"),
    ],
)
def test_the_kind_follows_from_the_text(text: str, kind: str) -> None:
    assert CameraSource.parse(text).kind == kind


@pytest.mark.parametrize("url", LEAKS)
def test_a_url_with_a_password_is_rejected_and_not_repeated(url: str) -> None:
    for text in (
        f'cameras: {{hall: {{source: "{url}"}}}}',
        f'cameras: {{hall: "{url}"}}',
        f'cameras: {{hall: {{source: synthetic}}}}\ntriton: {{infer_timeout_s: "{url}"}}',
        f"cameras:\n  hall: {{source: {url}: [}}",
        f'cameras: {{"{url}"}}',
        f'cameras: {{hall: {{source: synthetic, "{url}": 1}}}}',
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, origin=Path("node.yaml"))
        assert SECRET not in str(caught.value), text
    assert SECRET not in shown_url(url)


@given(st.text("ab:@/?#[]{}% =&", max_size=20), st.sampled_from(["rtsp", "http"]))
def test_only_scheme_host_and_port_of_any_url_are_shown(rest: str, scheme: str) -> None:
    url = f"{scheme}://cam:80/{rest}@:SECRET"
    assert "SECRET" not in shown_url(url)
    try:
        taken = CameraSource.parse(f"{scheme}://user@cam:80/{rest}")
    except ValueError:
        return
    assert taken.shown == f"{scheme}://cam:80"


def test_placeholders_need_a_file_and_are_filled_in_percent_encoded(tmp_path: Path) -> None:
    text = "cameras: {hall: {source: 'http://camera/?u={user}&pass={password}'"
    with pytest.raises(ConfigError, match="credentials_file"):
        parse_config(text + "}}", origin=tmp_path / "node.yaml")
    config = parse_config(text + ", credentials_file: door.txt}}", origin=tmp_path / "node.yaml")
    url = config.cameras["hall"].source.url(("me", "a&b"))
    assert url == "http://camera/?u=me&pass=a%26b"


@pytest.mark.parametrize("value", ["''", "7", "[a]", "null", '"\\uDCFC"', "ftp://h/1"])
def test_a_bad_source_is_reported_as_one_fault(value: str) -> None:
    with pytest.raises(ConfigError, match=r"1 fault\(s\)\n  cameras.hall.source: [^\n]*$"):
        parse_config(f"cameras: {{hall: {{source: {value}}}}}", origin=Path("node.yaml"))


@pytest.mark.parametrize(
    "piece", ["pass", ":", "a", "a-", "auth", "://", "@", ":a@/", "%40", "{password}"]
)
def test_long_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    for prefix in ("", "rtsp://camera/", "rtsp://"):
        with contextlib.suppress(ValueError):
            CameraSource.parse(prefix + text)
        shown_url(prefix + text)
        shown_value(prefix + text)
        without_logins(prefix + text)
