"""The pump between outbox and broker, with a scripted broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tridetr.controller.outbox import ACK_TIMEOUT_S, WINDOW, OutboxPump
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.telemetry import metrics


class Link:
    """Records the messages that were sent; each connection starts empty."""

    def __init__(self) -> None:
        self.connected = False
        self.ended_s = 0.0
        self.sent: list[str] = []
        self.waiting: dict[int, str] = {}
        self.bounces = 0
        self.refused: set[str] = set()
        self._mid = 0

    def publish_acknowledged(self, _topic: str, payload: str) -> int:
        if payload in self.refused:
            raise ValueError("Publish topic cannot contain wildcards.")
        self._mid += 1
        self.waiting[self._mid] = payload
        self.sent.append(payload)
        return self._mid

    def bounce(self) -> None:
        self.bounces += 1

    def up(self, pump: OutboxPump) -> None:
        self.connected = True
        self.waiting.clear()
        pump.on_up()

    def acknowledge(self, pump: OutboxPump) -> None:
        mid = next(iter(self.waiting))
        del self.waiting[mid]
        pump.on_ack(mid)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.store = Store(folder, outbox_limit=1000)
        self.link = Link()
        self.pump = OutboxPump(
            self.store,
            self.link,
            lambda row, is_short: (f"{row.camera}/events", row.event_id + "!" * is_short),
            lambda: self.now,
        )
        self.made: dict[str, list[str]] = {}  # by camera
        self._count = 0

    def add(self, count: int = 1, camera: str = "hall") -> None:
        for _ in range(count):
            self._count += 1
            row = NewRow(0, "person_arrived", "{}", f"e{self._count}")
            self.made.setdefault(camera, []).append(row.event_id)
            self.store.commit(camera, "{}", [row])
        self.pump.pump()

    def reconnect(self, *, after_s: float = 0.0) -> None:
        """End the connection some seconds after now, and begin the next one."""
        self.now += after_s
        self.link.connected, self.link.ended_s = False, self.now
        self.link.up(self.pump)

    def wait(self, seconds: float) -> list[str]:
        """Let some seconds pass; return what is sent."""
        before = len(self.link.sent)
        self.now += seconds
        self.pump.pump()
        return self.link.sent[before:]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def names(first: int, last: int) -> list[str]:
    return [f"e{number}" for number in range(first, last + 1)]


def test_nothing_is_sent_while_disconnected(bench: Bench) -> None:
    bench.add(3)
    assert bench.link.sent == []
    bench.link.up(bench.pump)
    assert bench.link.sent == names(1, 3)
    assert len(bench.store.outbox) == 3, "sent is not acknowledged"


def test_event_is_removed_on_its_acknowledgement_only(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.add(2)
    bench.pump.on_ack(999)  # of a retained message
    assert len(bench.store.outbox) == 2
    bench.link.acknowledge(bench.pump)
    assert [row.event_id for row in bench.store.outbox.values()] == ["e2"]
    assert not bench.pump.idle
    bench.link.acknowledge(bench.pump)
    assert bench.pump.idle


def test_an_event_that_cannot_be_published_is_dropped_and_does_not_block_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    dropped = metrics.OUTBOX_DROPPED._value.get()
    bench.link.refused = {"e2", "e3"}
    bench.add(4)
    bench.link.up(bench.pump)
    for _ in range(6):
        bench.pump.pump()
    assert bench.link.sent == ["e1", "e4"]
    assert list(bench.store.outbox) == ["e1", "e4"]
    assert metrics.OUTBOX_DROPPED._value.get() == dropped + 2
    assert [record.getMessage().split()[1] for record in caplog.records] == ["e2", "e3"]


def test_number_of_events_in_flight_is_limited(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.add(WINDOW + 5)
    assert bench.link.sent == names(1, WINDOW)
    bench.link.acknowledge(bench.pump)
    assert bench.link.sent == names(1, WINDOW + 1)


def test_new_connection_gets_all_waiting_events_once_in_order(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.add(2)
    bench.link.connected = False
    bench.add(1)
    bench.link.up(bench.pump)
    assert bench.link.sent == ["e1", "e2", "e1", "e2", "e3"]
    for _ in range(3):
        bench.link.acknowledge(bench.pump)
    assert bench.pump.idle


def test_an_event_that_ends_the_connection_is_sent_in_its_short_form(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """One with many boxes was sent over each connection, ended it, and held back all others."""

    def connection() -> list[str]:
        """Return what is sent on a connection that the whole of e2 ends; the first acknowledgement is lost too."""
        bench.link.sent.clear()
        bench.link.up(bench.pump)
        while bench.link.waiting and "e2" not in bench.link.waiting.values():
            bench.link.acknowledge(bench.pump)
        return list(bench.link.sent)

    bench.add(3)
    assert [connection() for _ in range(2)] == [["e1", "e2", "e3"]] * 2
    assert connection() == ["e1!", "e2", "e3"], "the oldest is suspected first, and sent alone"
    assert connection() == ["e2", "e3"]
    assert connection() == ["e2!", "e3"]
    assert bench.pump.idle
    assert "acknowledged event e2 (a limit" in caplog.text
    bench.add(1)
    assert bench.link.sent[-1] == "e4"


def test_a_topic_that_the_broker_refuses_holds_back_only_its_own_events(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """One event on a topic that an ACL forbids blocked the events of all cameras for good."""
    bench.add(2, "yard")
    bench.add(1)
    bench.link.up(bench.pump)
    for _ in range(3):
        bench.reconnect()
    assert bench.link.sent[-2:] == ["e1!", "e1!"]
    assert (bench.pump.fault, bench.pump.idle) == ("", False)
    bench.reconnect()
    assert bench.link.sent[-1] == "e3"
    assert not bench.pump.idle
    bench.link.acknowledge(bench.pump)
    assert bench.pump.idle
    assert list(bench.store.outbox) == ["e1", "e2"]
    assert "published to yard/events" in bench.pump.fault
    assert bench.pump.fault in caplog.text
    bench.add(1)
    bench.add(1, "yard")
    assert bench.link.sent[-1] == "e4"
    # Tried again after growing pauses, when no other event is in flight
    assert bench.wait(100) == []
    bench.link.acknowledge(bench.pump)
    assert bench.link.sent[-1] == "e1!"
    for pause_s, after_s in ((120, 1), (120, 10), (240, 1), (480, 1), (600, 1), (600, 1)):
        bench.reconnect(after_s=after_s)  # it may be an outage, unless it is soon
        assert bench.wait(pause_s - 1) == []
        assert bench.wait(1) == ["e1!"]
    bench.link.acknowledge(bench.pump)
    assert bench.link.sent[-2:] == ["e2", "e5"]
    assert bench.pump.fault == ""
    for _ in range(2):
        bench.link.acknowledge(bench.pump)
    assert not bench.store.outbox


def test_a_refused_topic_is_tried_again_only_on_a_connection_that_lasts(bench: Bench) -> None:
    bench.add(1, "yard")
    bench.link.up(bench.pump)
    for _ in range(4):
        bench.reconnect()
    bench.reconnect(after_s=1000)
    assert bench.wait(9) == []
    assert bench.wait(1) == ["e1!"]


def test_outages_do_not_set_a_topic_aside(bench: Bench) -> None:
    bench.add(1)
    bench.link.up(bench.pump)
    for _ in range(10):
        bench.reconnect(after_s=10)
    assert bench.link.sent[-1] == "e1!"
    assert bench.pump.fault == ""


def test_messages_without_acknowledgement_do_not_count_as_answers(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.add(1)
    for _ in range(30):
        bench.now += 1
        bench.pump.on_ack(999)
        bench.pump.watch()
    assert bench.link.bounces == 1


def test_silent_broker_is_reconnected_with_growing_pauses(bench: Bench) -> None:
    """Neither the pump nor paho may resend all events over each new connection."""
    bench.link.up(bench.pump)
    bench.add(2)
    bounced: list[float] = []
    for _ in range(3 * 60 * 60):
        bench.now += 1
        bench.pump.watch()
        if bench.link.bounces > len(bounced):
            bounced.append(bench.now)
            bench.link.up(bench.pump)
    pauses = [b - a for a, b in zip([0.0, *bounced], bounced, strict=False)]
    assert pauses[:4] == [21, 41, 61, 61]
    assert bench.link.sent == ["e1", "e2"] + ["e1"] * len(bounced)
    bench.link.acknowledge(bench.pump)
    assert bench.link.sent[-1] == "e2"
    bench.link.acknowledge(bench.pump)
    assert bench.pump.idle
    bench.add(1)
    bench.now += ACK_TIMEOUT_S + 1
    bench.pump.watch()
    assert bench.link.bounces == len(bounced) + 1, "an acknowledgement ends the patience"


def test_acknowledged_retained_message_resets_the_window(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.add(3)
    bench.now += ACK_TIMEOUT_S + 1
    bench.pump.watch()
    bench.link.up(bench.pump)
    assert bench.link.sent == ["e1", "e2", "e3", "e1"]
    bench.pump.on_ack(999)  # of a message with QoS 0: it was merely sent
    assert bench.link.sent[4:] == []
    bench.pump.on_answer()
    assert bench.link.sent[4:] == ["e2", "e3"]


def test_an_idle_connection_is_left_alone(bench: Bench) -> None:
    bench.link.up(bench.pump)
    bench.now += 10 * ACK_TIMEOUT_S
    bench.pump.watch()
    bench.add(1)
    bench.pump.watch()
    assert bench.link.bounces == 0


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(
    st.lists(
        st.sampled_from(["add hall", "add yard", "up", "down", "refused", "ack", "wait"]),
        max_size=60,
    )
)
def test_any_sequence_of_faults_delivers_all_in_order(
    tmp_path_factory: pytest.TempPathFactory, course: list[str]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("outbox"))
    for action in [*course, "down", "up"]:
        if action.startswith("add"):
            bench.add(1, action[4:])
        elif action == "up" and not bench.link.connected:
            bench.link.up(bench.pump)
        elif action in ("down", "refused") and bench.link.connected:
            bench.now += 10 * (action == "down")
            bench.link.connected, bench.link.ended_s = False, bench.now
        elif action == "ack" and bench.link.connected and bench.link.waiting:
            bench.link.acknowledge(bench.pump)
        elif action == "wait":
            bench.wait(100)
    for _ in range(3):
        while bench.link.waiting:
            bench.link.acknowledge(bench.pump)
        bench.wait(3600)
    assert not bench.store.outbox
    assert bench.pump.idle
    assert bench.pump.fault == ""
    sent = list(dict.fromkeys(one.rstrip("!") for one in bench.link.sent))
    for made in bench.made.values():
        assert [one for one in sent if one in made] == made
    assert len(sent) == sum(map(len, bench.made.values()))
    bench.store.close()
