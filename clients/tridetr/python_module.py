"""Command lines that run a module of this Python installation."""

from __future__ import annotations

import sys

# What `-P` does, for Python 3.10
_RUN = "import sys; del sys.path[0]; import runpy; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"


def module_command(module: str, *words: str) -> list[str]:
    """Return the command line that runs a module, never with code from the working directory.

    ``python -m`` looks for every module in the working directory first: a file that another user, or chance, left in a
    shared folder would run in its place.

    Args:
        module: Full name of the module.
        words: Its arguments.

    >>> module_command("tridetr.broker", "--port", "0")[-3:]
    ['tridetr.broker', '--port', '0']
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *words]
    return [sys.executable, "-c", _RUN, module, *words]
