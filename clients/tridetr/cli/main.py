"""The ``tridetr`` command line. Expected errors are printed as one message, without a traceback."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from tridetr import __version__
from tridetr.cli import config_commands, fleet_commands, notify_command, roles
from tridetr.cli.analyse_command import analyse
from tridetr.cli.doctor_command import doctor
from tridetr.cli.init_command import init
from tridetr.cli.node_commands import events, status
from tridetr.cli.up_command import up
from tridetr.errors import TridetrError
from tridetr.models.cli import app as models_app
from tridetr.service import keep_private, prepare_streams

app = typer.Typer(
    name="tridetr",
    help="Camera detection at the edge with NVIDIA Triton and RF-DETR: one stable state per camera, over MQTT.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (init, up, status, events, analyse, *roles.COMMANDS, doctor):
    app.command()(command)
app.add_typer(config_commands.app, name="config")
app.add_typer(notify_command.app, name="notify")
app.add_typer(fleet_commands.app, name="fleet")
app.add_typer(models_app, name="models")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tridetr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point of the console script."""
    keep_private()
    prepare_streams()
    try:
        app()
    except TridetrError as error:
        Console(stderr=True).print(
            Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True
        )
        sys.exit(2)
