"""Train the bundled model: `python -m tridetr_demo.training --out DIR`."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

import torch
from torch import multiprocessing

from tridetr_demo.training.loop import Options, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, log and the ONNX file"
    )
    for name, value in Options.__annotations__.items():
        default = getattr(Options, name, None)
        if name != "out":
            parser.add_argument(
                f"--{name}", type=type(default), default=default, help=f"{value}, default {default}"
            )
    chosen = parser.parse_args()
    options = Options(**vars(chosen))
    options.out.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available() or options.processes == 1:
        train(0, options)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    multiprocessing.start_processes(train, (options,), options.processes, start_method="spawn")


if __name__ == "__main__":
    main()
