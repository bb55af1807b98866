"""`tridetr status` sends the token to its own node only."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tridetr.cli.main import app
from tridetr.errors import GatewayError
from tridetr.ports import listeners

NOBODY = 65534


def test_listeners_of_a_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert listeners(port) == set()
        server.listen()
        assert listeners(port) == {os.geteuid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a process of another user")
def test_another_user_on_the_port_of_a_killed_node_gets_no_token(tmp_path: Path) -> None:
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(NOBODY)
            with socket.create_server(("127.0.0.1", 0)) as server:
                os.write(write, str(server.getsockname()[1]).encode())
                server.accept()[0].recv(1)
        finally:
            os._exit(0)
    try:
        port = int(os.read(ready, 10))
        (tmp_path / "run").mkdir(mode=0o700)
        address = {"url": f"http://127.0.0.1:{port}/", "port": port}
        (tmp_path / "run" / "gateway.json").write_text(json.dumps(address))
        (tmp_path / "token").write_text("0123456789abcdef")
        (tmp_path / "node.yaml").write_text(
            "cameras: {a: {source: synthetic}}\nrun_dir: run\ngateway: {token_file: token}"
        )
        done = CliRunner().invoke(app, ["status", "-c", str(tmp_path / "node.yaml")])
        assert isinstance(done.exception, GatewayError)
        assert "used by another user" in str(done.exception)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(write)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("taken", ["run", "run/gateway.json"])
def test_an_address_from_another_user_gets_no_token(tmp_path: Path, taken: str) -> None:
    """While no node runs, anyone can create the default run folder of another user in /tmp."""
    tmp_path.chmod(0o1777)
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = {"url": f"http://127.0.0.1:{port}/", "port": port}
        (tmp_path / "run" / "gateway.json").write_text(json.dumps(address))
        os.chown(tmp_path / taken, NOBODY, NOBODY)
        (tmp_path / "node.yaml").write_text("cameras: {a: {source: synthetic}}\nrun_dir: run")
        done = CliRunner().invoke(app, ["status", "-c", str(tmp_path / "node.yaml")])
        assert isinstance(done.exception, GatewayError)
        assert "belongs to another user" in str(done.exception)
