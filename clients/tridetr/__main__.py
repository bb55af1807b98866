"""``python -m tridetr`` and the console script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C exits without a traceback, even during the imports."""
    try:
        from tridetr.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
