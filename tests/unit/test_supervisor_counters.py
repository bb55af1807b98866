"""Reading metric files while other processes make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tridetr.supervisor.counters import Counters


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 7, b"\xff" * 64, b"\0" * 64])
def test_a_file_that_is_being_made_does_not_end_the_supervisor(
    tmp_path: Path, content: bytes
) -> None:
    """A file that was still empty ended `tridetr up`, and the node with it."""
    (tmp_path / "counter_detector.db").write_bytes(content)
    assert Counters.read(tmp_path).total("tridetr_frames_published_total") == 0
