"""The viewer in a headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, expect

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
NO_CHROMIUM = "Chromium is not installed (apt-get install chromium)"
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)


@dataclass
class Tab:
    """A browser tab with the viewer; collects the errors of its console."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def card(self, camera: str) -> Any:
        return self.page.locator(f'.card[data-camera="{camera}"]')

    def has_picture(self, camera: str) -> None:
        """Wait until the camera's picture is shown."""
        expect(self.card(camera)).to_have_attribute("data-trouble", "", timeout=WAIT_MS)


@contextmanager
def open_tab(browser: Browser, **options: Any) -> Iterator[Tab]:
    """Open a tab in a new browser context; ``options`` are passed to the context."""
    options.setdefault("viewport", {"width": 1200, "height": 800})
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    tab = Tab(context.new_page())
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.page.on(
        "console",
        lambda message: (
            tab.complaints.append(message.text)
            if message.type == "error" and "WebSocket" not in message.text
            else None
        ),
    )
    yield tab
    context.close()
