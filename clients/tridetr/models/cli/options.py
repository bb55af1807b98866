"""Options and arguments that several commands share."""

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
    FrameColor,
    typer.Option(help="Colour matrix and range of the frames (JPEG cameras: bt601-full)."),
]
Threads = Annotated[
    int, typer.Option(min=0, help="Number of threads per inference; 0 = all cores.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Maximum number of pictures to use.")]
EngineChoice = Annotated[Engine, typer.Option(help="Engine that runs the model.")]
DefaultScore = Annotated[
    float, typer.Option(min=0, max=1, help="Least score that counts as a detection.")
]
OutModel = Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Python = Annotated[
    Path | None,
    typer.Option(help="Python interpreter that has rfdetr, instead of the export environment."),
]
With = Annotated[
    list[str],
    typer.Option(
        "--with", help="Further pip requirement of the export environment, such as torch==2.13.0."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
