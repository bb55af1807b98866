"""The manifests of the chart, rendered once for all tests in this folder."""

from __future__ import annotations

import pytest

from support.chart import Manifest, render
from support.chart_values import CASES


@pytest.fixture(params=CASES, ids=list(CASES), scope="session")
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(CASES[request.param])
