"""The commands of ``tridetr models``."""

from __future__ import annotations

from collections.abc import Callable

import typer

from tridetr.models.cli import check, engines, installed, make

app = typer.Typer(
    help="Export, fuse, verify, measure, quantise, fetch and list models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The commands import their heavy dependencies when they run.
_COMMANDS: dict[str, Callable[..., None]] = {
    "pull": installed.pull,
    "install": installed.install,
    "list": installed.list_models,
    "info": installed.info,
    "remove": installed.remove,
    "export": make.export,
    "fuse": make.fuse,
    "recolor": make.recolor,
    "quantize": make.quantize,
    "build-engine": engines.build_engine,
    "verify": check.verify,
    "evaluate": check.evaluate,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)
