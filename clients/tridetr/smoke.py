"""``python -m tridetr.smoke``: wait until every camera has a fresh result, as reported over MQTT (`helm test`)."""

from __future__ import annotations

import argparse
import json
import queue
import sys
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tridetr.broker import set_login
from tridetr.config import Config, load_config
from tridetr.config.secrets import mqtt_password
from tridetr.controller.topics import Topics
from tridetr.errors import TridetrError

FRESH_S = 15.0  # a status is published every 10 s


def wait_until_seen(config: Config, timeout_s: float) -> list[str]:
    """Wait for a fresh result of every camera and return the cameras without one after ``timeout_s``.

    Raises:
        OSError: the broker cannot be reached.
    """
    topics = Topics.of(config)
    missing = {topics.status(camera): camera for camera in config.cameras}
    messages: queue.Queue[tuple[str, bytes | bytearray]] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2)

    def subscribe(client: paho.Client, *_: object) -> None:
        for topic in list(missing):  # one at a time: some brokers take a few only in one message
            client.subscribe(topic)

    client.on_connect = subscribe
    client.on_message = lambda _client, _data, message: messages.put(
        (message.topic, message.payload)
    )
    set_login(client, config.mqtt.username, mqtt_password(config), config.mqtt.tls)
    client.connect(config.mqtt.host, config.mqtt.port)
    client.loop_start()
    try:
        deadline_s = time.monotonic() + timeout_s
        while missing and (left_s := deadline_s - time.monotonic()) > 0:
            try:
                topic, payload = messages.get(timeout=left_s)
            except queue.Empty:
                break
            status = json.loads(payload)
            age_s = status.get("last_result_age_s")
            if status.get("camera") == "live" and age_s is not None and age_s < FRESH_S:
                missing.pop(topic, None)
    finally:
        client.loop_stop()
        client.disconnect()
    return sorted(missing.values())


def main() -> None:
    """Exit with status 1 and print the cameras without a fresh result."""
    parser = argparse.ArgumentParser(prog="python -m tridetr.smoke", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        missing = wait_until_seen(load_config(options.config), options.timeout)
    except (TridetrError, OSError) as error:
        sys.exit(str(error))
    if missing:
        sys.exit(f"no fresh result within {options.timeout:.0f} s of: {', '.join(missing)}")
    print("every camera has a fresh result")


if __name__ == "__main__":
    main()
