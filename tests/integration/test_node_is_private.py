"""Everything that a running node creates is private to its user, with the real server and a umask of 0."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import psutil
import pytest

from support.faults import STREET, whole_node
from support.node import Node
from support.proc import descriptors
from support.triton import SHM, running_triton, triton_config
from tridetr.paths import model_repository_dir
from tridetr.shm.names import CONSUMERS, RingName, list_instance, list_queues

NOBODY = 65534


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class Modes:
    """Records the widest mode that each of Triton's regions ever had, by polling as fast as possible."""

    def __init__(self, instance: str) -> None:
        self._pattern = f"tridetr-{instance}-triton-*"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: dict[str, int] = {}

    def __enter__(self) -> Modes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.001):
            for path in SHM.glob(self._pattern):
                with contextlib.suppress(FileNotFoundError):
                    mode = stat.S_IMODE(path.stat().st_mode)
                    self.seen[path.name] = self.seen.get(path.name, 0) | mode


def test_triton_regions_are_never_accessible_to_others(
    tmp_path: Path,
) -> None:
    """A file that is opened while it is empty can still be read when pictures are written."""
    model = model_repository_dir() / "rfdetr_ort" / "1" / "model.onnx"
    config = triton_config(tmp_path, model)
    with umask(0), Modes(config.instance) as modes, running_triton(config) as triton:
        before = triton.endpoint()
        triton.stub().kill()
        triton.endpoint(before.pid)
        (region,) = SHM.glob(f"tridetr-{config.instance}-triton-*")
        if os.geteuid() == 0 and shutil.which("setpriv"):
            line = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            read = subprocess.run([*line, "cat", region], capture_output=True, text=True)
            assert "Permission denied" in read.stderr
    assert len(modes.seen) >= 2, "one region before and one after the restart"
    assert set(modes.seen.values()) == {0o600}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose real server has returned a result for a camera."""
    with umask(0), core_dumps(), whole_node(tmp_path_factory.mktemp("node"), STREET) as (node, _):
        yield node


@contextlib.contextmanager
def core_dumps() -> Iterator[None]:
    """Turn core dumps on, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def open_to_others(path: Path) -> bool:
    """Return whether another user with access to the parent folder could use a file, folder or socket."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return False
    return bool(status.st_mode & 0o077) or status.st_uid != os.geteuid()


def test_shared_memory_is_private(node: Node) -> None:
    segments = list_instance(node.instance)
    kinds = [kind for kind in CONSUMERS if any(f"-{kind}-" in path.name for path in segments)]
    assert len(kinds) >= 4
    assert any("-triton-" in path.name for path in segments)
    assert not [path for path in segments if open_to_others(path)]


def test_wakeup_queues_are_private(node: Node) -> None:
    queues = {
        ring: {ring.queue(consumer) for consumer in CONSUMERS[kind]}
        for kind in CONSUMERS
        for ring in [RingName(node.instance, "street", kind)]
    }
    # Readers create their queues even without a ring: a synthetic camera has no packets.
    listed = set(list_queues(node.instance))
    assert listed <= set().union(*queues.values()), "queues that this test does not know"
    names = listed.union(*(queues[ring] for ring in queues if ring.generations()))
    modes = {}
    for name in names:
        queue = posix_ipc.MessageQueue(name)
        status = os.fstat(queue.mqd)
        modes[name] = stat.S_IMODE(status.st_mode)
        assert status.st_uid == os.geteuid()
        queue.close()
    assert len(modes) >= 4
    assert not {name for name, mode in modes.items() if mode & 0o077}


def test_a_crash_writes_no_pictures_to_disk(node: Node) -> None:
    limits = {
        name: child.rlimit(resource.RLIMIT_CORE)[0]
        for name, child in node.children().items()
        if "broker" not in name
    }
    assert limits
    assert set(limits.values()) <= {0, 1}, limits  # 0 only if the hard limit is


def test_no_picture_is_written_to_disk(node: Node) -> None:
    """Without `evidence`. Rows of the drawn street are searched for, and headers of JPEGs."""
    jpeg = re.compile(rb"\xff\xd8\xff[\xdb\xe0]")
    assert jpeg.match(node.get("/snapshot/street.jpg"))
    (ring,) = (path for path in list_instance(node.instance) if "-frames-" in path.name)
    pixels = ring.read_bytes()
    pieces = (pixels[at : at + 64] for at in range(len(pixels) // 8, len(pixels), 1000))
    row = next(piece for piece in pieces if len(set(piece)) > 16 and pixels.count(piece) > 1)
    assert node.process
    files = {p for key in ("run_dir", "state_dir") for p in Path(node.config[key]).rglob("*")}
    for pid in (node.process.pid, *(child.pid for child in node.children().values())):
        files |= held_by(pid)
    began = psutil.Process(node.process.pid).create_time()
    written = [
        path
        for path in files
        if path.is_file() and not path.is_relative_to(SHM) and path.stat().st_mtime >= began - 1
    ]
    assert len(written) >= 5
    for path in written:
        content = path.read_bytes()
        assert row not in content, path
        assert not jpeg.search(content), path


def test_the_memory_of_a_camera_is_limited(node: Node) -> None:
    (capture,) = (child for name, child in node.children().items() if name.startswith("capture"))
    assert 0 < capture.rlimit(resource.RLIMIT_DATA)[0] < 8 << 30


def test_folders_and_their_contents_are_private(node: Node) -> None:
    for key in ("run_dir", "state_dir"):
        folder = Path(node.config[key])
        assert not open_to_others(folder), key
        strangers = [path for path in folder.rglob("*") if path.lstat().st_uid != os.geteuid()]
        assert not strangers


def test_files_and_sockets_of_its_processes_are_private(node: Node) -> None:
    """The files are found through the processes, not through a list of known files."""
    assert node.process
    began = psutil.Process(node.process.pid).create_time()
    ours = [node.log, node.folder / "summary.json"]  # the output of this test
    closed = [Path(node.config[key]) for key in ("run_dir", "state_dir")]
    held: set[Path] = set()
    for pid in (node.process.pid, *(child.pid for child in node.children().values())):
        held |= held_by(pid)
    made = {path for path in held if path.exists() and path.stat().st_ctime >= began - 1}
    assert any(path.is_relative_to(SHM) for path in made)
    assert any(path.is_socket() for path in made)
    loose = {path for path in made if path not in ours and open_to_others(path)}
    assert not {p for p in loose if not any(p.is_relative_to(folder) for folder in closed)}


def held_by(pid: int) -> set[Path]:
    """Return the files that a process has open or mapped, and the named sockets that it listens on."""
    sockets = {
        words[6]: words[7]
        for words in map(str.split, Path("/proc/net/unix").read_text().splitlines()[1:])
        if len(words) == 8
    }
    held = set()
    for name in descriptors(pid):
        inode = name.removeprefix("socket:[").removesuffix("]")
        if inode != name and (bound := sockets.get(inode, "")):
            name = str(Path(f"/proc/{pid}/cwd").readlink() / bound)
        held.add(name)
    with contextlib.suppress(PermissionError):  # a broker that changed its user maps libraries only
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            held.update(line.split(None, 5)[5:])
    return {Path(name) for name in held if name.startswith("/") and not name.startswith("/dev/pts")}
