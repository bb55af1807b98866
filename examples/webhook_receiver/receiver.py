"""Receive tridetr's webhooks: check the signature, drop repeats, print the event."""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MAX_BYTES = 8 << 20
MAX_AGE_S = 300


def is_signed(secret: bytes, identity: str, timestamp: str, body: bytes, signatures: str) -> bool:
    """Return whether one of the signatures is the secret's, and the request is not an old one."""
    try:
        if abs(time.time() - int(timestamp)) > MAX_AGE_S:
            return False
    except ValueError:
        return False
    signed = f"{identity}.{timestamp}.".encode() + body
    mac = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(f"v1,{mac}", found) for found in signatures.split())


class Receiver(BaseHTTPRequestHandler):
    """Takes POST requests; the server has the settings."""

    def do_POST(self) -> None:
        """Take one event."""
        server = self.server
        assert isinstance(server, Server)
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        identity = self.headers.get("webhook-id", "")
        timestamp = self.headers.get("webhook-timestamp", "")
        signatures = self.headers.get("webhook-signature", "")
        if server.secret and not is_signed(server.secret, identity, timestamp, body, signatures):
            self.send_error(401, "wrong signature")
            return
        if identity not in server.seen:
            server.seen.add(identity)
            message = json.loads(body)
            print(f"{message['title']}: {message['text']}", flush=True)
            if server.pictures and message.get("picture"):
                name = identity.replace(":", "-").replace("/", "-") + ".jpg"
                (server.pictures / name).write_bytes(base64.b64decode(message["picture"]["base64"]))
        self.send_response(204)
        self.end_headers()


class Server(HTTPServer):
    """The receiver's address, its secret and what it has seen."""

    def __init__(self, port: int, secret: bytes | None, pictures: Path | None) -> None:
        super().__init__(("127.0.0.1", port), Receiver)
        self.secret = secret
        self.pictures = pictures
        self.seen: set[str] = set()  # a real receiver keeps this on disk


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--secret-file", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    asked = parser.parse_args()
    secret = base64.b64decode(asked.secret_file.read_text()) if asked.secret_file else None
    server = Server(asked.port, secret, asked.pictures)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
