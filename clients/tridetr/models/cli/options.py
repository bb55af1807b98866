"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tridetr.model_card import FrameColor
from tridetr.models.choices import Engine

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A file, or the name of an installed model.")
]
Color = Annotated[
    FrameColor, typer.Option(help="What the bytes of the frames mean (JPEG cameras: bt601-full).")
]
Threads = Annotated[int, typer.Option(min=0, help="Threads of one inference; 0 = all cores.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most so many pictures.")]
EngineChoice = Annotated[Engine, typer.Option(help="What runs the model.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Python = Annotated[
    Path | None,
    typer.Option(help="Interpreter that has rfdetr, instead of the environment made on first use."),
]
With = Annotated[
    list[str],
    typer.Option(
        "--with", help="Further pip requirement of that environment, such as torch==2.13.0."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
