"""One delivery to one target, with a real server."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from support.http_camera import http_camera
from support.mosquitto import make_certificates
from support.webhooks import WebhookServer, running_webhooks
from tridetr.cli.notify_command import send_test
from tridetr.config import Config, NotifySection
from tridetr.doctor.configuration import check_configuration
from tridetr.errors import ConfigError
from tridetr.notify import http
from tridetr.notify.notification import Message, message_of
from tridetr.notify.senders import DeliveryError, deliver

PICTURE = b"\xff\xd8\xff picture"
EVENT = """{"event_id": "5b0e:arrived", "class": "person", "camera": "hall", "device": "küche", "score": 0.9134,
"captured_at": "2026-11-22T05:11:20.214Z", "duration_s": 0.0}"""


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with running_webhooks() as server:
        yield server


def target(folder: Path, url: str, kind: str = "webhook") -> NotifySection:
    file = folder / "url"
    file.write_text(url)
    return NotifySection.model_validate({"name": "t", "kind": kind, "url_file": file})


def message(picture: bytes | None = PICTURE) -> Message:
    return message_of(EVENT, "http://garage:8080/", picture)


def test_webhook_with_a_picture(tmp_path: Path, server: WebhookServer) -> None:
    deliver(target(tmp_path, server.url), message())
    assert server.taken[0].json()["picture"] == {
        "content_type": "image/jpeg",
        "base64": "/9j/IHBpY3R1cmU=",
    }
    assert "webhook-signature" not in server.taken[0].headers


def test_ntfy_gets_title_text_picture_and_link(tmp_path: Path, server: WebhookServer) -> None:
    url = f"http://:tk_x@127.0.0.1:{server.port}/topic"
    deliver(target(tmp_path, url, "ntfy"), message(None))
    plain = server.taken[0]
    assert (plain.path, plain.headers["title"]) == ("/topic", "Person at hall")
    assert plain.headers["authorization"] == "Basic OnRrX3g="
    assert plain.headers["click"] == "http://garage:8080/"
    assert plain.headers["sequence-id"] == "5b0e-arrived"
    assert plain.body.decode().endswith("score 91%, küche")
    deliver(target(tmp_path, url, "ntfy"), message())
    assert server.taken[1].body == PICTURE
    assert server.taken[1].headers["message"].startswith("=?utf-8?")


@pytest.mark.parametrize("refusal", ["413", "429", "507"])
def test_ntfy_without_attachments_gets_the_text(
    tmp_path: Path, server: WebhookServer, refusal: str
) -> None:
    """It answers 429 when the daily limit of pictures is used up: alarms must still be delivered."""
    server.refuse = lambda request: request.body == PICTURE
    server.refusal = refusal
    deliver(target(tmp_path, server.url, "ntfy"), message())
    assert [request.body == PICTURE for request in server.asked] == [True, False]
    assert len(server.taken) == 1


def test_apprise_gets_text_and_picture_and_logs_no_password(
    tmp_path: Path, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("apprise")
    caplog.set_level(logging.DEBUG)
    url = f"json://user:s3cret@127.0.0.1:{server.port}/s3cret"
    deliver(target(tmp_path, url, "apprise"), message())
    content = server.taken[0].json()
    assert (content["title"], len(content["attachments"])) == ("Person at hall", 1)
    with running_webhooks() as thief:
        server.location = thief.url
        for server.mode in ("307", "500"):
            with pytest.raises(DeliveryError, match="could not deliver"):
                deliver(target(tmp_path, url, "apprise"), message())
        assert not thief.asked
    with pytest.raises(DeliveryError, match="does not know this kind of URL"):
        deliver(target(tmp_path, "nonsense://s3cret", "apprise"), message())
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("mode", ["403", "trickle"])
def test_an_apprise_url_with_a_recipient_that_fails_is_delivered_in_part(
    tmp_path: Path, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Apprise reports a failure although the others have the message: they got it again and again."""
    pytest.importorskip("apprise")
    monkeypatch.setattr(http, "DEADLINE_S", 12.0)
    server.refusal = mode
    server.refuse = lambda request: request.json()["topic"] == "gone"
    to = f"ntfy://127.0.0.1:{server.port}/gone/good"  # the last one first, 5.5 s later the other
    with pytest.raises(DeliveryError, match="one target per recipient") as caught:
        deliver(target(tmp_path, to, "apprise"), message(None))
    assert caught.value.in_part
    assert [request.json()["topic"] for request in server.taken] == ["good"]


def test_an_apprise_url_whose_recipients_all_fail_is_not_delivered_in_part(
    tmp_path: Path, server: WebhookServer
) -> None:
    """During an outage of the service, no message must be dropped."""
    pytest.importorskip("apprise")
    server.mode = "500"
    to = f"ntfy://127.0.0.1:{server.port}/a/b"
    with pytest.raises(DeliveryError, match="could not deliver") as caught:
        deliver(target(tmp_path, to, "apprise"), message(None))
    assert not caught.value.in_part


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("one two", "does not contain exactly one URL"),
        ("http://a/\nhttp://b/", "does not contain exactly one URL"),
        ("http://münchen.example/", "does not contain exactly one URL"),
        ("ftp://127.0.0.1/s3cret", "must start with http"),
        ("http://127.0.0.1:99999/s3cret", "port in the URL"),
        ("http://127.0.0.1:1/s3cret", "Connection refused"),
        ("https://127.0.0.1:{port}/s3cret", "SSL"),
        ("http://no-such-host.invalid/s3cret", "no-such-host.invalid"),
        # Passwords whose special characters are not encoded
        ("https://user:pw[s3cret]x@127.0.0.1/a", "percent-encode brackets"),
        ("https://user:s3cret#x@127.0.0.1/a", "port in the URL"),
        ("http://s3cret.invalid/word@127.0.0.1/a", "http://…: "),
    ],
)
def test_errors_contain_the_reason_but_not_the_url(
    tmp_path: Path, server: WebhookServer, content: str, reason: str
) -> None:
    with pytest.raises(DeliveryError, match=reason) as caught:
        deliver(target(tmp_path, content.replace("{port}", str(server.port))), message())
    assert "s3cret" not in str(caught.value)


def test_a_server_that_repeats_the_request_puts_no_url_into_the_error(tmp_path: Path) -> None:
    """The error is logged, and published as the node's problem."""

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            line = connection.recv(1 << 16).split(b"\r\n")[0]
            connection.sendall(b"HTTP/1.1 404 no route: " + line + b"\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/s3cret"
        with pytest.raises(DeliveryError, match="answered 404 Not Found") as caught:
            deliver(target(tmp_path, url), message())
        thread.join()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("interim", [100, 102, 103])
def test_an_interim_answer_is_not_the_answer(
    tmp_path: Path, server: WebhookServer, interim: int
) -> None:
    """102 and 103 were taken for a delivery."""
    server.interim, server.mode = interim, "500"
    with pytest.raises(DeliveryError, match="answered 500"):
        deliver(target(tmp_path, server.url), message())
    server.mode = "ok"
    deliver(target(tmp_path, server.url), message())


@pytest.mark.parametrize("kind", ["webhook", "apprise"])
def test_server_that_sends_single_bytes_times_out(
    tmp_path: Path, server: WebhookServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = server.url
    if kind == "apprise":
        pytest.importorskip("apprise")
        url = f"json://127.0.0.1:{server.port}/s3cret"
    monkeypatch.setattr(http, "DEADLINE_S", 0.5 if kind == "webhook" else 5.0)
    server.mode = "trickle"
    with pytest.raises(
        DeliveryError, match=r"has not answered after|did not deliver the message within"
    ):
        deliver(target(tmp_path, url, kind), message())
    assert server.asked


def test_headers_without_an_end_are_no_delivery(
    tmp_path: Path, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that was cut at the deadline looked like the end of the headers."""
    monkeypatch.setattr(http, "DEADLINE_S", 0.5)
    server.mode = "endless"
    with pytest.raises(DeliveryError, match="has not answered after"):
        deliver(target(tmp_path, server.url), message())


def test_slow_tls_handshake_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEADLINE_S", 0.5)
    over = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a long record begins
            while not over.wait(0.05):
                connection.send(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/s3cret"
        try:
            with pytest.raises(DeliveryError, match="has not answered after"):
                deliver(target(tmp_path, url), message())
        finally:
            over.set()
            thread.join()


def test_certificates_are_verified(tmp_path: Path) -> None:
    own = make_certificates(tmp_path / "pki")
    with http_camera(lambda _request: None, tls=(own.certificate, own.key)) as server:
        with pytest.raises(DeliveryError, match="certificate"):
            deliver(target(tmp_path, server.url("/s3cret", "https")), message())


@pytest.mark.parametrize(("status", "refused"), [("400", True), ("404", False), ("503", False)])
def test_rejected_messages_are_distinguished_from_failing_targets(
    tmp_path: Path, server: WebhookServer, status: str, refused: bool
) -> None:
    server.mode = status
    with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
        deliver(target(tmp_path, server.url), message())
    assert caught.value.refused is refused


def test_the_command_sends_a_test(
    tmp_path: Path, server: WebhookServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url").write_text(server.url)
    file = tmp_path / "node.yaml"
    keys = {"name": "phone", "kind": "webhook", "url_file": "url"}
    file.write_text(
        yaml.safe_dump({"cameras": {"hall": {"source": "synthetic"}}, "notify": [keys]})
    )
    with pytest.raises(ConfigError, match="no target 'fone' in notify; known targets: phone"):
        send_test("fone", file)
    send_test("phone", file)
    assert server.taken[0].json()["title"] == "Test of hall"
    assert "phone: delivered" in capsys.readouterr().out
    server.mode = "404"
    with pytest.raises(typer.Exit):
        send_test("phone", file)
    assert "answered 404" in capsys.readouterr().err


def test_the_doctor_reads_the_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    keys = {
        "name": "t",
        "kind": "webhook",
        "url_file": tmp_path / "no",
        "secret_file": tmp_path / "secret",
    }
    config = Config.model_validate({"cameras": {"hall": {"source": "synthetic"}}, "notify": [keys]})
    faults = {f.subject: f.text for f in check_configuration(config) if f.level == "fault"}
    assert "no such file" in faults["notify.t.url_file"].lower()
    assert "at least 24 bytes" in faults["notify.t.secret_file"]
