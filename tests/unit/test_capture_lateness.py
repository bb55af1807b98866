"""When a link counts as full, what proves that pictures come late, and what follows from it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.waiting import wait_for
from tridetr.capture.sources.base import LoginRefusedError
from tridetr.capture.sources.late_stream import LinkShare, MediaLag
from tridetr.capture.sources.lateness import LATE_S, Lateness, LinkLoad, SecondConnection, Step
from tridetr.errors import SourceError
from tridetr.hang_up import HangUp

READ, COMPARE, REOPEN = Step.READ, Step.COMPARE, Step.REOPEN


def judge(
    pictures: int, *, before_s: float = 0.0, inside_s: float = 0.0, work_s: float = 0.0
) -> list[bool]:
    """Return the judgement after each of some pictures with these waits, and this work of the reader."""
    load, now_s, found = LinkLoad(), 50.0, []
    for _ in range(pictures):
        load.waited(before_s / 2, inside=False)
        load.waited(before_s / 2, inside=False)
        load.waited(inside_s, inside=True)
        now_s += before_s + inside_s + work_s
        found.append(load.picture(now_s))
    return found


@pytest.mark.parametrize(
    ("before_s", "inside_s", "work_s", "is_full"),
    [
        (0.0, 0.25, 0.0, True),
        (0.01, 0.24, 0.0, True),
        (0.0, 0.2, 0.05, True),
        (0.02, 0.23, 0.0, False),  # it fits: a pause before each picture
        (0.25, 0.0, 0.0, False),
        (0.0, 0.1, 0.15, False),  # the reader is slow itself
        (0.0, 0.0, 0.25, False),
    ],
)
def test_a_link_is_full_if_its_reader_never_waits_for_a_picture_to_begin(
    before_s: float, inside_s: float, work_s: float, is_full: bool
) -> None:
    found = judge(50, before_s=before_s, inside_s=inside_s, work_s=work_s)
    assert found == [False] * 40 + [is_full] * 10  # 10 s after the first picture


def test_few_large_pictures_are_judged_too() -> None:
    assert judge(4, inside_s=4.0) == [False, False, False, True]
    assert judge(3, inside_s=30.0) == [False, True, True]


def test_a_pause_counts_for_ten_seconds() -> None:
    load, now_s = LinkLoad(), 0.0
    found = []
    for number in range(100):
        load.waited(0.25, inside=number not in (45, 46))
        now_s += 0.25
        found.append(load.picture(now_s))
    assert found == [False] * 40 + [True] * 6 + [False] * 39 + [True] * 15


@given(st.lists(st.tuples(st.floats(0.06, 5), st.floats(0, 1)), min_size=1, max_size=80))
def test_a_stream_that_fits_never_fills_its_link(pictures: list[tuple[float, float]]) -> None:
    load, now_s = LinkLoad(), 0.0
    for duration_s, share in pictures:
        idle_s = duration_s * max(0.06, share)
        load.waited(idle_s, inside=False)
        load.waited(duration_s - idle_s, inside=True)
        now_s += duration_s
        assert not load.picture(now_s)


class Camera:
    """A camera at 10 fps whose link takes a share of its pictures, through a server that stores the rest or not."""

    def __init__(self, *, share: float = 0.5, stores: bool = True, repeats: int = 0) -> None:
        self.lateness = Lateness()
        self.now_s = 1000.0
        self.steps: list[tuple[float, Step]] = []
        self.share, self.stores, self._repeats = share, stores, repeats
        self._connect()

    def _connect(self) -> None:
        self._from_s = self.now_s
        self.lateness.connected(self.now_s)

    def picture(self, taken_s: float) -> int:
        number = round(taken_s * 10)
        return number % self._repeats if self._repeats else number

    @property
    def age_s(self) -> float:
        """Age of the picture that comes now."""
        return (1 - self.share) * (self.now_s - self._from_s) if self.stores else 0.2

    def run(self, seconds: float, *, second_s: float = 0.0) -> None:
        """Read for some time; a second connection takes some time, or fails if that is negative."""
        until_s, due_s = self.now_s + seconds, float("inf")
        while self.now_s < until_s:
            self.now_s = round(self.now_s + 0.1, 1)
            if self.now_s >= due_s:
                due_s = float("inf")
                new = {self.picture(self.now_s): self.now_s}
                self.lateness.compare(new if second_s >= 0 else {}, self.now_s)
            is_full = self.share < 1 and self.now_s - self._from_s >= 10
            picture = self.picture(self.now_s - self.age_s)
            step = self.lateness.arrived(picture, self.now_s, is_full=is_full)
            if step is not READ:
                self.steps.append((round(self.now_s - 1000), step))
            if step is COMPARE:
                due_s = self.now_s + abs(second_s)
            if step is REOPEN:
                self._connect()


def test_pictures_that_are_stored_are_proven_late_and_from_then_on_the_age_is_bounded() -> None:
    camera = Camera()
    camera.run(19.8)
    assert (camera.steps, camera.lateness.fault) == ([(10, COMPARE)], "")
    camera.run(40)
    assert camera.steps[1:] == [(n, REOPEN) for n in (20, 30, 40, 50)]
    assert camera.lateness.fault.startswith("pictures came 10 s late: ")
    camera.run(3600)
    assert camera.age_s <= 5
    assert {step for _, step in camera.steps[1:]} == {REOPEN}
    assert camera.lateness.fault.startswith("pictures came 10 s late: ")
    assert len(camera.lateness.fault.encode()) <= 200


@pytest.mark.parametrize(("share", "after_s"), [(0.1, 100), (0.8, 165), (0.95, 138), (0.97, 386)])
def test_other_links_are_found_too(share: float, after_s: float) -> None:
    """If the link is hardly too slow, only a later second connection proves it."""
    camera = Camera(share=share)
    camera.run(2000)
    assert [step for _, step in camera.steps].count(REOPEN) > 100
    reopened_s = next(at for at, step in camera.steps if step is REOPEN)
    assert reopened_s == pytest.approx(after_s, rel=0.1)


def test_pictures_that_are_not_stored_change_nothing() -> None:
    camera = Camera(stores=False)
    camera.run(10_000)
    assert [at for at, _ in camera.steps] == pytest.approx(
        [10, 130, 370, 851, 1811, 3731, 7332], abs=2
    )
    assert {step for _, step in camera.steps} == {COMPARE}
    assert camera.lateness.fault == ""


def test_a_link_that_is_not_full_is_not_compared() -> None:
    camera = Camera(share=1.0)
    camera.run(1000)
    assert camera.steps == []


def test_pictures_that_repeat_prove_nothing() -> None:
    camera = Camera(repeats=90)
    camera.run(2000)
    assert {step for _, step in camera.steps} == {COMPARE}


def test_second_connections_that_fail_come_less_often() -> None:
    camera = Camera()
    camera.run(2000, second_s=-5.0)
    assert [at for at, _ in camera.steps] == pytest.approx([10, 135, 380, 865, 1830], abs=2)
    assert camera.lateness.fault == ""


def test_a_connection_that_broke_meanwhile_is_left_alone_for_hours() -> None:
    camera = Camera()
    camera.run(10.5, second_s=5.0)
    camera.lateness.broken(camera.now_s)
    camera.run(6 * 3600 - 10, second_s=5.0)
    assert camera.steps == [(10, COMPARE)]
    camera.run(20)
    assert [step for _, step in camera.steps] == [COMPARE, COMPARE]


def test_a_connection_that_ends_often_is_not_compared_each_time() -> None:
    camera = Camera()
    for _ in range(5):
        camera.run(15)
        camera._connect()
    assert camera.steps == [(10, COMPARE)]


def test_after_a_refused_login_there_is_no_second_connection() -> None:
    camera = Camera()
    camera.lateness.forbid()
    camera.run(1000)
    assert camera.steps == []

    camera = Camera()
    camera.run(100)
    camera.lateness.forbid()
    camera.run(30_000)
    assert [step for _, step in camera.steps].count(COMPARE) == 1
    assert camera.age_s <= 5


def test_the_fault_ends_with_its_cause() -> None:
    """The link has become faster, or the server does not store any more; at first, that is not known."""
    camera = Camera()
    camera.run(100)
    camera.share = 1.0
    camera.run(280)
    assert camera.lateness.fault
    camera.run(30)
    assert camera.lateness.fault == ""

    camera = Camera()
    camera.run(100)
    camera.stores = False
    camera.run(6 * 3600 - 200)
    assert camera.lateness.fault
    camera.run(400)
    assert camera.lateness.fault == ""
    before = len(camera.steps)
    camera.run(2000)
    assert {step for _, step in camera.steps[before:]} == {COMPARE}


def test_a_fault_stays_if_it_is_proven_again() -> None:
    camera = Camera(share=0.8)
    camera.run(500)
    for _ in range(300):
        camera.run(100)
        assert camera.lateness.fault
    assert camera.age_s < 60
    assert [step for _, step in camera.steps].count(COMPARE) > 2


def test_a_second_connection_ends_after_some_pictures() -> None:
    done = threading.Event()

    def read(_: HangUp) -> Generator[bytes, None, None]:
        try:
            yield from (b"%d" % number for number in range(100))
        finally:
            done.set()

    second = SecondConnection(read, "cam", 10.0)
    wait_for(second.is_done)
    assert [*second.pictures] == [hash(b"%d" % number) for number in range(10)]
    assert done.is_set()
    assert not second.is_refused


def test_a_second_connection_ends_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tridetr.capture.sources.lateness._COMPARED_S", 0.0)

    def read(_: HangUp) -> Generator[bytes, None, None]:
        for number in range(10):
            yield b"%d" % number
            time.sleep(0.01)

    second = SecondConnection(read, "cam", 10.0)
    wait_for(second.is_done)
    assert [*second.pictures] == [hash(b"0"), hash(b"1")]


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [(LoginRefusedError("cam", 401, True), True), (SourceError("no"), False), (OSError(), False)],
)
def test_a_second_connection_that_fails(error: Exception, is_refused: bool) -> None:
    def read(_: HangUp) -> Generator[bytes, None, None]:
        yield b"1"
        raise error

    second = SecondConnection(read, "cam", 10.0)
    wait_for(second.is_done)
    assert ([*second.pictures], second.is_refused) == ([hash(b"1")], is_refused)


def test_a_second_connection_takes_a_limited_time() -> None:
    def read(hang_up: HangUp) -> Generator[bytes, None, None]:
        hang_up.wait()
        yield from ()

    for timeout_s in (0.05, 60.0):
        second = SecondConnection(read, "cam", timeout_s)
        if timeout_s == 60.0:
            assert not second.is_done()
            second.close()
        wait_for(second.is_done)
        assert second.pictures == {}


@pytest.mark.parametrize(
    ("speed", "jump_s", "expected_s"),
    [
        (1.0, 0.0, 0.0),
        (0.6, 0.0, 40.0),
        (1.5, 0.0, 0.0),  # faster than the clock: the earliest packet is the newest
        (0.6, 3600.0, 20.0),  # the camera counts anew: what was before is not known
    ],
)
def test_timestamps_that_advance_slower_than_the_clock_show_a_lag(
    speed: float, jump_s: float, expected_s: float
) -> None:
    lag, found = MediaLag(), 0.0
    for tick in range(1001):
        now_s = tick / 10
        found = lag.packet(speed * now_s + jump_s * (now_s > 50), 1e6 + now_s)
    assert found == pytest.approx(expected_s, abs=0.1)


def test_a_camera_whose_clock_is_a_little_slow_has_no_lag() -> None:
    lag = MediaLag()
    assert all(lag.packet(0.9998 * now_s, now_s) < 1 for now_s in range(100_000))


def test_a_fault_ends_although_no_connection_lasts_five_minutes() -> None:
    """Each new connection began the five minutes anew."""
    known = Lateness()
    known.connected(1.0)
    assert known.arrived(1, 1.0, is_full=True) is Step.COMPARE
    known.compare({2: 2.0}, 2.0)
    known.arrived(2, 20.0, is_full=True)
    assert known.fault
    for begin in range(30, 630, 200):
        known.connected(begin)
        known.arrived(begin, begin + 190.0, is_full=False)
    assert not known.fault


def doubted(known: Lateness, lag_s: float, *, may_be_full: bool = False) -> str:
    known.lags(lag_s, lambda: may_be_full)
    return known.doubt


def test_a_measured_lag_stays_doubtful_until_a_second_connection_disproves_it() -> None:
    """A camera that takes one client only was declared to be in time, because it refused the second one."""
    known = Lateness()
    known.connected(1.0)
    assert "may come more than 6 s late" in doubted(
        known, 6.1
    )  # before the second connection is made
    assert known.arrived(1, 2.0, is_full=True) is Step.COMPARE
    assert "more than 30 s late" in doubted(known, 45.0)
    known.compare({}, 3.0)
    assert "more than 60 s late" in doubted(known, 68.0)
    known.broken(4.0)
    known.connected(5.0)
    known.forbid()
    assert "more than 600 s late" in doubted(known, 1e6)
    assert len(known.doubt.encode()) <= 200
    known.lags(0.5, lambda: False)
    assert not known.doubt


def test_a_disproved_lag_is_not_doubtful_any_more() -> None:
    """Otherwise, a camera whose timestamps are too slow would never count as watched."""
    known = Lateness()
    known.connected(1.0)
    known.arrived(1, 2.0, is_full=True)
    known.compare({1: 1.9}, 3.0)
    assert not doubted(known, 20.0)
    assert known.arrived(2, 300.0, is_full=True) is Step.COMPARE
    assert doubted(known, 20.0)
    known.compare({}, 301.0)
    assert not doubted(known, 20.0)
    known.connected(302.0)
    assert not doubted(known, 20.0)


def test_the_next_lag_is_doubtful_again() -> None:
    """One that had passed, or the second connection to a server that was late itself, disproved all later ones."""
    known = Lateness()
    known.connected(1.0)
    known.arrived(1, 2.0, is_full=True)
    known.compare({1: 1.9}, 3.0)
    assert "the link may be full" in doubted(known, 20.0, may_be_full=True)
    assert not doubted(known, 20.0)
    assert not doubted(known, 3.0)
    assert not doubted(known, 7.0)  # the same lag, whose beginning was forgotten meanwhile
    known.lags(0.5, lambda: False)
    assert doubted(known, 7.0)


def test_a_new_connection_to_a_server_that_is_late_itself_is_doubtful() -> None:
    """The lag of each connection begins with 0, while the pictures were 40 s old."""
    known = Lateness()
    known.connected(1.0)
    assert doubted(known, 37.0, may_be_full=True)
    for now_s in (50.0, 60.0):
        known.connected(now_s)
        assert "still come late" in doubted(known, 0.0, may_be_full=True)
        assert len(known.doubt.encode()) <= 200
    assert not doubted(known, 0.0)  # the queue is empty, so the link is not full any more
    assert not doubted(known, 0.0, may_be_full=True)
    known.connected(100.0)
    assert not doubted(known, 0.0, may_be_full=True)


def test_after_an_hour_without_a_lag_second_connections_come_as_at_first() -> None:
    known, now_s = Lateness(), 1.0
    known.connected(now_s)
    for wait_s in (125, 245, 485, 5000):
        assert known.arrived(1, now_s, is_full=True) is Step.COMPARE
        known.compare({}, now_s)
        now_s += wait_s
    assert known.arrived(1, now_s, is_full=True) is Step.COMPARE
    known.compare({}, now_s)
    assert known.arrived(1, now_s + 125, is_full=True) is Step.COMPARE


def sent(
    count: int, *, rate: float, fps: float = 10.0, jitter_s: float = 0.0, spread: bool = True
) -> Iterator[tuple[int, float]]:
    """Yield size [bytes] and arrival [s] of packets over a link that carries so many bytes per second."""
    dice, free_s = random.Random(1), 0.0
    for number in range(count):
        size = 40_000 if number % 20 == 0 and spread else dice.randint(3500, 5500)
        free_s = max(free_s, number / fps) + size / rate
        yield size, free_s + dice.uniform(0, jitter_s)


@pytest.mark.parametrize("held", [0, 1, 2])
@pytest.mark.parametrize("fps", [2.0, 10.0])
@pytest.mark.parametrize(
    ("share", "jitter_s", "expected"),
    [
        (3.1, 0.0, True),
        (1.1, 0.0, True),
        (1.1, 0.05, True),
        (0.5, 0.0, False),  # also if a key frame takes three times as long as a picture lasts
        (0.5, 0.05, False),
        (0.01, 0.0, False),
        (0.01, 0.08, False),
    ],
)
def test_packets_over_a_full_link_come_as_their_sizes_tell(
    share: float, jitter_s: float, expected: bool, fps: float, held: int
) -> None:
    """Also if a packet comes out of FFmpeg together with a later one, and if there are few pictures."""
    load = LinkShare()
    packets = [*sent(600, rate=6250 * fps / share, fps=fps, jitter_s=jitter_s)]
    for number, ((size, _), (_, now_s)) in enumerate(zip(packets, packets[held:], strict=False)):
        load.packet(size, now_s)
        assert load.may_be_full() is (expected or number < 60)


def test_packets_of_one_size_tell_nothing() -> None:
    load = LinkShare()
    for size, now_s in sent(600, rate=10_000_000, spread=False):
        load.packet(size, now_s)
    assert load.may_be_full()


@pytest.mark.parametrize("speed", [0.9998, 0.9983, 0.9975, 0.9966, 0.99, 0.8])
def test_a_camera_whose_timestamps_are_slow_is_seldom_doubtful(speed: float) -> None:
    """With 24.94 pictures per second counted as 25, it was for half of each day."""
    known, lag, now_s, doubtful_s = Lateness(), MediaLag(), 0.0, 0.0
    known.connected(now_s)
    compared_s = float("inf")
    while now_s < 86_400:
        now_s += 1.0
        lag_s = lag.packet(speed * now_s, now_s)
        if now_s >= compared_s:
            known.compare({round(now_s): now_s - 1}, now_s)
            compared_s = float("inf")
        if known.arrived(round(now_s), now_s, is_full=lag_s >= LATE_S) is Step.COMPARE:
            compared_s = now_s + 3
        known.lags(lag_s, lambda: False)
        doubtful_s += bool(known.doubt)
    assert doubtful_s < 120
