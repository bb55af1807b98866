"""Live cameras whose pictures are mostly damaged, or come too seldom to be watched by."""

from __future__ import annotations

import itertools
import math

import pytest

from tridetr.capture.delivery import Delivery
from tridetr.config import SentrySection

S = 1_000_000_000


def course(delivery: Delivery, start_s: float, seconds: float, gap_s: float) -> list[str]:
    """Deliver good pictures `gap_s` apart; return the fault after each."""
    found: list[str] = []
    for count in itertools.count(1):
        if count * gap_s > seconds:
            return found
        delivery.good(round((start_s + count * gap_s) * S))
        found.append(delivery.fault)
    raise AssertionError


@pytest.mark.parametrize("gap_s", [4.9, 5.15, 6.0, 14.0, 80.0])
def test_pictures_that_always_come_too_seldom_are_a_lasting_fault(gap_s: float) -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    found = course(delivery, 100, 12 * gap_s, gap_s)
    assert set(found[:2]) == {""}
    assert len(set(found[3:])) == 1, "one message, that does not change"
    assert f"only every {gap_s:.1f} s, too seldom for unknown_s (5 s)" in found[3]
    back = course(delivery, 100 + 12 * gap_s, 61, 1.0)
    assert back[-3:] == [found[3], "", ""], "until there was no long gap for a minute"


def test_long_gaps_between_bursts_are_a_fault_and_single_gaps_are_not() -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    start_s = 100.0
    for calm_s in (90, 90, 20):
        assert set(course(delivery, start_s, calm_s, 0.5)) == {""}
        start_s += calm_s + 7
    assert course(delivery, start_s - 0.5, 20, 0.5)[-1].startswith("a picture comes only every")


def test_the_time_between_two_connections_is_not_a_gap() -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    for start_s in range(100, 400, 10):
        delivery.reopened()
        assert set(course(delivery, start_s, 2, 0.5)) == {""}


@pytest.mark.parametrize(("damaged", "is_fault"), [(21, True), (2, True), (1, False)])
def test_mostly_damaged_pictures_are_a_lasting_fault(damaged: int, is_fault: bool) -> None:
    """A good picture every 4.5 s keeps the state known, but a person who passes is missed."""
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    found: list[str] = []
    for index in range(600):
        now_ns = (100 * S) + index * S // 5
        (delivery.damaged if index % (damaged + 1) else delivery.good)(now_ns)
        found.append(delivery.fault)
    assert set(found[160:]) == ({found[-1]} if is_fault else {""})
    assert found[-1].startswith("most pictures are damaged") is is_fault
    if is_fault:
        assert course(delivery, 220, 70, 0.2)[-1] == ""


def test_long_gaps_between_good_pictures_are_explained_by_the_damaged_ones() -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    found = []
    for index in range(60):
        (delivery.damaged if index % 10 else delivery.good)((100 * S) + index * S // 2)
        found.append(delivery.fault)
    assert {fault[:24] for fault in found} == {"", "most pictures are damage"}


def test_pictures_that_may_show_traces_of_damage_are_a_fault_if_they_are_most() -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    for n in range(600):  # a key frame every 8 s, of which most do not arrive intact
        (delivery.doubtful if n % 80 > 20 else delivery.good)(n * S // 10)
    assert delivery.fault.startswith("most pictures are damaged")


def test_a_short_burst_of_damage_is_not_a_fault() -> None:
    delivery = Delivery(unknown_s=5, longest_interval_s=math.inf)
    course(delivery, 100, 100, 0.2)
    for index in range(20):
        delivery.damaged((200 * S) + index * S // 5)
    assert set(course(delivery, 204, 100, 0.2)) == {""}


@pytest.mark.parametrize(("gap_s", "is_fault"), [(3.3, True), (2.0, True), (1.5, False)])
def test_a_rate_at_which_a_passer_by_is_not_confirmed_is_a_lasting_fault(
    gap_s: float, is_fault: bool
) -> None:
    """With a picture every 3.3 s, none of the people who passed in 6 s were reported, without a sign."""
    keys = SentrySection()
    delivery = Delivery(keys.unknown_s, keys.longest_interval_s)
    assert not any(course(delivery, 100, 60, 0.1))
    found = course(delivery, 160, 90, gap_s)
    assert bool(found[-1]) is is_fault
    assert len(set(found)) == 1 + is_fault, "one message, that does not change"
    assert not course(delivery, 250, 60, 0.1)[-1]


def test_gaps_of_a_good_rate_are_no_fault() -> None:
    keys = SentrySection()
    delivery = Delivery(keys.unknown_s, keys.longest_interval_s)
    start_s = 100.0
    for _ in range(20):
        assert not any(course(delivery, start_s, 10, 0.1))
        start_s += 10 + 4


@pytest.mark.parametrize("gap_s", [5.0, 20.0, 90.0])
def test_a_single_long_gap_is_no_bad_rate(gap_s: float) -> None:
    """After the machine had stopped for a minute, the pictures counted as too seldom for two."""
    delivery = Delivery(SentrySection().unknown_s, SentrySection().longest_interval_s)
    assert set(course(delivery, 100, 60, 0.2)) == {""}
    assert set(course(delivery, 160 + gap_s - 0.2, 60, 0.2)) == {""}
