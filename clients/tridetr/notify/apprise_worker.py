"""Deliver one message through Apprise: `python -m tridetr.notify.apprise_worker`, with the message as JSON on stdin.

It runs in a separate process because Apprise has timeouts for single reads only: a service that sends one byte at a
time could block a thread indefinitely. The exit status is the result. If the URL has several recipients, a line is
printed for each one that has got the message, because Apprise's own result shows only whether all have.
"""

from __future__ import annotations

import base64
import json
import logging
import resource
import signal
import sys

LONGEST_S = 35  # the process ends itself then; its parent waits less, but may have died
_MEMORY = 512 << 20  # a service could answer endlessly, and Apprise keeps its answer
SENT = "tridetr: sent"
MISSING, UNKNOWN_URL, FAILED = 3, 4, 5  # exit status


class _SentLines(logging.Handler):
    """Prints a line for each message that Apprise logs as sent."""

    def emit(self, record: logging.LogRecord) -> None:
        # The services of Apprise have no other sign: "Sent ntfy notification", "sent successfully"
        if record.levelno == logging.INFO and "sent" in record.getMessage().lower():
            print(SENT, flush=True)


def main() -> int:
    """Deliver the message on stdin; return the exit status."""
    signal.alarm(LONGEST_S)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    logging.basicConfig(handlers=[logging.NullHandler()])  # Apprise logs URLs, with secrets in them
    order = json.load(sys.stdin)
    try:
        import apprise
        from apprise.attachment.memory import AttachMemory
    except ImportError:
        return MISSING
    service = apprise.Apprise(asset=apprise.AppriseAsset(http_redirects=False))
    if not service.add(order["url"]):
        return UNKNOWN_URL
    if sum(len(one) for one in service) > 1:
        logger = logging.getLogger("apprise")
        logger.setLevel(logging.INFO)
        logger.addHandler(_SentLines())
    attachment = None
    if order["picture"] is not None:
        picture = base64.b64decode(order["picture"])
        attachment = AttachMemory(picture, name="visit.jpg", mimetype="image/jpeg")
    try:
        delivered = service.notify(body=order["text"], title=order["title"], attach=attachment)
    except MemoryError:
        return FAILED
    return 0 if delivered else FAILED


if __name__ == "__main__":
    sys.exit(main())
