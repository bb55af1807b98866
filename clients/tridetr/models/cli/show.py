"""What the commands share: consoles, progress bars, a clear word about missing packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tridetr.errors import ModelError

console = Console()
errors = Console(stderr=True)


@contextmanager
def packages() -> Iterator[None]:
    """Say which extra is missing where an import of the commands' packages fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tridetr"):
            raise
        raise ModelError(
            f"the package {error.name} is missing: pip install 'tridetr[server,models]'"
        ) from error


def step(text: str) -> None:
    """Print what is being done."""
    console.print(f"[dim]•[/] {text}", highlight=False)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of ``total`` steps; yield a function that advances it."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def downloading(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar of bytes; yield a function that takes the bytes there are and the total."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(description, total=None, start=True)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def export_python(python: Path | None, extra: list[str], *, live: bool = True) -> Path:
    """Return the given interpreter, or that of the export environment, made on first use.

    Args:
        python: the interpreter to use instead.
        extra: further pip requirements.
        live: show pip's lines as they come; False where a progress bar is up already.
    """
    from tridetr.models.environment import export_python as make

    if python is not None:
        return python
    if not live:
        return make(extra, lambda line: step(line) if line.startswith(("making", "Down")) else None)
    with errors.status("export environment") as status:
        return make(extra, lambda line: status.update(f"export environment: {line[:90]}"))
