"""A node with only Triton, which serves one model to the benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import fused_model, node
from tridetr.config import Config
from tridetr.errors import ModelUnavailable
from tridetr.shm.names import unlink_instance
from tridetr.triton.client import TritonClient

CAMERA = "bench"
START_S = 180


@contextlib.contextmanager
def serving(
    model: Path | None, *, device: str = "auto", provider: str = "auto"
) -> Iterator[tuple[Config, Path]]:
    """Run `tridetr triton`; yield the node's configuration and the fused model's file.

    Args:
        model: An export or a model of the contract; None: the bundled one.
        device: As in the configuration.
        provider: As in the configuration.
    """
    with tempfile.TemporaryDirectory(prefix="tridetr-bench-") as name:
        folder = Path(name)
        fused, _ = fused_model(model, folder)
        fields: dict[str, Any] = {
            "instance": f"bench{os.getpid()}",
            "device": device,
            "cameras": {CAMERA: {"source": "synthetic"}},
            "model": {"file": str(fused), "provider": provider},
            "run_dir": f"{folder}/run",
            "state_dir": f"{folder}/state",
        }
        config = Config.model_validate(fields)
        try:
            with node(fields, folder, ("triton",)):
                if not asyncio.run(_is_ready(config)):
                    raise SystemExit((folder / "log").read_text()[-3000:])
                yield config, fused
        finally:
            unlink_instance(config.instance, [CAMERA])


async def _is_ready(config: Config) -> bool:
    """Wait until the model serves."""
    async with TritonClient(config) as client:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ModelUnavailable):
                await client.model()
                return True
            await asyncio.sleep(0.2)
    return False
