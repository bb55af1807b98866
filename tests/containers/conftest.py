"""The container engine, and the images, which are built once for all tests in this folder."""

from __future__ import annotations

import time

import pytest

from support.containers import CLIENT, ROOT, TRITON, Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Return the first container engine that works; skip the tests if there is none."""
    folder = tmp_path_factory.mktemp("engine")
    for program in ("docker", "podman"):
        found = Engine(program, folder)
        if found.works():
            return found
    pytest.skip("neither Docker nor podman can run containers here")


@pytest.fixture(scope="session")
def images(engine: Engine) -> Engine:
    """Build both images of a node without a GPU; print their sizes."""
    engine.need_base_images()
    for dockerfile, tag in (("client", CLIENT), ("triton-cpu", TRITON)):
        started = time.monotonic()
        engine.build(ROOT / "docker" / f"{dockerfile}.Dockerfile", tag)
        print(f"\n{tag}: built in {time.monotonic() - started:.0f} s, {engine.size_mb(tag):.0f} MB")
    return engine
