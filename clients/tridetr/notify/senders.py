"""Deliver one message to one target: a single attempt that succeeds or raises. Errors never contain the URL."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import time
from collections.abc import Mapping
from email.header import Header

from tridetr import __version__
from tridetr.config import NotifySection
from tridetr.config.secrets import environment_of, notify_url, signing_key
from tridetr.errors import ConfigError, TridetrError
from tridetr.notify import apprise_worker, http
from tridetr.notify.notification import Message
from tridetr.python_module import module_command


class DeliveryError(TridetrError):
    """A message was not delivered.

    Attributes:
        refused: whether the target rejected this message, so that retrying is unlikely to help.
        answered: whether there was an answer from the target.
        wait_s: seconds that the target asks to wait before the next attempt.
        in_part: whether some of the target's recipients have got the message.
    """

    def __init__(
        self,
        text: str,
        *,
        refused: bool = False,
        answered: bool = False,
        wait_s: float = 0.0,
        in_part: bool = False,
    ) -> None:
        super().__init__(text)
        self.answered = answered
        self.refused = refused
        self.wait_s = wait_s
        self.in_part = in_part


def deliver(target: NotifySection, message: Message) -> None:
    """Send a message to a target.

    Raises:
        DeliveryError: the target did not accept it, or the outcome is unknown.
    """
    try:
        url = notify_url(target.url_file)
        match target.kind:
            case "webhook":
                _webhook(target, url, message)
            case "ntfy":
                _ntfy(url, message)
            case "apprise":
                _apprise(url, message)
    except ConfigError as error:
        raise DeliveryError(str(error)) from None


def _webhook(target: NotifySection, url: str, message: Message) -> None:
    """POST the message as JSON, signed according to Standard Webhooks (webhook-id, -timestamp, -signature)."""
    content: dict[str, object] = {
        "event": message.event,
        "title": message.title,
        "text": message.text,
        "link": message.link,
        "picture": None,
    }
    if message.picture is not None:
        encoded = base64.b64encode(message.picture).decode()
        content["picture"] = {"content_type": "image/jpeg", "base64": encoded}
    body = json.dumps(content).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{message.event_id}"',
        "webhook-id": message.event_id,
        "webhook-timestamp": str(int(time.time())),
    }
    if target.secret_file is not None:
        headers["webhook-signature"] = signature(
            signing_key(target.secret_file), message.event_id, headers["webhook-timestamp"], body
        )
    _post(url, body, headers)


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the Standard Webhooks signature: HMAC-SHA256 over message ID, timestamp and body.

    Example:
        >>> signature(b"key", "id", "1", b"{}")
        'v1,5PVmP2AfJGwnp9flV+flrzfukNWA9zyUdqvI+IQalVs='
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _ntfy(url: str, message: Message) -> None:
    """Publish to an ntfy topic, with the picture attached if the server accepts it (servers have daily limits)."""
    is_alarm = message.event_id.endswith((":arrived", ":joined", ":blind"))
    headers = {
        "Title": _header(message.title),
        # On the phone, a repeated delivery replaces the first one.
        "Sequence-ID": message.event_id.replace(":", "-"),
        "Priority": "high" if is_alarm else "default",
    }
    if message.link:
        headers["Click"] = message.link
    if message.picture is not None:
        attached = {"Message": _header(message.text), "Filename": "visit.jpg"}
        try:
            return _post(url, message.picture, headers | attached)
        except DeliveryError as error:
            if not error.answered:
                raise
    _post(url, message.text.encode(), headers)


def _apprise(url: str, message: Message) -> None:
    """Deliver the message through Apprise, in a separate process that can be killed at the deadline."""
    picture = base64.b64encode(message.picture).decode() if message.picture is not None else None
    text = f"{message.text}\n{message.link}" if message.link else message.text
    order = {"url": url, "title": message.title, "text": text, "picture": picture}
    try:
        done = subprocess.run(
            module_command(apprise_worker.__name__),
            input=json.dumps(order).encode(),
            capture_output=True,  # its output may contain the URL
            env=environment_of("apprise"),
            timeout=http.DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        if apprise_worker.SENT.encode() in (late.stdout or b""):
            raise DeliveryError(_IN_PART, in_part=True) from None
        raise DeliveryError(
            f"Apprise did not deliver the message within {http.DEADLINE_S:g} s: test the URL with `apprise -vv`"
        ) from None
    except OSError as error:
        raise DeliveryError(f"Apprise cannot be started: {error.strerror}") from None
    if done.returncode != 0 and apprise_worker.SENT.encode() in done.stdout:
        raise DeliveryError(_IN_PART, in_part=True)
    if done.returncode in _APPRISE_FAULTS:
        raise DeliveryError(_APPRISE_FAULTS[done.returncode])
    if done.returncode != 0:
        raise DeliveryError(
            f"Apprise exited with status {done.returncode}: test the URL with `apprise -vv`"
        )


_IN_PART = (
    "Apprise delivered the message to some recipients of the URL only: make one target per recipient, and test each "
    "URL with `apprise -vv`"
)
_APPRISE_FAULTS = {
    apprise_worker.MISSING: "`kind: apprise` needs the extra `apprise`: pip install 'tridetr[apprise]'",
    apprise_worker.UNKNOWN_URL: "Apprise does not know this kind of URL: see https://appriseit.com/services",
    apprise_worker.FAILED: "Apprise could not deliver the message: test the URL with `apprise -vv`",
}


def _header(text: str) -> str:
    return text if text.isascii() else Header(text, "utf-8", maxlinelen=10_000).encode()


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        answer = http.post(url, body, {"User-Agent": f"tridetr/{__version__}", **headers})
    except (OSError, ValueError) as error:
        raise DeliveryError(str(error) or type(error).__name__) from None
    if answer.status < 300:
        return
    if answer.status < 400:
        raise DeliveryError(
            f"{answer.origin} answered {answer.status}, a redirect, which is not followed: put the final URL in "
            "url_file"
        )
    raise DeliveryError(
        f"{answer.origin} answered {answer.status} {answer.reason}".rstrip(),
        refused=answer.status in (400, 413, 415, 422),
        answered=True,
        wait_s=answer.retry_after_s,
    )
