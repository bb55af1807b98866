"""The boards by which readers ask for host pixels."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tridetr.errors import ShmError
from tridetr.shm.boards import DemandReader, DemandWriter
from tridetr.shm.boards.demand import LASTS_NS, POLL_NS, RENEW_NS
from tridetr.shm.names import list_instance, unlink_instance

START = 10**12


@pytest.fixture
def instance() -> Iterator[str]:
    name = "d" + uuid.uuid4().hex[:10]
    yield name
    unlink_instance(name, ["cam"])


@pytest.mark.parametrize("who", ["gateway", "detector"])
def test_a_reader_asks_and_what_it_asked_for_runs_out(instance: str, who: str) -> None:
    with DemandReader(instance, "cam") as reader, DemandWriter(instance, "cam", who) as writer:
        assert not reader.wanted(START)
        writer.touch(START)
        assert not reader.wanted(START + POLL_NS - 1)  # it did not look again yet
        assert reader.wanted(START + POLL_NS)
        assert reader.wanted(START + LASTS_NS - 1)
        assert not reader.wanted(START + LASTS_NS)


def test_asking_again_and_again_is_cheap_and_lasts(instance: str) -> None:
    with (
        DemandReader(instance, "cam") as reader,
        DemandWriter(instance, "cam", "gateway") as writer,
    ):
        steps = range(START, START + 4 * LASTS_NS, RENEW_NS // 10)
        written = sum(writer.touch(now) for now in steps)
        assert written == 4 * LASTS_NS // RENEW_NS
        assert reader.wanted(steps[-1])


def test_nobody_asks_before_the_first_frame_is_missed(instance: str) -> None:
    with DemandWriter(instance, "cam", "gateway"):
        assert list_instance(instance) == []


def test_a_board_out_of_reason_hides_no_other(instance: str) -> None:
    """One reader whose clock was damaged made capture ignore the others."""
    with (
        DemandReader(instance, "cam") as reader,
        DemandWriter(instance, "cam", "detector") as broken,
        DemandWriter(instance, "cam", "gateway") as sane,
    ):
        broken.touch(START * 50)
        sane.touch(START)
        assert reader.wanted(START)


def test_an_expiry_out_of_reason_is_no_demand(instance: str) -> None:
    """A board of before a reboot has times that the clock of today reaches only in days."""
    with (
        DemandReader(instance, "cam") as reader,
        DemandWriter(instance, "cam", "gateway") as writer,
    ):
        writer.touch(START * 50)
        assert not reader.wanted(START)


def test_unknown_readers_are_refused(instance: str) -> None:
    with pytest.raises(ShmError, match="gateway, detector"):
        DemandWriter(instance, "cam", "viewer")
