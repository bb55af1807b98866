"""``tridetr notify test``: send a test notification."""

from __future__ import annotations

from typing import Annotated

import typer

from tridetr.cli.config_option import DEFAULT_CONFIG, ConfigFile
from tridetr.config import load_config
from tridetr.errors import ConfigError

app = typer.Typer(help="Notifications about visits.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Notifications about visits."""


@app.command("test")
def send_test(
    name: Annotated[str, typer.Argument(help="Name of the target in `notify`.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send one test message to a target. Exits with 1 if the target does not accept it."""
    from tridetr.controller.discovery import viewer_address
    from tridetr.controller.topics import device_name
    from tridetr.notify.notification import example_message
    from tridetr.notify.senders import DeliveryError, deliver

    config = load_config(config_file)
    target = next((target for target in config.notify if target.name == name), None)
    if target is None:
        known = ", ".join(target.name for target in config.notify) or "none"
        raise ConfigError(f"no target {name!r} in notify; known targets: {known}")
    device = device_name(config)
    camera = next(iter(target.cameras or config.cameras))
    try:
        deliver(target, example_message(device, camera, viewer_address(config.gateway), None))
    except DeliveryError as error:
        typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{name}: delivered")
