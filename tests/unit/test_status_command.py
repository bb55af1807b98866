"""`tridetr status` sends the token to its own node only."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.proc import listening_as
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
        assert listeners(port) == listeners(port, "127.0.0.1") == {os.geteuid()}
        assert listeners(port, "127.0.0.2") == set()
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::", 0))
        server.listen()
        assert listeners(server.getsockname()[1], "127.0.0.2") == {os.geteuid()}


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a process of another user")
def test_another_user_on_the_port_of_a_killed_node_gets_no_token(tmp_path: Path) -> None:
    with listening_as(NOBODY) as port:
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
