"""Fixtures for all tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.fake_cuda import FakeCuda
from tridetr.shm import names

# Test runs are reproducible: fixed examples and no deadlines. `make fuzz` searches for new examples.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", parent=settings.get_profile("same"), derandomize=False)
settings.load_profile(os.environ.get("TRIDETR_HYPOTHESIS", "same"))


@pytest.fixture(scope="session", autouse=True)
def _patient() -> Iterator[None]:
    """However slow this machine's disk is, it counts as stalled only in the tests of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tridetr.disk_thread.PATIENCE_S", 60.0)
        patch.setattr("tridetr.controller.store._START_STOP_S", 60.0)
        yield


@pytest.fixture
def instance() -> Iterator[str]:
    """Yield a unique instance name; afterwards, check that no segment or queue of it is left."""
    name = "t" + uuid.uuid4().hex[:12]
    yield name
    try:
        names.unlink_instance(name, ["cam"])
    finally:
        left = list(names.SHM_DIR.glob(f"*-{name}[-.]*"))
        for path in left:  # a failed test may still be writing it
            path.unlink(missing_ok=True)
    assert not left, f"left behind: {left}"
    assert not names.list_queues(name)


@pytest.fixture
def gpu(tmp_path: Path) -> FakeCuda:
    """Return a simulated GPU whose memory is in files."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    return FakeCuda(folder)
