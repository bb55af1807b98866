"""``tridetr up``."""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tridetr.cli.options import DEFAULT_CONFIG, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import DEMO


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    config_file: ConfigFile = DEFAULT_CONFIG,
    demo: Annotated[
        bool, typer.Option("--demo", help="Run the built-in synthetic camera; needs no file.")
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Stop after so many seconds; else on Ctrl-C or at the files' end."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON summary at the end, and no table.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run this process alone, kept alive (a container's main process): "
            "`--only 'capture hall'`, `--only detector`. May be given several times."
        ),
    ] = None,
) -> None:
    """Run the whole node: Triton, captures, detector, controller, gateway; restart what dies.

    Leaves no segment, queue or process behind. Exits with 1 when no frame made it from a camera to a result.
    """
    from tridetr.supervisor.runner import up as run_up

    if not demo:
        config = load_config(config_file)
        sys.exit(run_up(config, duration_s=duration, as_json=as_json, only=only or ()))
    # A demo begins with nothing in memory, so that it tells no end of the last one's visit.
    with tempfile.TemporaryDirectory(prefix="tridetr-demo-") as state_dir:
        config = _free_demo_port(load_config(DEMO))
        config = config.model_copy(update={"state_dir": Path(state_dir)})
        sys.exit(run_up(config, duration_s=duration, as_json=as_json, only=only or ()))


def _free_demo_port(config: Config) -> Config:
    """Let the demo run beside whatever holds its usual port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.gateway.host, config.gateway.port))
        except OSError:
            with socket.socket() as free:
                free.bind((config.gateway.host, 0))
                port = int(free.getsockname()[1])
            gateway = config.gateway.model_copy(update={"port": port})
            return config.model_copy(update={"gateway": gateway})
    return config
