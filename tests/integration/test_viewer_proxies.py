"""The viewer in a real Chromium behind a real nginx: path prefixes, changed hosts, missing headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from support.browser import CHROMIUM, NO_CHROMIUM, WAIT_MS, Tab
from support.gateway import Gateway, cameras
from support.nginx import NGINX, nginx, recipe

TOKEN = "correct-horse-battery-staple"
INGRESS = "/api/hassio_ingress/kq3J-x_1/"  # as in Home Assistant's ingress

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(
        NGINX is None, reason="nginx is not installed (apt-get install nginx-light)"
    ),
    pytest.mark.timeout(240),
]


@pytest.mark.parametrize("prefix", ["/", "/cams/", INGRESS])
def test_login_pictures_and_logout_under_a_path_prefix(
    tmp_path: Path, tab: Tab, prefix: str
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    section = {"token_file": tmp_path / "token", "trusted_proxies": ["127.0.0.1"]}
    with (
        cameras(tmp_path, "hall", "yard", gateway=section) as (config, fakes),
        Gateway(config) as gateway,
        nginx(tmp_path / "nginx", recipe(gateway.port, prefix)) as proxy,
    ):
        for camera in fakes.values():
            camera.play(fps=5)
        asked: list[str] = []
        tab.page.on("request", lambda request: asked.append(request.url))
        tab.page.goto(f"{proxy}{prefix}#hall")
        tab.page.wait_for_url("**/login#hall")
        tab.page.get_by_label("Gateway token").fill(TOKEN)
        tab.page.keyboard.press("Enter")
        tab.has_picture("hall")
        # The requested link is preserved.
        assert tab.page.url == f"{proxy}{prefix}#hall"
        expect(tab.card("yard")).to_be_hidden()
        snapshot = tab.card("hall").locator('[data-part="snapshot"]').get_attribute("href")
        assert tab.page.request.get(f"{proxy}{prefix}{snapshot}").ok
        (cookie,) = tab.page.context.cookies()
        assert cookie["path"] == (prefix.rstrip("/") or "/")
        tab.page.get_by_role("button", name="Log out").click()
        tab.page.wait_for_url("**/login")
        assert tab.page.context.cookies() == []
        assert all(url.startswith(f"{proxy}{prefix}") for url in asked), asked
        assert tab.complaints == []


@pytest.mark.parametrize(
    ("missing", "added", "reason"),
    [
        ("proxy_set_header Host", "", "must pass the Host header"),
        ("Upgrade", "", "must pass the Upgrade"),
        ("Upgrade", "limit_except GET { deny all; }", "answers with status 403"),
    ],
)
def test_a_proxy_that_refuses_the_websocket_is_explained(
    tmp_path: Path, tab: Tab, missing: str, added: str, reason: str
) -> None:
    with cameras(tmp_path, "hall") as (config, fakes), Gateway(config) as gateway:
        lines = recipe(gateway.port, "/").splitlines()
        broken = "\n".join(line for line in lines if missing not in line)
        with nginx(tmp_path / "nginx", broken.replace("{", "{" + added, 1)) as proxy:
            fakes["hall"].play(fps=5)
            tab.page.goto(proxy)
            text = tab.card("hall").locator(".cover-text")
            expect(text).to_contain_text(reason, timeout=WAIT_MS)
