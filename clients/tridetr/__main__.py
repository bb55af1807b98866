"""``python -m tridetr``: the same as the console script."""

from tridetr.cli.main import main

if __name__ == "__main__":
    main()
