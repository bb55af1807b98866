"""Fixtures of all tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.fake_cuda import FakeCuda
from tridetr.shm.names import list_instance, list_queues, unlink_instance

# A test run gives the same answer twice: fixed examples, and no judging by the clock. `make fuzz` looks for new ones.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", parent=settings.get_profile("same"), derandomize=False)
settings.load_profile(os.environ.get("TRIDETR_HYPOTHESIS", "same"))


@pytest.fixture
def instance() -> Iterator[str]:
    """Yield an instance name of its own; afterwards all segments and queues of its camera `cam` are removed."""
    name = "t" + uuid.uuid4().hex[:12]
    yield name
    unlink_instance(name, ["cam"])
    assert not list_instance(name)
    assert not list_queues(name)


@pytest.fixture
def gpu(tmp_path: Path) -> FakeCuda:
    """Return a played GPU whose memory lies in files."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    return FakeCuda(folder)
