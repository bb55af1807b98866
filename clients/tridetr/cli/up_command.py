"""``tridetr up``: run a node."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import Config, load_config
from tridetr.config.examples import DEMO
from tridetr.ports import bind_fault, free_port


def up(
    config_file: ConfigFile = DEFAULT_CONFIG,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Run the demo with a synthetic camera; needs no configuration file."
        ),
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Stop after this many seconds; without it, on Ctrl-C or at the end of all files.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON summary at the end, and no table.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Supervise only this process, such as `--only 'capture hall'` or `--only detector` (the chart runs "
            "one per container). Can be repeated."
        ),
    ] = None,
) -> None:
    """Run the whole node (Triton, captures, detector, controller, gateway), and restart processes that fail.

    Leaves no segment, queue or process behind. Exits with 1 if no frame was processed end to end.
    """
    from tridetr.supervisor.runner import up as run_up

    config = _demo_config() if demo else load_config(config_file)
    sys.exit(run_up(config, duration_s=duration, as_json=as_json, only=only or ()))


def _demo_config() -> Config:
    """Return the configuration of the demo; its viewer gets another port if the default one is taken."""
    from tridetr.supervisor.run_folder import DEMO_STATE

    config = load_config(DEMO)
    gateway = config.gateway
    if bind_fault(gateway.host, gateway.port):
        gateway = gateway.model_copy(update={"port": free_port(gateway.host)})
    # The demo starts without state, so that it does not publish the end of a visit of the last run
    changes = {"gateway": gateway, "state_dir": config.run_dir / DEMO_STATE}
    return config.model_copy(update=changes)
