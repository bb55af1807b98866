"""Large messages, at a broker that closes the connection on a size or a topic."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tridetr.controller.large_messages import LargeMessages

NODE, STATUS = "tridetr/pc/node", "tridetr/pc/hall/status"
DISCOVERY = [f"homeassistant/device/tridetr_pc/c{n}/config" for n in range(4)]
Takes = Callable[[str, str], bool]


class Broker:
    def __init__(self) -> None:
        self.messages = LargeMessages("tridetr/pc")
        self.texts = {NODE: "n" * 700, STATUS: "s" * 600}
        self.texts |= {topic: "d" * (3000 - 100 * n) for n, topic in enumerate(DISCOVERY)}

    def connect(self, takes: Takes, lasted_s: float = 0.1) -> tuple[list[str], bool]:
        """Publish everything on a new connection; return what was acknowledged, and whether the connection lasts.

        Args:
            takes: whether the broker takes a message.
            lasted_s: how long the last connection lasted after the message that it ended with [s].
        """
        self.messages.on_up(lasted_s)
        for topic, text in self.texts.items():
            self.messages.put(topic, text)
        got: list[str] = []
        while (message := self.messages.next()) is not None:
            self.messages.sent(message[0], 0.0)
            assert self.messages.is_in_flight(message[0])
            if not takes(*message):
                return got, False
            self.messages.confirmed()
            got.append(message[0])
        return got, True


def everything(_topic: str, _text: str) -> bool:
    return True


def test_everything_is_sent_one_by_one_shortest_first_and_own_topics_before_others() -> None:
    broker = Broker()
    assert broker.connect(everything) == ([STATUS, NODE, *reversed(DISCOVERY)], True)
    assert broker.messages.fault == ""
    broker.messages.put(NODE, "1")
    broker.messages.drop(NODE)
    assert broker.messages.next() is None


def test_what_ends_connections_is_left_out_until_the_next_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker()

    def limited(_topic: str, text: str) -> bool:
        return len(text) <= 2750

    fitting = [STATUS, NODE, DISCOVERY[3]]
    assert broker.connect(limited) == (fitting, False)
    assert broker.connect(limited) == (fitting, False)
    assert caplog.text == ""
    assert broker.connect(limited) == (fitting, True)
    size = len(DISCOVERY[2]) + 2800
    assert f"while {DISCOVERY[2]} ({size} bytes) was published" in caplog.text
    assert "max_packet_size" in broker.messages.fault
    # A connection that ends by itself
    assert broker.connect(limited) == (fitting, False)
    assert broker.connect(limited) == (fitting, True)
    assert broker.connect(everything) == ([STATUS, NODE, *reversed(DISCOVERY)], True)
    assert broker.messages.fault == ""


def test_what_an_acl_forbids_leaves_out_no_own_topic() -> None:
    broker = Broker()

    def own(topic: str, _text: str) -> bool:
        return topic.startswith("tridetr")

    for lasts in (False, False, True):
        assert broker.connect(own) == ([STATUS, NODE], lasts)
    broker.texts[NODE] = "n" * 9000
    broker.messages.put(NODE, broker.texts[NODE])
    message = broker.messages.next()
    assert message is not None
    assert message[0] == NODE


def test_own_topics_and_others_that_are_too_large_end_five_connections() -> None:
    """Each attempt with the one must not count again and again as a reason to try the other."""
    broker = Broker()

    def limited(_topic: str, text: str) -> bool:
        return len(text) <= 650

    lasts = [broker.connect(limited)[1] for _ in range(6)]
    assert lasts == [False, False, False, False, False, True]
    assert NODE in broker.messages.fault
    assert DISCOVERY[3] in broker.messages.fault


def test_a_network_that_fails_while_a_message_is_sent_is_no_refusal() -> None:
    """After two outages, the description of the node was left out, at a broker without limits."""
    broker = Broker()
    for _ in range(4):
        assert broker.connect(lambda topic, _: topic != NODE, lasted_s=15)[0] == [STATUS]
    assert broker.messages.fault == ""
    assert broker.connect(everything, lasted_s=15)[1]


@pytest.mark.parametrize("lasted_s", [6, 25])
def test_a_broker_that_closes_the_connection_late_is_recognized_too(
    lasted_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """With an ACL check that takes 5 to 30 s, the node reconnected all the time, and reported nothing."""
    broker = Broker()

    def own(topic: str, _text: str) -> bool:
        return topic.startswith("tridetr")

    lasts = [broker.connect(own, lasted_s)[1] for _ in range(5)]
    assert lasts == [False, False, False, False, True]
    assert f"while {DISCOVERY[3]} (" in broker.messages.fault
    assert broker.messages.fault in caplog.text
    # A connection that ends by itself: one attempt
    assert [broker.connect(own, lasted_s)[1] for _ in range(2)] == [False, True]
    broker.connect(everything)
    assert broker.messages.fault == ""


def test_outages_while_different_messages_are_sent_are_no_refusal() -> None:
    broker = Broker()
    for topic in (NODE, STATUS, *DISCOVERY[:2], NODE, STATUS):
        broker.connect(lambda name, _, until=topic: name != until, lasted_s=15)  # type: ignore[misc]
        assert broker.messages.fault == ""


def test_what_was_left_out_is_tried_again_after_an_outage_that_another_message_met() -> None:
    """A broker restarted without its limit got no discovery message if its last connection ended with a status."""
    broker = Broker()

    def limited(_topic: str, text: str) -> bool:
        return len(text) <= 750

    for lasts in (False, False, True):
        assert broker.connect(limited) == ([STATUS, NODE], lasts)
    broker.messages.put(STATUS, broker.texts[STATUS])
    broker.messages.sent(STATUS, 0.0)
    assert broker.connect(everything) == ([STATUS, NODE, *reversed(DISCOVERY)], True)
    assert broker.messages.fault == ""
