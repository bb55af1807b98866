"""What is in flight to a viewer follows what its link carries."""

from __future__ import annotations

from collections import deque

import pytest

from tridetr.gateway.flight import Flight


def longest_wait(
    rates: list[float], *, packet: int, fps: float, back_s: float = 0.05
) -> tuple[float, float]:
    """Send video for ten seconds at each link rate (bytes per second), with unlimited buffers before the link.

    Returns:
        The longest time that a new message waits behind packets after the first five seconds of a rate [s], and the
        part of the last rate that was used.
    """
    flight = Flight()
    queue: deque[list[float]] = deque()  # packets before the link: bytes left
    acks: deque[tuple[float, int]] = deque()  # time at which they arrive, packets
    arrived, carried, worst, tick = 0, 0.0, 0.0, 0.01
    for number in range(int(len(rates) * 10 / tick)):
        now, rate = number * tick, rates[int(number * tick / 10)]
        room = rate * tick
        while queue and room > 0:
            part = min(room, queue[0][0])
            queue[0][0] -= part
            room -= part
            carried += part if now >= 10 * len(rates) - 5 else 0
            if queue[0][0] <= 0:
                queue.popleft()
                arrived += 1
                acks.append((now + back_s, arrived))
        while acks and acks[0][0] <= now:
            flight.acknowledge(acks.popleft()[1], now)
        if number % round(1 / fps / tick) == 0 and flight.may_add(now):
            flight.add(packet, now)
            queue.append([packet])
        if now % 10 > 5:
            worst = max(worst, sum(left for (left,) in queue) / rate)
    return worst, carried / (5 * rates[-1])


@pytest.mark.parametrize("rates", [[60_000], [250_000], [5e6, 250_000], [5e6, 125_000, 5e6]])
def test_messages_wait_about_a_second_at_most(rates: list[float]) -> None:
    worst, used = longest_wait(rates, packet=50_000, fps=10)
    assert worst < 1.8  # 50,000 bytes alone take 0.8 s at 60,000 bytes per second
    assert used > (0.7 if rates[-1] < 500_000 else 0.09)


def test_one_packet_of_any_size_may_be_sent() -> None:
    flight = Flight()
    assert flight.may_add(0.0)
    flight.add(10_000_000, 0.0)
    assert not flight.may_add(0.1)
    flight.acknowledge(1, 20.0)
    assert flight.may_add(20.0)
    assert len(flight) == 0


def test_a_late_viewer_is_sent_nothing_until_it_has_all() -> None:
    flight = Flight()
    for number in range(4):
        flight.add(1000, number / 10)
    assert flight.may_add(1.0)
    assert not flight.may_add(1.1)
    flight.acknowledge(3, 1.2)
    assert not flight.may_add(1.2)
    flight.acknowledge(4, 1.3)
    assert flight.may_add(1.3)


def test_acknowledgements_of_more_than_was_sent_count_as_all() -> None:
    flight = Flight()
    flight.add(1000, 0.0)
    flight.acknowledge(2**53, 0.1)
    flight.add(1000, 0.2)
    assert len(flight) == 1
    flight.acknowledge(1, 0.3)
    assert len(flight) == 1
    flight.acknowledge(2, 0.3)
    assert len(flight) == 0
