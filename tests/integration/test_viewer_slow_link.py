"""The viewer in a real Chromium over a link that is too slow: what is old never looks live."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from support.browser import CHROMIUM, NO_CHROMIUM, WAIT_MS, Tab
from support.gateway import Gateway, cameras
from support.slow_link import slow_link
from support.video_camera import VideoCamera, playing
from tridetr.config import Config
from tridetr.shm.boards import SentryState

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.timeout(240),
]
FAST = 2e7  # bytes per second
SUMMARY = "#summary"

# Counts the looks at the page at which a picture older than 7 s has no cover.
RECORD = """() => {
  const card = document.querySelector('.card[data-camera="hall"]');
  window.seen = { looks: 0, old: 0 };
  setInterval(() => {
    window.seen.looks += 1;
    if (card.dataset.trouble === '' && Date.now() - card.dataset.captured > 7000) window.seen.old += 1;
  }, 100);
}"""


class NoisyCamera(VideoCamera):
    """Its pictures are noisy, so that its video needs several Mbit/s."""

    _random = np.random.default_rng(1)

    def _draw(self, number: int) -> NDArray[np.uint8]:
        picture = super()._draw(number).astype(np.int16)
        height = picture.shape[0] * 2 // 3
        noise = self._random.integers(-9, 10, picture[:height].shape, dtype=np.int16)
        picture[:height] += noise
        return np.clip(picture, 0, 255).astype(np.uint8)


@contextmanager
def noisy_camera(tmp_path: Path, *, group: int) -> Iterator[tuple[VideoCamera, Config]]:
    with cameras(tmp_path, "hall", live_s=5.0) as (config, fakes):
        camera = NoisyCamera(config.instance, fakes["hall"], group=group)
        try:
            yield camera, config
        finally:
            camera.close()


@pytest.mark.parametrize("group", [20, 1000])
def test_video_that_the_link_does_not_carry_is_replaced_by_jpegs(
    tmp_path: Path, tab: Tab, group: int
) -> None:
    with (
        noisy_camera(tmp_path, group=group) as (camera, config),
        Gateway(config) as gateway,
        playing(camera),
        slow_link(gateway.port, FAST, stores=True) as link,
    ):
        tab.page.goto(f"http://127.0.0.1:{link.port}/")
        card = tab.card("hall")
        expect(card.locator('[data-part="picture"]')).to_contain_text("camera's own H.264")
        tab.has_picture("hall")
        tab.page.evaluate(RECORD)
        link.rate = 200_000  # the camera sends about three times as much
        expect(card).to_have_attribute("data-transport", "jpeg")
        expect(card.locator('[data-part="picture"]')).to_have_attribute(
            "title", re.compile("too slow|no key frame")
        )
        tab.has_picture("hall")
        before = time.time() * 1000
        tab.page.wait_for_function(
            "(ms) => Number(document.querySelector('.card').dataset.captured) > ms",
            arg=before,
            timeout=WAIT_MS,
        )
        camera.camera.state = SentryState.TRACKING
        expect(card).to_have_attribute("data-state", "tracking")
        seen = tab.page.evaluate("() => window.seen")
        assert seen["looks"] > 20
        assert seen["old"] == 0, seen


def test_a_key_frame_that_comes_after_the_change_to_jpegs_is_not_shown(
    tmp_path: Path, tab: Tab
) -> None:
    """It took the place of all JPEGs that followed."""
    with (
        noisy_camera(tmp_path, group=20) as (camera, config),
        Gateway(config) as gateway,
        playing(camera),
        slow_link(gateway.port, FAST, stores=True) as link,
    ):
        tab.page.goto(f"http://127.0.0.1:{link.port}/?pictures=jpeg")
        card = tab.card("hall")
        tab.has_picture("hall")
        link.rate = 6000  # the key frame takes longer than the viewer waits for it
        for _ in ("video", "auto"):
            card.locator('[data-part="transport"]').dispatch_event("click")
        expect(card).to_have_attribute("data-transport", "video")
        expect(card).to_have_attribute("data-transport", "jpeg")
        link.rate = FAST
        tab.has_picture("hall")
        before = time.time() * 1000
        tab.page.wait_for_function(
            "(ms) => Number(document.querySelector('.card').dataset.captured) > ms",
            arg=before + 2000,
            timeout=WAIT_MS,
        )
        expect(card.locator('[data-part="picture"]')).to_contain_text("JPEG")


def test_facts_that_do_not_arrive_are_not_quiet(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall", live_s=5.0) as (config, fakes):
        fakes["hall"].play()
        with Gateway(config) as gateway, slow_link(gateway.port, FAST, stores=False) as link:
            tab.page.goto(f"http://127.0.0.1:{link.port}/")
            tab.has_picture("hall")
            expect(tab.page.locator(SUMMARY)).to_have_text("1 camera, all quiet")
            link.rate = 1
            expect(tab.page.locator(SUMMARY)).to_have_text(
                "Blind: hall · the connection is too slow"
            )
            card = tab.card("hall")
            expect(card).to_have_attribute("data-trouble", "late")
            expect(card).to_have_attribute("data-state", "unknown")
            link.rate = FAST
            tab.has_picture("hall")
            expect(card).to_have_attribute("data-state", "standby")
            expect(tab.page.locator(SUMMARY)).to_have_text("1 camera, all quiet")


@pytest.mark.parametrize("wrong_ms", [-3_600_000, 3_600_000])
def test_old_pictures_are_covered_whatever_the_browsers_clock_shows(
    tmp_path: Path, tab: Tab, wrong_ms: int
) -> None:
    tab.page.add_init_script(
        f"""
        const [origin, real] = [performance.timeOrigin, Date.now];
        Object.defineProperty(performance, 'timeOrigin', {{ value: origin + {wrong_ms} }});
        Date.now = () => real() + {wrong_ms};
        """
    )
    with cameras(tmp_path, "hall", live_s=5.0) as (config, fakes):
        hall = fakes["hall"]
        camera = VideoCamera(config.instance, hall)
        stop, is_old = threading.Event(), threading.Event()

        def play() -> None:
            while not stop.wait(0.1):
                sequence = hall.frame()
                assert sequence is not None
                hall.result(sequence)
                hall.report()
                if is_old.is_set():
                    number, monotonic, unix = hall.stamps[sequence]
                    hall.stamps[sequence] = number, monotonic, unix - 14_000_000_000
                camera.encode(sequence)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            with Gateway(config) as gateway:
                tab.page.goto(gateway.url)
                card = tab.card("hall")
                expect(card.locator('[data-part="picture"]')).to_contain_text("camera's own H.264")
                tab.has_picture("hall")
                is_old.set()
                expect(card.locator(".cover-title")).to_have_text(
                    re.compile(r"Picture is 1\d s old")
                )
                expect(card).to_have_attribute("data-trouble", "late")
                # JPEGs of the same pictures are current
                expect(card).to_have_attribute("data-transport", "jpeg")
                tab.has_picture("hall")
        finally:
            stop.set()
            thread.join()
            camera.close()


def test_the_clock_knows_ages_over_a_slow_link_and_after_sleep(tmp_path: Path, tab: Tab) -> None:
    with cameras(tmp_path, "hall") as (config, _), Gateway(config) as gateway:
        tab.page.goto(gateway.url)
        found = tab.page.evaluate(
            """async () => {
          const { ClockOffset, now } = await import("/static/clock.js");
          const near = (value) => Math.round(value / 100) * 100;
          const clock = new ClockOffset();
          const time = now();
          const nothing = [clock.age(time), clock.isKnown];
          // The gateway's clock is 5 s ahead; its answers take 14 s.
          clock.add(time - 14_000, time - 9000, time);
          const slow = [near(clock.age(time + 5000 - 14_000)), near(clock.silence)];
          clock.add(time - 20, time + 3_600_000, time);  // it was set
          const set = near(clock.age(time + 3_600_000));
          const before = clock.forgetSleep();
          const real = Date.now;
          Date.now = () => real() + 60_000;
          const after = [clock.forgetSleep(), clock.isKnown, clock.forgetSleep()];
          Date.now = real;
          return { nothing, slow, set, before, after };
        }"""
        )
    assert found == {
        "nothing": [None, False],
        "slow": [14_000, 14_000],
        "set": 0,
        "before": False,
        "after": [True, False, False],
    }
