"""Fixtures of all tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tridetr.shm.names import list_instance, list_queues, unlink_instance


@pytest.fixture
def instance() -> Iterator[str]:
    """Yield an instance name of its own; afterwards all segments and queues of its camera `cam` are removed."""
    name = "t" + uuid.uuid4().hex[:12]
    yield name
    unlink_instance(name, ["cam"])
    assert not list_instance(name)
    assert not list_queues(name)
