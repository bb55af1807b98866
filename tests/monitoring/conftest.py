"""One node for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.watched import Watched, running_watched_node


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    with running_watched_node(tmp_path_factory.mktemp("node")) as node:
        yield node
