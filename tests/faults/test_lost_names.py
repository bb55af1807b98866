"""Names that are removed while a node is running: rings, queues, all of a user's shared memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from support.faults import Machine, whole, whole_node
from support.node import Node
from support.waiting import wait_for
from tridetr.shm.names import CONSUMERS, RingFile, RingName, list_instance, owner_of

RECOVERY_S = 10.0
KINDS = ("frames", "detections", "sentry", "status")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Machine]]:
    with whole_node(tmp_path_factory.mktemp("node")) as both:
        yield both


def _remove(node: Node, kinds: tuple[str, ...]) -> None:
    for path in list_instance(node.instance):
        owner = owner_of(path.name)
        if isinstance(owner, RingFile) and owner.name.kind in kinds:
            path.unlink()
    for kind in kinds:
        for consumer in CONSUMERS[kind]:
            posix_ipc.unlink_message_queue(RingName(node.instance, "street", kind).queue(consumer))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids=[*KINDS, "all"])
def test_removed_names_are_recreated(
    running: tuple[Node, Machine], kinds: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """The camera stayed live and Unknown, and never recovered."""
    node, machine = running
    before = {name: process.pid for name, process in node.children().items()}
    _remove(node, kinds)
    removed_s = time.monotonic()
    within_s = machine.bound(RECOVERY_S)
    for kind in kinds:
        ring = RingName(node.instance, "street", kind)
        wait_for(ring.generations, within_s, f"no ring of {kind}: {node.log_tail()}")
    # Read through the names, after the rings were recreated.
    made_s = time.monotonic()
    wait_for(lambda: whole(node, made_s), within_s, f"not whole: {node.cameras()}")
    machine.record(f"removed {request.node.callspec.id}", time.monotonic() - removed_s)
    after = {name: process.pid for name, process in node.children().items()}
    assert after == before, node.log_tail()


@pytest.mark.timeout(300)
def test_a_second_node_with_other_folders_is_refused(
    running: tuple[Node, Machine], tmp_path: Path
) -> None:
    """Each removed the other's rings: XDG_RUNTIME_DIR is set in a login session, but not in a service."""
    node, _ = running
    files = {path: path.stat().st_ino for path in list_instance(node.instance)}
    second = Node(tmp_path, node.config["cameras"], instance=node.instance)
    second.start()
    assert second.process
    assert second.process.wait(60) == 2
    assert f"run_dir {node.config['run_dir']}" in second.log_tail()
    assert {path: path.stat().st_ino for path in list_instance(node.instance)} == files
    now_s = time.monotonic()
    wait_for(lambda: whole(node, now_s), 60, node.log_tail())


@pytest.mark.timeout(300)
def test_files_removed_from_the_run_folder_are_recreated(
    running: tuple[Node, Machine],
) -> None:
    """Heartbeats, metrics, the server's socket and key, addresses: a cleaner removes files that are ten days old."""
    node, machine = running
    run_dir = Path(node.config["run_dir"])
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a process may write a new file meanwhile
        else:
            path.unlink()
    removed_s = time.monotonic()
    within_s = machine.bound(3 * RECOVERY_S)
    wanted = [run_dir / name for name in ("triton.json", "broker.json", "served_model.json")]
    wait_for(lambda: all(path.exists() for path in wanted), within_s, node.log_tail())
    made_s = time.monotonic()
    wait_for(lambda: whole(node, made_s), within_s, f"not whole: {node.cameras()}")
    machine.record("removed run folder", time.monotonic() - removed_s)
    wait_for(
        lambda: b'tridetr_frames_published_total{camera="street"}' in node.get("/metrics"),
        within_s,
        "no metrics",
    )
    # No process depends on removed files: one that starts now finds everything it needs.
    node.children()["detect"].kill()
    killed_s = time.monotonic()
    wait_for(lambda: whole(node, killed_s), within_s, node.log_tail())
    restarted = {name for name in node.children() if f"{name} shows no progress" in node.log_tail()}
    assert not restarted, node.log_tail()
