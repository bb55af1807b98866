"""The arming switches in the viewer and the HTTP API: a real controller behind a real gateway."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import CHROMIUM, NO_CHROMIUM, Tab
from support.gateway import Gateway
from support.mosquitto import Subscriber, listening, running_mosquitto
from support.sentry import ControllerProcess, running_controller
from support.waiting import wait_for
from tridetr.config import Config


def ask(gateway: Gateway, path: str, method: str = "GET", body: object = None) -> Any:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(gateway.url + path, method=method, data=data)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[ControllerProcess, Gateway, Subscriber]]:
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        listening(broker) as ear,
        running_controller(tmp_path, {"port": broker.port}, gateway={"port": 0}) as (node, _),
    ):
        wait_for(lambda: ear.last("node1/armed") == b"ON")
        with Gateway(Config.model_validate(node.config)) as gateway:
            yield node, gateway, ear


def test_http_api(
    node: tuple[ControllerProcess, Gateway, Subscriber],
) -> None:
    controller, gateway, ear = node
    assert ask(gateway, "/api/armed") == {"armed": True, "cameras": {"hall": True}}
    answer = ask(gateway, "/api/armed/hall", "PUT", {"armed": False})
    assert answer == {"armed": True, "cameras": {"hall": False}}
    wait_for(lambda: ear.last("hall/armed") == b"OFF")
    assert ask(gateway, "/api/armed", "PUT", {"armed": False})["armed"] is False
    wait_for(lambda: ear.last("node1/armed") == b"OFF")
    assert ask(gateway, "/api/armed/nowhere", "PUT", {"armed": True}) == 404
    junks: list[Any] = [None, b"\xf9", b"{", [], {}, {"armed": 1}, {"armed": "true"}]
    for junk in junks:
        assert ask(gateway, "/api/armed", "PUT", junk) == 400
    controller.kill()
    assert ask(gateway, "/api/armed") == 503
    controller.start()
    wait_for(lambda: ask(gateway, "/api/armed") == {"armed": False, "cameras": {"hall": False}})


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_viewer_switches(node: tuple[ControllerProcess, Gateway, Subscriber], tab: Tab) -> None:
    _, gateway, ear = node
    tab.page.goto(gateway.url)
    switch = tab.page.locator("#armed")
    expect(switch).to_have_text("Armed")
    switch.click()
    expect(switch).to_have_text("Disarmed")
    expect(switch).to_have_attribute("aria-pressed", "false")
    wait_for(lambda: ear.last("node1/armed") == b"OFF")
    camera = tab.card("hall").locator('[data-part="armed"]')
    expect(camera).to_have_attribute("aria-pressed", "true")
    ear.client.publish("tridetr/node1/hall/armed/set", "off")
    expect(camera).to_have_attribute("aria-pressed", "false")
    assert not tab.complaints


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_switches_work_with_screen_readers_and_keyboard(
    node: tuple[ControllerProcess, Gateway, Subscriber], tab: Tab
) -> None:
    """The labels do not change with the state, the focus stays, and a failure is announced."""
    controller, gateway, _ = node
    tab.page.goto(f"{gateway.url}/#hall")
    for name in ("Armed", "Armed: hall"):
        switch = tab.page.get_by_role("button", name=name, exact=True)
        expect(switch).to_have_attribute("aria-pressed", "true")
        switch.focus()
        for pressed, text in (("false", "Disarmed"), ("true", "Armed")):
            tab.page.keyboard.press("Enter")
            expect(switch).to_have_attribute("aria-pressed", pressed)
            expect(switch).to_have_text(text)
            expect(switch).to_be_focused()
    controller.kill()
    switch.click()
    expect(tab.page.locator("#announce")).to_contain_text("hall was not disarmed")
    expect(switch).to_have_text("Not changed")
    expect(switch).to_have_text("Armed")
    expect(switch).to_have_attribute("aria-pressed", "true")
