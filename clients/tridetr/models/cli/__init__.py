"""The commands of ``tridetr models``."""

from __future__ import annotations

import typer

from tridetr.models.cli import check, engines, installed, make

app = typer.Typer(
    help="Export, fuse, verify, measure, quantise, fetch and list models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
installed.register(app)
make.register(app)
engines.register(app)
check.register(app)
