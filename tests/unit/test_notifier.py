"""Notification targets that hang without an error, or never accept one message."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tridetr.config import NotifySection
from tridetr.controller import notices, notifier
from tridetr.controller.store import Store
from tridetr.controller.stored_rows import NewRow
from tridetr.notify.notification import Message, example_message
from tridetr.notify.senders import DeliveryError
from tridetr.telemetry import metrics


async def test_hanging_delivery_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver or a library that never returns raises no error, but must still be reported."""
    released = threading.Event()
    monkeypatch.setattr(notifier, "deliver", lambda *_: released.wait(30))
    section = NotifySection(name="hook", kind="webhook", url_file=tmp_path / "url")
    message: Message = example_message("node", "hall", None, None)
    store = Store(tmp_path, outbox_limit=100)
    store.audience = lambda _row: ("hook",)
    target = notifier.Notifier((section,), store, lambda *_: message)
    try:
        store.commit("hall", "{}", [NewRow(time.time_ns(), "person_arrived", "{}", "v:arrived")])
        target.pump()
        assert target.problem(60) == ""
        assert target.problem(0) == "hook: it does not keep up"
        released.set()
        for _ in range(500):
            if not target.problem(0):
                break
            await asyncio.sleep(0.01)
        assert target.problem(0) == ""
    finally:
        released.set()
        store.close()


async def test_a_clock_that_is_set_back_hides_no_waiting_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that an event has waited was taken from the wall clock."""
    steady = time.monotonic()
    monkeypatch.setattr(notifier, "deliver", lambda *_: None)
    section = NotifySection(name="hook", kind="webhook", url_file=tmp_path / "url")
    message: Message = example_message("node", "hall", None, None)
    store = Store(tmp_path, outbox_limit=100)
    store.audience = lambda _row: ("hook",)
    target = notifier.Notifier((section,), store, lambda *_: message)
    with closing(store):
        late, early = time.time_ns() + 7200 * 10**9, 10**9
        for number, unix_ns in enumerate((late, early)):
            row = NewRow(unix_ns, "person_arrived", "{}", f"v{number}:arrived")
            store.commit("hall", "{}", [row])
        assert target.problem(60) == ""
        monkeypatch.setattr("time.monotonic", lambda: steady + 100)
        store.commit("hall", "{}", [NewRow(late, "person_arrived", "{}", "v2:arrived")])
        assert target.problem(60) == "hook: it does not keep up"
        for number in range(2):
            store.notified("hook", f"v{number}:arrived")
        assert target.problem(60) == ""
        monkeypatch.setattr("time.monotonic", lambda: steady + 170)
        assert target.problem(60) == "hook: it does not keep up"
        store.notified("hook", "v2:arrived")
        assert target.problem(60) == ""


@dataclass
class Phone:
    """A target that accepts the messages that `takes` allows."""

    store: Store
    takes: Callable[[Message], bool]
    refused: bool = False
    wait_s: float = 0.0
    in_part: bool = False

    def __post_init__(self) -> None:
        self.asked: list[str] = []
        self.got: list[Message] = []
        section = NotifySection(name="phone", kind="apprise", url_file=Path("/x"))
        self.store.audience = lambda _row: ("phone",)
        example = example_message("node", "hall", None, b"jpeg")
        self.target = notifier.Notifier(
            (section,), self.store, lambda _, row: replace(example, event_id=row.event_id)
        )

    def deliver(self, _section: NotifySection, message: Message) -> None:
        self.asked.append(message.event_id)
        if not self.takes(message):
            raise DeliveryError(
                "500", refused=self.refused, wait_s=self.wait_s, in_part=self.in_part
            )
        self.got.append(message)

    async def play(self, visits: str, *, until: Callable[[], bool], turns: int = 1000) -> None:
        """Add an arrival for each visit, and deliver until a condition holds."""
        for visit in visits:
            row = NewRow(time.time_ns(), "person_arrived", "{}", f"{visit}:arrived")
            self.store.commit("hall", "{}", [row])
        for _ in range(turns):
            self.target.pump()
            if until():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"asked for {self.asked}")

    @property
    def visits(self) -> str:
        return "".join(message.event_id[0] for message in self.got)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, outbox_limit=100)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "_RETRY_S", (0.001, 0.002))


@pytest.mark.usefixtures("quick")
async def test_message_that_is_never_accepted_does_not_block_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that fails for one event (status 500) must still get later alarms."""
    phone = Phone(store, lambda message: message.event_id != "b:arrived")
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abcdefghi", until=lambda: not store.notices.waiting["phone"])
    assert phone.visits == "acdefghi"
    assert phone.asked.count("b:arrived") == notifier._FAILURES + notifier._REFUSALS - 1
    store.close()


@pytest.mark.usefixtures("quick")
async def test_a_message_that_only_some_recipients_accept_is_sent_twice_at_most(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of two recipients refuses all: the other got each message again and again, and later ones waited."""
    phone = Phone(store, lambda _message: False, in_part=True)
    pictures: list[bool] = []

    def deliver(section: NotifySection, message: Message) -> None:
        pictures.append(message.picture is not None)
        phone.deliver(section, message)

    monkeypatch.setattr(notifier, "deliver", deliver)
    dropped = metrics.NOTIFICATIONS.labels("phone", "dropped")
    before = dropped._value.get()
    await phone.play("abc", until=lambda: not store.notices.waiting["phone"])
    assert phone.asked == [f"{visit}:arrived" for visit in "aabbcc"]
    assert pictures == [True, False] * 3, "the picture may be what is not accepted"
    assert dropped._value.get() == before + 3
    assert "notification of a:arrived to phone was delivered in part 2 times" in caplog.text
    store.close()


@pytest.mark.usefixtures("quick")
async def test_a_message_in_part_beside_one_that_fails_is_sent_twice_at_most(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the oldest one fails, others are tried in turn."""
    phone = Phone(store, lambda _message: False)

    def deliver(section: NotifySection, message: Message) -> None:
        phone.in_part = message.event_id != "a:arrived"
        phone.deliver(section, message)

    monkeypatch.setattr(notifier, "deliver", deliver)
    await phone.play("abcdefgh", until=lambda: not store.notices.waiting["phone"])
    assert [phone.asked.count(f"{visit}:arrived") for visit in "bcdefgh"] == [2] * 7
    store.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("poison", ["ab", "abcd", "bdf", "acegi"])
async def test_several_messages_that_are_never_accepted_do_not_block_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    """Two in a row that failed kept every later alarm from being sent."""
    phone = Phone(store, lambda message: message.event_id[0] not in poison)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    accepted = [visit for visit in "abcdefghijklmnopq" if visit not in poison]
    await phone.play("abcdefghijklmnopq", until=lambda: len(phone.got) == len(accepted))
    assert sorted(phone.visits) == accepted
    store.close()


@pytest.mark.usefixtures("quick")
async def test_a_message_that_fails_with_a_request_to_wait_does_not_block_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others were never tried: each attempt was followed by the pause that the target had asked for."""
    phone = Phone(store, lambda message: message.event_id[0] not in "ac", wait_s=0.001)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abcdefgh", until=lambda: sorted(phone.visits) == list("bdefgh"))
    store.close()


@pytest.mark.usefixtures("quick")
async def test_a_target_that_limits_the_rate_loses_no_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage, others took each free place, and counted as refusals of the oldest event."""
    free_at = 0.0

    def accept(_message: Message) -> bool:
        nonlocal free_at
        if len(phone.asked) < 10 or time.monotonic() < free_at:
            return False
        free_at = time.monotonic() + 0.05
        return True

    phone = Phone(store, accept, wait_s=0.05)
    monkeypatch.setattr(notifier, "_RETRY_S", (0.001, 1.0))
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abcdefgh", until=lambda: not store.notices.waiting["phone"], turns=5000)
    assert sorted(phone.visits) == list("abcdefgh")
    store.close()


async def test_new_alarm_does_not_wait_behind_several_failing_messages(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "wait_s", lambda failures, *_: 0 if failures < 7 else 300)
    phone = Phone(store, lambda message: message.event_id[0] not in "abc")
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abc", until=lambda: phone.asked.count("a:arrived") == 7)
    await phone.play("d", until=lambda: phone.visits == "d")
    store.close()


@pytest.mark.usefixtures("quick")
async def test_outage_loses_nothing_and_keeps_the_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = Phone(store, lambda _message: len(phone.asked) > 60)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abcde", until=lambda: not store.notices.waiting["phone"])
    assert sorted(phone.visits) == list("abcde")
    # Only the event that was tried beside the oldest one may be early
    assert any(phone.visits.replace(early, "") == "abcde".replace(early, "") for early in "abcde")
    store.close()


@pytest.mark.usefixtures("quick")
async def test_a_message_that_cannot_be_sent_for_want_of_threads_is_not_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod with a limit of processes, an alarm was dropped as refused after 15 s."""

    def accept(_message: Message) -> bool:
        if len(phone.asked) <= 2 * notifier._REFUSALS:
            raise RuntimeError("can't start new thread")
        return True

    phone = Phone(store, accept)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("a", until=lambda: not store.notices.waiting["phone"])
    assert phone.visits == "a"
    store.close()


@pytest.mark.usefixtures("quick")
async def test_picture_that_is_never_accepted_loses_no_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service's limit for pictures must not block the message itself and those after it."""
    phone = Phone(store, lambda message: message.picture is None)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("abc", until=lambda: not store.notices.waiting["phone"])
    assert phone.visits == "abc"
    assert len(phone.asked) == 3 * (notifier._WITH_PICTURE + 1)
    store.close()


@pytest.mark.usefixtures("quick")
async def test_refusals_of_a_dropped_event_do_not_count_for_the_next_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue was full: the oldest event was dropped between two attempts, or during one."""
    phone = Phone(store, lambda _message: phone.asked.count("b:arrived") > 3, refused=True)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("a", until=lambda: len(phone.asked) == notifier._REFUSALS - 1)
    monkeypatch.setattr(notices, "LIMIT", 1)
    await phone.play("b", until=lambda: phone.visits == "b")
    store.close()


async def test_new_alarm_does_not_wait_for_the_end_of_a_long_pause(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "wait_s", lambda failures, *_: 0 if failures < 5 else 300)
    phone = Phone(store, lambda message: message.event_id != "a:arrived")
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("a", until=lambda: len(phone.asked) >= notifier._FAILURES)
    await phone.play("b", until=lambda: phone.visits == "b")
    phone.wait_s = 300
    asked = len(phone.asked)
    await phone.play("c", until=lambda: len(phone.asked) > asked)
    with pytest.raises(AssertionError):
        await phone.play("d", turns=50, until=lambda: len(phone.asked) > asked + 1)
    assert phone.visits == "b", "the target asked to be left alone"
    store.close()


def test_notifications_of_a_removed_target_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They were not counted, so the alert for dropped notifications could not fire.

    Prometheus sees an increase only if it has scraped the counter at 0 before.
    """
    steady = time.monotonic()
    message: Message = example_message("node", "hall", None, None)

    def started() -> tuple[Store, notifier.Notifier]:
        store = Store(tmp_path, outbox_limit=100)
        return store, notifier.Notifier((), store, lambda *_: message)

    def pump_after(target: notifier.Notifier, seconds: float) -> list[float]:
        """Return the counter's samples after a time since the first start."""
        monkeypatch.setattr("time.monotonic", lambda: steady + seconds)
        target.pump()
        wanted = {"target": "old", "outcome": "dropped"}
        samples = next(iter(metrics.NOTIFICATIONS.collect())).samples
        return [one.value for one in samples if one.labels == wanted and "_total" in one.name]

    store = Store(tmp_path, outbox_limit=100)
    store.audience = lambda _row: ("old",)
    for number in range(3):
        row = NewRow(time.time_ns(), "person_arrived", "{}", f"v{number}:arrived")
        store.commit("hall", "{}", [row])
    store.close()

    store, target = started()
    assert pump_after(target, 0) == [0]
    assert "old is no longer in `notify`" in caplog.text
    caplog.clear()
    assert pump_after(target, 100) == [0]
    assert caplog.text == "", "logged once"
    store.close()

    store, target = started()
    assert pump_after(target, 110) == pump_after(target, 200) == [0]
    assert len(store.notices.waiting["old"]) == 3
    assert pump_after(target, 240) == pump_after(target, 500) == [3]
    assert "dropped (3)" in caplog.text
    store.close()

    store, target = started()
    assert pump_after(target, 600) == pump_after(target, 900) == [3]
    assert store.notices.waiting == {}
    store.close()


async def test_notifications_of_a_target_that_is_added_again_are_delivered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was changed by mistake costs nothing if it is corrected soon."""
    store.audience = lambda _row: ("phone",)
    store.commit("hall", "{}", [NewRow(1, "person_arrived", "{}", "a:arrived")])
    notifier.Notifier((), store, lambda *_: example_message("node", "hall", None, None)).pump()
    phone = Phone(store, lambda _message: True)
    monkeypatch.setattr(notifier, "deliver", phone.deliver)
    await phone.play("", until=lambda: phone.visits == "a")
    store.close()
