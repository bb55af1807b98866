"""Requests to HTTP cameras: when CA certificates are loaded, and that redirects to HTTPS are verified."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from support.http_camera import Request, http_camera
from support.mosquitto import make_certificates
from tridetr.capture.sources.http_request import HttpAddress, get
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp


def address(url: str) -> HttpAddress:
    return HttpAddress(url, url, None, None, 2.0, HangUp())


def page(request: Request) -> None:
    request.head("text/plain")
    request.send(b"hello")


def test_a_plain_request_loads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 20 ms of CPU time for each picture of a camera that is polled."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: pytest.fail("loads certificates"))
    with http_camera(page) as camera, get(address(camera.url())) as response:
        assert response.read() == b"hello"


def test_the_certificate_of_a_redirect_target_is_verified(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with http_camera(page, (made.certificate, made.key)) as other:

        def redirect(request: Request) -> None:
            request.head(status=302, Location=other.url(scheme="https"))

        with (
            http_camera(redirect) as camera,
            pytest.raises(SourceError, match="certificate is not trusted"),
        ):
            get(address(camera.url()))
    assert not other.requests
