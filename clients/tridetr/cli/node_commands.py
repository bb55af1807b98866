"""``tridetr status`` and ``tridetr events``: show the cameras of the running node, and its newest events."""

from __future__ import annotations

import json
import os
import stat
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridetr.cli.config_option import DEFAULT_CONFIG, AsJson, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import DEMO
from tridetr.config.secrets import gateway_token
from tridetr.errors import ConfigError, ForeignFolderError, GatewayError
from tridetr.paths import refuse_other_users
from tridetr.ports import listeners

_TIMEOUT_S = 10.0
_Demo = Annotated[
    bool, typer.Option("--demo", help="Show those of the demo; needs no configuration file.")
]


def status(
    config_file: ConfigFile = DEFAULT_CONFIG, demo: _Demo = False, as_json: AsJson = False
) -> None:
    """Show the cameras of the running node, with the reason where one is not watched. Exits with 1 then."""
    config = load_config(DEMO if demo else config_file)
    cameras = _ask(config)
    if as_json:
        typer.echo(json.dumps({"cameras": cameras}, indent=2))
    else:
        Console().print(_status_table(cameras))
    sys.exit(not all(camera["watching"]["watching"] for camera in cameras))


def events(
    config_file: ConfigFile = DEFAULT_CONFIG,
    demo: _Demo = False,
    camera: Annotated[str | None, typer.Option(help="Only events of this camera.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most events to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest events, newest first. The node need not be running."""
    from tridetr.controller.history import read_history
    from tridetr.supervisor.run_folder import DEMO_STATE

    config = load_config(DEMO if demo else config_file)
    if camera is not None and camera not in config.cameras:
        raise ConfigError(
            f"no camera {camera!r} in the configuration; known cameras: {', '.join(config.cameras)}"
        )
    folder = config.run_dir / DEMO_STATE if demo else config.state_dir
    rows = read_history(folder, limit=limit, camera=camera)
    if as_json:
        found = [
            {
                "seq": row.seq, "unix_ms": row.unix_ns / 1e6, "camera": row.camera,
                "kind": row.kind, "details": row.details,
            }
            for row in rows
        ]  # fmt: skip
        typer.echo(json.dumps({"events": found}, indent=2))
        return
    if not rows:
        typer.echo(f"no events yet in {folder}")
        return
    table = Table()
    for title in ("time", "camera", "event", "score", "duration", "details"):
        table.add_column(title, overflow="fold")
    for row in rows:
        score, duration_s = row.details.get("score"), row.details.get("duration_s")
        table.add_row(
            f"{datetime.fromtimestamp(row.unix_ns / 1e9).astimezone():%Y-%m-%d %H:%M:%S}",
            row.camera,
            Text(row.kind),
            "" if score is None else f"{score:.2f}",
            f"{duration_s:.1f} s" if duration_s else "",
            Text(str(row.details.get("message", ""))),
        )
    Console().print(table)


def _ask(config: Config) -> list[dict[str, Any]]:
    """Return the cameras as the gateway of the running node reports them."""
    from tridetr.gateway.gateway_process import ADDRESS_FILE

    file = config.run_dir / ADDRESS_FILE
    _refuse_foreign(config.run_dir, file)
    remedy = "Start it with `tridetr up`, or select its configuration with -c"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        url, port = found["url"], found["port"]
    except FileNotFoundError:
        raise GatewayError(
            f"no node of instance {config.instance!r} is running ({file} does not exist). {remedy}"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise GatewayError(f"cannot read {file}: {error}") from None
    # A node that was killed leaves its file; another user could listen on its port, to get the token
    if listeners(port) - {os.geteuid(), file.stat().st_uid, 0}:
        raise GatewayError(f"port {port} of {url} is used by another user. {remedy}")
    request = urllib.request.Request(f"{url}api/cameras")  # noqa: S310
    if token := gateway_token(config):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        # Connect directly, never through a proxy
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            cameras: list[dict[str, Any]] = json.load(answer)["cameras"]
            return cameras
    except urllib.error.HTTPError as error:
        error.close()
        raise GatewayError(f"{url} refused the request: {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise GatewayError(f"the gateway at {url} does not answer: {reason}. {remedy}") from None


def _refuse_foreign(run_dir: Path, file: Path) -> None:
    """Refuse an address from another user, who would get the token.

    Root may look at a node of any user, if nobody else could have created the folder.

    Raises:
        GatewayError: another user could have written the file.
    """
    with suppress(FileNotFoundError):
        if os.geteuid() == 0 and not run_dir.parent.stat().st_mode & stat.S_IWOTH:
            owners = {run_dir.lstat().st_uid, run_dir.stat().st_uid, file.lstat().st_uid}
            if len(owners) == 1:
                return
        try:
            refuse_other_users(run_dir, "run_dir", "set run_dir to a folder of your own")
        except ForeignFolderError as error:
            raise GatewayError(str(error)) from None


def _status_table(cameras: list[dict[str, Any]]) -> Table:
    # No lines between the columns, so that the table fits into 80 characters
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("camera", "source", "state"):
        table.add_column(title, no_wrap=True)
    table.add_column("watched", overflow="fold")
    table.add_column("frame age", justify="right")
    table.add_column("result age", justify="right")
    table.add_column("model", overflow="fold")
    for camera in cameras:
        watching = camera["watching"]
        reason = watching["reason"] or watching["part"]
        table.add_row(
            Text(camera["name"]),
            camera["status"]["state"],
            camera["state"]["state"],
            Text("yes", "green") if watching["watching"] else Text(f"no: {reason}", "bold red"),
            _age(camera["frame_age_s"]),
            _age(camera["result_age_s"]),
            Text(camera["model"] or "–"),
        )
    return table


def _age(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"
