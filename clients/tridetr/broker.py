"""The embedded MQTT broker of ``mqtt.host: embedded``: mosquitto where it is installed, otherwise amqtt.

``python -m tridetr.broker`` chooses a port, writes it to ``run_dir/broker.json`` for the other processes, and becomes
the broker (mosquitto replaces this process). The broker listens on loopback only and has no password, so every user
who is logged in on this machine can use it. For anything else, run your own broker and set ``mqtt.host`` to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import pwd
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tridetr.broker_tls import broker_context
from tridetr.config import Config
from tridetr.errors import BrokerError, BrokerNotStartedError, TridetrError
from tridetr.files import write_text
from tridetr.paths import private_folder
from tridetr.ports import free_port, listeners
from tridetr.python_module import module_command
from tridetr.service import SUPERVISED, die_with_parent
from tridetr.supervisor.orphans import MARK

if TYPE_CHECKING:
    import paho.mqtt.client as paho

    from tridetr.config.node_sections import TlsSection

EMBEDDED = "embedded"
LOOPBACK = "127.0.0.1"
PULSE_ID = "tridetr-supervisor"  # client ID of the supervisor's connections, see `BrokerPulse`
_FILE = "broker.json"
_SBIN = "/usr/sbin:/usr/local/sbin"  # where Debian installs mosquitto; often not in a user's PATH


def broker_command(config: Config) -> list[str]:
    """Return the command line that runs the embedded broker of ``config``."""
    options = "--run-dir", str(config.run_dir), "--port", str(config.mqtt.port)
    return module_command("tridetr.broker", *options)


def resolve_broker(config: Config) -> tuple[str, int]:
    """Return the host and port of the broker.

    Raises:
        BrokerError: the embedded broker has not started yet, another user has taken its port, or the settings in
            ``mqtt`` contradict each other.
    """
    if config.mqtt.host != EMBEDDED:
        if config.mqtt.port == 0:
            raise BrokerError("mqtt.port: 0 (any free port) works only with `mqtt.host: embedded`")
        return config.mqtt.host, config.mqtt.port
    if config.mqtt.tls is not None:
        raise BrokerError(
            "mqtt.tls: the embedded broker listens on loopback without TLS; remove mqtt.tls"
        )
    file = config.run_dir / _FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        host, port = str(found["host"]), int(found["port"])
        others = listeners(port, host) - _trusted_users(file.stat().st_uid)
    except FileNotFoundError:
        raise BrokerNotStartedError(
            "the embedded broker is not running yet (`tridetr up` starts it)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokerError(f"{file} cannot be read: {error!r}; restart the broker") from None
    if others:
        raise BrokerError(
            f"another user (ID {min(others)}) has taken port {port} of the embedded broker: end that user's program, "
            "or set mqtt.port: 0"
        )
    return host, port


def _trusted_users(starter: int) -> set[int]:
    """Return the IDs of the users who may run the embedded broker that a user has started."""
    users = {starter, os.geteuid(), 0}
    if starter == 0:
        for name in ("mosquitto", "nobody"):
            with contextlib.suppress(KeyError):
                return users | {pwd.getpwnam(name).pw_uid}
    return users


def find_mosquitto() -> str | None:
    """Return the path of the mosquitto server; None if it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)


def mosquitto_config(port: int) -> str:
    """Return the text of mosquitto's configuration: loopback only, no persistence, log to stderr."""
    return (
        f"listener {port} {LOOPBACK}\n"
        "allow_anonymous true\n"
        "persistence false\n"
        "log_dest stderr\n"
        "log_type error\n"
        "log_type warning\n"
        "max_queued_messages 10000\n"
        # Any user of this machine can publish, and clients read every message the broker forwards.
        "max_packet_size 1048576\n"
        # It keeps retained messages. At the limit it closes the connections whose messages are too large
        "memory_limit 268435456\n"
    )


def choose_port(run_dir: Path, wanted: int) -> int:
    """Return ``wanted``; for 0, the port of the previous start if it is free, otherwise any free port.

    Keeping the port lets clients reconnect by themselves after the broker was restarted.

    Raises:
        BrokerError: ``wanted`` is in use.
    """
    if wanted:
        try:
            return free_port(LOOPBACK, wanted)
        except OSError as error:
            raise BrokerError(
                f"the embedded broker cannot bind to {LOOPBACK}:{wanted}: {error.strerror}. If another broker runs "
                "there, set mqtt.host to it instead of `embedded`; otherwise set mqtt.port: 0"
            ) from None
    try:
        last = int(json.loads((run_dir / _FILE).read_text(encoding="utf-8"))["port"])
        return free_port(LOOPBACK, last)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return free_port(LOOPBACK)


def write_address(run_dir: Path, port: int) -> None:
    """Write the address of the embedded broker to the run folder.

    Raises:
        OSError: It cannot be written, and is not that of an earlier start.
    """
    file, text = run_dir / _FILE, json.dumps({"host": LOOPBACK, "port": port})
    try:
        write_text(file, text)
    except OSError:  # such as a read-only file system
        with contextlib.suppress(OSError, ValueError):
            if file.read_text(encoding="utf-8") == text:
                return
        raise


def _become_mosquitto(binary: str, run_dir: Path, port: int) -> None:
    # In memory, because mosquitto's own user has no access to run_dir.
    file = os.memfd_create("mosquitto.conf", 0)
    os.write(file, mosquitto_config(port).encode())
    write_address(run_dir, port)
    _drop_root()
    if os.environ.get(SUPERVISED):
        die_with_parent()
    # Its environment can be read by mosquitto's user, so it holds no secret: only the mark by which it is found
    kept = MARK, "LD_LIBRARY_PATH"
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    os.execve(binary, [binary, "-c", f"/proc/self/fd/{file}"], environment)  # noqa: S606


def _drop_root() -> None:
    """Switch to mosquitto's user, since its own switch would make the kernel forget ``die_with_parent``."""
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam("mosquitto")
    except KeyError:
        return  # mosquitto then stays root or becomes `nobody`, and logs it
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


async def _run_amqtt(run_dir: Path, port: int) -> None:
    try:
        from amqtt.broker import Broker
    except ImportError:
        raise BrokerError(
            "mqtt.host: embedded needs a broker: `apt install mosquitto`, or `pip install 'tridetr[server]'` "
            "for amqtt; or set mqtt.host to your own broker"
        ) from None
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if os.environ.get(SUPERVISED):
        die_with_parent()
    # It acknowledges the pulse's messages, but logs that it does not distribute them
    logging.getLogger("amqtt.broker").addFilter(lambda line: PULSE_ID not in line.getMessage())
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await broker.start()
    write_address(run_dir, port)
    await stop.wait()
    await broker.shutdown()


def set_login(
    client: paho.Client, username: str | None, password: str | None, tls: TlsSection | None
) -> None:
    """Set user name, password and TLS of an MQTT client; None leaves them out.

    Raises:
        ConfigError: a file of ``mqtt.tls`` cannot be used.
    """
    if username is not None:
        client.username_pw_set(username, password)
    if tls is not None:
        client.tls_set_context(broker_context(tls))


def main() -> None:
    """Entry point of ``python -m tridetr.broker``."""
    parser = argparse.ArgumentParser(prog="python -m tridetr.broker", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--amqtt", action="store_true", help="use amqtt even if mosquitto is installed"
    )
    arguments = parser.parse_args()
    run_dir: Path = arguments.run_dir
    try:
        private_folder(run_dir, may_be_read_only=bool(os.environ.get(SUPERVISED)))
        port = choose_port(run_dir, arguments.port)
        binary = None if arguments.amqtt else find_mosquitto()
        if binary is not None:
            _become_mosquitto(binary, run_dir, port)
        asyncio.run(_run_amqtt(run_dir, port))
    except (TridetrError, OSError) as error:
        sys.exit(f"broker: {error}")


if __name__ == "__main__":
    main()
